"""The command `capcheck reproduce`, and what it ends with."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from capcheck.core.errors import InputError
from capcheck.published import SOURCES, Claim, blockwise_decoding, reproduce, sources

NAME = "blockwise-decoding"
FIXED = {"source": NAME, "place": "table 1", "by": "check('blockwise')"}
MATCHED = Claim(quantity="a", printed="1.53", value=1.5306, **FIXED)  # type: ignore[arg-type]
TIED = dataclasses.replace(
    MATCHED, quantity="b|c", printed="0.5", value=0.0, reason="ties", instead=0.5
)
WRONG = dataclasses.replace(MATCHED, quantity="d", printed="1.54")

Run = Callable[..., Any]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the source have these numbers."""

    def put(*claims: Claim) -> None:
        def listed() -> Iterator[Claim]:
            yield from claims

        monkeypatch.setattr(blockwise_decoding, "claims", listed)

    return put


def test_matched_and_explained_numbers_end_with_0(run: Run, found: Callable[..., None]) -> None:
    found(MATCHED, TIED)
    ended = run("reproduce", NAME)
    assert ended.code == 0
    assert "2 published numbers: 1 matched, 1 explained." in ended.out
    assert "b|c: ties it is 0.50." in ended.out
    assert SOURCES[NAME].link in ended.out
    assert max(map(len, ended.out.splitlines())) <= 88
    assert f"{NAME}: 1 matched, 1 explained of 2" in ended.err


def test_a_contradicted_digit_ends_with_1(run: Run, found: Callable[..., None]) -> None:
    found(MATCHED, WRONG)
    ended = run("reproduce", NAME)
    assert ended.code == 1
    assert "1 matched, 1 contradicted" in ended.out
    assert "✗" in ended.out


def test_a_missing_package_ends_with_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = dataclasses.replace(SOURCES[NAME], package="no_such_package", extra="diffusers")
    monkeypatch.setitem(sources.SOURCES, NAME, bare)
    ended = run("reproduce", NAME)
    assert ended.code == 3
    assert "unavailable, needs no_such_package: pip install 'capcheck[diffusers]'" in ended.err
    (claim,) = reproduce([NAME])
    assert (claim.status, claim.value) == ("unavailable", None)


def test_json_holds_every_number_and_nothing_else(run: Run, found: Callable[..., None]) -> None:
    found(MATCHED, TIED, WRONG)
    ended = run("reproduce", NAME, "--json")
    assert ended.code == 1
    rows = json.loads(ended.out)
    assert [row["status"] for row in rows] == ["matched", "explained", "contradicted"]
    assert (rows[0]["printed"], rows[0]["value"], rows[0]["low"]) == ("1.53", 1.5306, None)


def test_markdown_goes_to_a_file_or_to_standard_output(
    run: Run, found: Callable[..., None], tmp_path: Path
) -> None:
    found(MATCHED, TIED)
    file = tmp_path / "published.md"
    assert run("reproduce", NAME, "--markdown", str(file)).code == 0
    ended = run("reproduce", NAME, "--markdown", "-")
    assert file.read_text(encoding="utf-8") == ended.out
    assert "| ✓ | table 1 | a | 1.53 | 1.531 | `check('blockwise')` |" in ended.out
    assert r"| ≠ | table 1 | b\|c | 0.5 | 0.00 |" in ended.out


def test_wrong_use_ends_with_2(run: Run) -> None:
    ended = run("reproduce", "parallelbenhc")
    assert ended.code == 2
    assert "there is no source 'parallelbenhc'; did you mean 'parallelbench'?" in ended.err
    assert run("reproduce", NAME, "--json", "--markdown", "-").code == 2


def test_python_refuses_an_unknown_source_and_takes_one_name() -> None:
    with pytest.raises(InputError, match="did you mean 'ppca'"):
        reproduce(["pca"])
    told: list[str] = []
    rows = reproduce("ppca", progress=told.append)
    assert {claim.source for claim in rows} == {"ppca"}
    assert told == [f"ppca: {len(rows)} matched of {len(rows)}"]


def test_the_list_names_all_sources_and_does_not_load_torch() -> None:
    code = (
        "import sys; from capcheck.published import SOURCES\n"
        "assert 'torch' not in sys.modules; print(*SOURCES)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == list(SOURCES)


def test_the_list_is_printed(run: Run) -> None:
    ended = run("reproduce", "--list")
    assert ended.code in (None, 0)
    assert all(source.link in ended.out for source in SOURCES.values())
