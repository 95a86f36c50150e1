"""The command of a run makes the same run again, and says nothing beside it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capcheck
from capcheck import check, survey
from capcheck.cli.app import cli
from capcheck.data import Layout, load_target
from capcheck.probes.length.gpt import GPT
from capcheck.runs.command import python_call, shell_command
from capcheck.runs.manifest import read_manifest
from capcheck.runs.store import Store
from capcheck.targets import ProductMixture, from_spec

HOW: dict[str, Any] = {"samples": 200, "steps": [1]}
ARGUMENTS = [
    "survey",
    "my rows.npy",
    "",
    "a'b",
    'x"$(touch pwned)`y`',
    "a\nb",
    "\\n'\u202e",
    "<script>alert(1)</script>",
    "naïve",
    os.fsdecode(b"\xff.npy"),
    "--tolerance=kl=0.1;mmd=2",
    "*",
]


def test_a_shell_reads_every_argument_back() -> None:
    command = shell_command(ARGUMENTS)
    assert command.isprintable()
    program = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    ran = subprocess.run(
        ["bash", "-c", f'capcheck() {{ python3 -c {shlex.quote(program)} "$@"; }}; {command}'],
        capture_output=True,
        check=True,
    )
    assert ran.stdout.split(b"\0") == [os.fsencode(one) for one in ARGUMENTS]


def test_plain_arguments_stay_as_they_were_written() -> None:
    written = ["check", "--family", "gpt", "--target", "modes:tokens=2", "--option", "window=2"]
    assert shell_command(written) == " ".join(["capcheck", *written])


@pytest.mark.parametrize("name", ["survey", "check"])
def test_a_run_at_the_shell_keeps_its_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPCHECK_SECRET", "hunter2")
    out = tmp_path / "a run"
    words = [name, "--family", "gpt", "--target", "modes:tokens=2", "--out", str(out)]
    cli.main([*words, "--start-only"], standalone_mode=False)
    assert read_manifest(out).command == shlex.join(["capcheck", *words, "--start-only"])
    assert "hunter2" not in (out / "manifest.json").read_text()


def test_a_call_in_python_makes_the_run_again(tmp_path: Path) -> None:
    target = from_spec("modes:tokens=2")
    first = survey(target, ["gpt"], tolerance={"kl": 0.1}, **HOW)
    assert first.command == (
        "capcheck.survey(target=capcheck.targets.from_spec('modes:tokens=2'), families=['gpt'], "
        "tolerance={'kl': 0.1}, samples=200, steps=[1])"
    )
    again = eval(first.command, {"capcheck": capcheck})
    assert again.to_dict() == first.to_dict()
    assert again.command == first.command
    one = check("gpt", target, out=tmp_path / "x", **HOW)
    assert one.survey.command is not None
    assert one.survey.command.startswith("capcheck.check(target=capcheck.targets.from_spec(")
    assert f"out={str(tmp_path / 'x')!r}" in one.survey.command
    assert Store.open(tmp_path / "x").result().command == one.survey.command
    assert "command" not in one.to_dict()


def test_a_call_on_data_names_file_layout_and_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "it's \u202e\n.npy"
    np.save(tmp_path / name, np.random.default_rng(0).normal(size=(40, 4)))
    target = load_target(str(tmp_path / name), Layout(tokens=2, token_dim=2), law="gaussian")
    text = python_call("survey", target, ("families", None), {})
    assert text == (
        r"""capcheck.survey(target=capcheck.data.load_target("it's \u202e\n.npy", """
        "capcheck.data.Layout(tokens=2, token_dim=2), law='gaussian'))"
    )
    again = eval(text.removeprefix("capcheck.survey(target=")[:-1], {"capcheck": capcheck})
    assert again.fingerprint == target.fingerprint


def test_what_is_no_plain_value_has_no_command(three: ProductMixture) -> None:
    target = from_spec("modes:tokens=2")
    assert python_call("survey", three, ("families", ["gpt"]), {}) is None  # made by a program
    assert python_call("survey", target, ("families", [GPT()]), {}) is None
    assert python_call("check", target, ("family", "gpt"), {"network": print}) is None
    assert python_call("check", target, ("family", "gpt"), {"options": {"window": print}}) is None
    steps = iter([1, 2])
    assert python_call("check", target, ("family", "gpt"), {"steps": steps}) is None
    assert list(steps) == [1, 2]  # and they are not read
    assert python_call("check", 3, ("family", "gpt"), {}) is None  # type: ignore[arg-type]
    told = python_call("check", target, ("family", "gpt"), {"progress": print, "seed": 4})
    assert told is not None
    assert told.endswith("family='gpt', seed=4)")
    odd = {"lengths": (1,), "tolerance": {"kl": float("inf")}, "steps": range(1, 3)}
    written = python_call("check", target, ("family", "gpt"), odd)
    assert written is not None
    assert written.endswith("lengths=(1,), tolerance={'kl': float('inf')}, steps=range(1, 3))")


def test_the_command_is_that_of_the_last_run_in_a_folder(
    three: ProductMixture, tmp_path: Path
) -> None:
    target = from_spec("modes:tokens=2")
    first = survey(target, ["gpt"], out=tmp_path, **HOW)
    survey(target, [GPT()], out=tmp_path, **HOW)  # the same run, by an object
    assert Store.open(tmp_path).result().command == first.command
    survey(target, ["gpt"], out=tmp_path, sensitivity=0.1, **HOW)
    assert "sensitivity=0.1" in (Store.open(tmp_path).result().command or "")
    survey(target, [GPT()], out=tmp_path, sensitivity=0.3, **HOW)
    assert Store.open(tmp_path).result().command is None  # none is known that measures this
