from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from capcheck.cli import main

SMALL = ["--target", "modes:tokens=3", "--samples", "200", "--steps", "1,2"]


class Ran(NamedTuple):
    code: int | None
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["capcheck", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Ran(caught.value.code, captured.out, captured.err)  # type: ignore[arg-type]

    return call


def test_families_are_listed_and_explained(run) -> None:  # type: ignore[no-untyped-def]
    listed = run("families")
    assert listed.code in (0, None)
    assert all(name in listed.out for name in ("gpt", "maskgit", "diffusion"))
    card = run("families", "maskgit")
    assert "Chang et al. 2022" in card.out
    assert "--option order=random" in card.out


def test_json_is_all_that_standard_output_holds(run) -> None:  # type: ignore[no-untyped-def]
    found = run("check", "--family", "gpt", *SMALL, "--length", "0,3", "--json")
    result = json.loads(found.out)
    assert found.code == 0
    assert result["outcome"] == "representable"
    assert result["smallest_budget"] == {"length": 3, "steps": 1}
    assert [cell["budget"]["length"] for cell in result["cells"]] == [0, 0, 3, 3]
    assert "[4/4]" in found.err
    surveyed = run("survey", *SMALL, "--json")
    names = [found["family"] for found in json.loads(surveyed.out)["families"]]
    assert names == ["gpt", "maskgit", "diffusion"]


def test_exit_codes_tell_the_verdict(run) -> None:  # type: ignore[no-untyped-def]
    assert run("check", "--family", "gpt", *SMALL).code == 0
    assert run("check", "--family", "gpt", *SMALL, "--length", "0").code == 1
    undecided = ["--family", "diffusion", *SMALL[:4], "--steps", "64", "--length", "3"]
    assert run("check", *undecided).code == 3
    assert run("survey", *SMALL).code == 0
    assert run("survey", *SMALL, "--strict").code == 1
    assert run("survey", *SMALL, "--strict", "--family", "gpt").code == 0


def test_options_reach_the_probe(run) -> None:  # type: ignore[no-untyped-def]
    found = run(
        "check", "--family", "maskgit", *SMALL, "--option", "order=fixed",
        "--option", "tokens-per-round=1", "--json",
    )  # fmt: skip
    assert json.loads(found.out)["options"]["order"] == "fixed"
    assert json.loads(found.out)["options"]["tokens_per_round"] == 1
    assert found.code == 0


def test_a_saved_run_can_be_reported_again(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "a run <b>&'\"; $(x)"
    assert run("survey", *SMALL, "--out", str(folder)).code == 0
    assert {p.name for p in folder.iterdir()} == {"manifest.json", "cells.jsonl", "report.html"}
    first = (folder / "report.html").read_text()
    misplaced = run("report", str(folder), "--out", str(tmp_path))
    assert misplaced.code == 2
    assert "it is a folder" in misplaced.err
    (folder / "report.html").unlink()
    assert run("report", str(folder)).code in (0, None)
    assert (folder / "report.html").read_text() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--family", "gtp", *SMALL], "did you mean 'gpt'"),
        (["check", "--family", "gpt", *SMALL, "--steps", "0"], "at least 1, got 0"),
        (["check", "--family", "gpt", *SMALL, "--length", "9"], "at most 3, got 9"),
        (["check", "--family", "gpt", *SMALL, "--length", "a"], "whole numbers"),
        (["check", "--family", "gpt", *SMALL, "--tolerance", "kl"], "key=value"),
        (["check", "--family", "gpt", *SMALL, "--tolerance", "kl=x"], "must give numbers"),
        (
            ["check", "--family", "gpt", *SMALL, "--tolerance", "kl=1,kl=2"],
            "twice",
        ),
        (["check", "--family", "gpt", *SMALL, *2 * ["--option", "window=1"]], "twice"),
        (["check", "--family", "gpt", *SMALL, "--divergence", ""], "divergence ''"),
        (["check", "--family", "gpt", *SMALL, "--option", "windw=2"], "did you mean 'window'"),
        (["check", "--family", "gpt", *SMALL, "--data", "digits"], "got both"),
        (["check", "--family", "gpt"], "got neither"),
        (["check", *SMALL], "--family"),
        (["check", "--family", "gpt", *SMALL, "--tokens", "4"], "lay out --data"),
        (["check", "--family", "gpt", "--data", "none.npy"], "does not exist"),
        (["check", "--family", "gpt", "--data", "digits", "--grid", "8"], "ROWSxCOLUMNS"),
        (["check", "--family", "gpt", "--data", "digits", "--tokens", "0"], "--tokens"),
        (["check", "--famly", "gpt"], "--family"),
        (["chek"], "chek"),
        (["report", "nowhere"], "has no manifest.json"),
        (["survey", *SMALL, "--family", "gpt,gtp"], "did you mean 'gpt'"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_two(run, arguments, message) -> None:  # type: ignore[no-untyped-def]
    found = run(*arguments)
    assert found.code == 2
    assert found.out == ""
    assert message in found.err
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert "Traceback" not in found.err


def test_an_internal_failure_is_told_and_coded(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("capcheck.probes.length.gpt.GPT.run", broken)
    failed = run("check", "--family", "gpt", *SMALL)
    assert failed.code == 4
    assert "ZeroDivisionError: oops" in failed.err
    surveyed = run("survey", *SMALL)
    assert surveyed.code == 4
    assert "not measured" in surveyed.out
    assert "diffusion" in surveyed.out


def test_nan_in_the_data_is_refused_from_the_shell(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.0, np.nan], [0.0, 1.0]]))
    command = [sys.executable, "-m", "capcheck", "survey", "--data", str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "NaN or infinity in 1 of 2 rows" in done.stderr
    assert done.stdout == ""
