"""The facts that a list of families reads from source are those of the classes."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from capcheck.procedures import listing, registry
from capcheck.procedures.listing import listed_families
from capcheck.procedures.registry import families, probe_class


def test_the_facts_are_those_of_the_classes() -> None:
    facts = {one.family: one for one in listed_families()}
    assert list(facts) == families()
    for family, one in facts.items():
        probe = probe_class(family)
        assert (one.row, one.in_paper, one.kinds) == (probe.row, probe.in_paper, probe.kinds)
        assert one.summary == (probe.__doc__ or "").splitlines()[0]
        assert one.kl


SOURCE = '''"""A family of another package.

KL: unknown.
"""

from typing import ClassVar

from {module} import {base}

KINDS = frozenset({{"continuous"}})


class Other({base}):
    """Does something else."""

    family: ClassVar[str] = "other"
    {line}
'''


@pytest.mark.parametrize(
    ("line", "loaded"),
    [
        ('kinds: ClassVar[frozenset[str]] = frozenset({"categorical"})', False),
        ("kinds: ClassVar[frozenset[str]] = KINDS", True),
        ("in_paper: ClassVar[bool] = False", False),
        ("in_paper = False", False),
        ("in_paper = bool(0)", True),
    ],
)
def test_a_class_that_computes_a_fact_is_loaded(
    line: str, loaded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "capcheck.probes.length.maskgit"
    source = SOURCE.format(module=module, base="MaskGIT", line=line)
    (tmp_path / "another_family.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("other", "another_family:Other", "capcheck.families")
    for module_of in (listing, registry):
        monkeypatch.setattr(module_of, "declared", lambda group: {"other": entry})
    listing._source.cache_clear()
    registry.probe_class.cache_clear()
    sys.modules.pop("another_family", None)
    (one,) = listed_families()
    assert ("another_family" in sys.modules) is loaded
    sys.modules.pop("another_family", None)
    registry.probe_class.cache_clear()
    assert (one.row, one.summary, one.kl) == ("length", "Does something else.", "unknown.")
    both = {"continuous", "categorical"}
    stated = {"continuous"} if "KINDS" in line else {"categorical"}
    assert one.kinds == (stated if "kinds" in line else both)
    assert one.in_paper is ("in_paper" not in line)
