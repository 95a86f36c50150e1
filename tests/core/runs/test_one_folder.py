"""Commands that are started in one new folder at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from folders import sorted_cells

from capcheck.runs.store import Store

COMMAND = ["check", "--family", "gpt", "--target", "modes:tokens=3", "--samples", "200"]
COMMAND += ["--steps", "1", "--length", "0,3", "--workers", "1", "--json"]


def at_once(folder: Path, *seeds: int) -> list[tuple[int, str, str]]:
    """The exit codes of checks in one folder with some seeds, and what they print."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "capcheck", *COMMAND, "--seed", str(seed), "--out", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in seeds
    ]
    told = [process.communicate() for process in started]
    return [(one.returncode, *said) for one, said in zip(started, told, strict=True)]


@pytest.mark.slow
def test_of_two_runs_one_has_the_folder_and_one_is_refused(tmp_path: Path) -> None:
    ended = at_once(tmp_path / "run", 0, 1)
    assert sorted(code for code, _, _ in ended) == [0, 2]
    (refused,) = [errors for code, _, errors in ended if code == 2]
    assert "holds another run: its settings.seed is" in refused
    held = Store.open(tmp_path / "run")
    assert held.manifest.settings.seed == [code for code, _, _ in ended].index(0)
    assert len(sorted_cells(tmp_path / "run")) == 2


@pytest.mark.slow
def test_two_equal_commands_make_one_run(tmp_path: Path) -> None:
    (first, second) = at_once(tmp_path / "run", 0, 0)
    assert (first[0], second[0]) == (0, 0)
    assert first[1] == second[1]
    assert len(sorted_cells(tmp_path / "run")) == 2
