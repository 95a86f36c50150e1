"""Specs: what stands in them is checked, and an error names file, line and field."""

from __future__ import annotations

import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capcheck import InputError
from capcheck.pipeline.spec import CapacitySpec, read_spec, schema
from capcheck.pipeline.starter import starter

GOOD = """\
[defaults]
samples = 400
tolerance = { kl = 0.02 }

[targets.parity]
spec = "parity:6"

[[checks]]
name = "left-to-right"
target = "parity"
family = "gpt"
steps = [1]
samples = 500

[[checks]]
name = "window"
target = "parity"
family = "gpt"
options = { window = 2 }

[checks.expect]
outcome = "not_representable"
"""


def spec(tmp_path: Path, text: str) -> CapacitySpec:
    path = tmp_path / "capacity.toml"
    path.write_text(text)
    return read_spec(path)


def test_a_check_has_its_own_settings_before_the_defaults(tmp_path: Path) -> None:
    read = spec(tmp_path, GOOD)
    first, second = (read.settings(check) for check in read.checks)
    assert first == {"samples": 500, "steps": (1,), "tolerance": {"kl": 0.02}}
    assert second == {"samples": 400, "tolerance": {"kl": 0.02}}
    assert read.checks[1].expect.outcome == "not_representable"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[defaults]", "[default]", ":1: default: there is no such field; did you mean 'defaults'"),
        ("samples = 400", "sample = 400", ":2: defaults.sample: there is no such field"),
        ("samples = 400", 'samples = "many"', ":2: defaults.samples: it must be a valid integer"),
        ("kl = 0.02", "kl = {}", ":3: defaults.tolerance.kl: it must be a valid number"),
        ('spec = "parity:6"', "", ":5: targets.parity: a target must have one of data and spec"),
        ('target = "parity"', 'target = "party"', ":10: checks[0].target: there is no target"),
        ('family = "gpt"', "", ":8: checks[0]: a check must have one of family and sampler"),
        ('"window"', '"left-to-right"', ":16: checks[1].name: two checks are named"),
        ('"window"', '"../up"', ":16: checks[1].name: a name must be letters"),
        ('"not_representable"', '"no"', ":22: checks[1].expect.outcome: it must be"),
        ("outcome =", "outcom =", ":22: checks[1].expect.outcom: there is no such field; did you"),
        ("steps = [1]", "steps = [1.5]", ":12: checks[0].steps[0]: it must be a valid integer"),
        ("steps = [1]", "steps = [1", "it is no TOML"),
        ('name = "window"', "", ":15: checks[1].name: it is missing"),
        ("options = {", "config = { a = 1 }\noptions = {", "has options and no config"),
    ],
    ids=range(15),
)
def test_an_error_names_file_line_and_field(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        spec(tmp_path, GOOD.replace(old, new, 1))
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "capacity.toml"))
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize("hostile", [b"\xff\xfe", b"\0", b"a" * (1 << 21), b"[[[["])
def test_a_file_that_is_no_spec_is_one_sentence(hostile: bytes, tmp_path: Path) -> None:
    path = tmp_path / "capacity.toml"
    path.write_bytes(hostile)
    with pytest.raises(InputError) as caught:
        read_spec(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="capcheck init"):
        read_spec(tmp_path / "capacity.toml")


def test_the_schema_describes_a_spec() -> None:
    described = json.loads(json.dumps(schema()))
    assert set(described["properties"]) == {"defaults", "targets", "checks"}
    assert described["additionalProperties"] is False
    assert "family" in described["$defs"]["CheckSpec"]["properties"]


@pytest.mark.parametrize(
    "data",
    [
        "digits",
        "patches",
        "text",
        np.zeros((9, 8)),
        np.zeros((9, 8, 2)),
        np.zeros((9, 4, 4, 1)),
        np.zeros((9, 8), dtype=np.int64),
    ],
    ids=["digits", "patches", "text", "flat", "tokens", "images", "ids"],
)
def test_a_starter_is_a_spec(data: Any, tmp_path: Path) -> None:
    if not isinstance(data, str):
        np.save(tmp_path / "my data.v2.npy", data)
        data = str(tmp_path / "my data.v2.npy")
    text = starter(data, tmp_path / "capacity.toml")
    assert len(spec(tmp_path, text).checks) == 2
    own, mark, sampler = text.partition("# [[checks]]")  # every commented field is one, too
    lines = [
        line.removeprefix("# ") if " = " in line else line
        for part in (own, mark + sampler)
        for line in part.splitlines()
    ]
    whole = "\n".join(lines).replace("# [[checks]]", "[[checks]]")
    assert len(spec(tmp_path, whole).checks) == 3
    tomllib.loads(whole)


TABLES = ["[targets]\n", "[[checks]]\n", "[checks.expect]\n", "[[targets]]\n"]
VALUES = ["0", "-1", "1e999", "nan", '""', '"x\\u0000y"', "[]", "{}", "[[1]]", "true", "1979-05-27"]
KEYS = ["samples", "spec", "name", "expect", "family", "steps", "options", "kl", '"a.b"', "config"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(GOOD)),
            st.integers(0, 30),
            st.one_of(
                st.text(max_size=8),
                st.builds("{} = {}\n".format, st.sampled_from(KEYS), st.sampled_from(VALUES)),
                st.sampled_from(
                    ["[targets]\n", "[[checks]]\n", "[checks.expect]\n", "[[targets]]\n"]
                ),
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_stands_in_a_spec_it_is_one_or_one_sentence(
    cuts: list[tuple[int, int, str]],
) -> None:
    text = GOOD
    for place, length, inserted in cuts:
        text = text[:place] + inserted + text[place + length :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capacity.toml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            assert read_spec(path).checks
        except InputError as error:
            message = str(error)
            assert "\n" not in message
            assert "capacity.toml" in message
