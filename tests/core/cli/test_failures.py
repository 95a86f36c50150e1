"""Signals, closed pipes, full disks and missing packages: one sentence and an exit code each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capcheck.cli.app import main
from capcheck.cli.failures import CLOSED_PIPE, MISSING, stoppable
from capcheck.runs.store import Store
from capcheck.runs.sweep import Sweep

SMALL = ["--target", "modes:tokens=3", "--samples", "200", "--steps", "1,2", "--length", "0,3"]
CHECK = ["check", "--family", "gpt", *SMALL, "--workers", "1"]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


# Signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_a_run_that_goes_on(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    measured = Sweep.measure

    def measure(self: Sweep, budgets: Any) -> Iterator[Any]:
        for count, cell in enumerate(measured(self, budgets)):
            if count == 1:
                os.kill(os.getpid(), number)
            yield cell

    with monkeypatch.context() as patch:
        patch.setattr(Sweep, "measure", measure)
        stopped = run(*CHECK, "--out", str(tmp_path / "run"))
    assert stopped.code == 128 + number
    (said,) = [line for line in stopped.err.splitlines() if line.startswith("error:")]
    assert said.endswith("; the same command continues a run kept with --out.")
    assert (number.name in said) or number == signal.SIGINT
    before = (tmp_path / "run" / "cells.jsonl").read_bytes()
    assert run(*CHECK, "--out", str(tmp_path / "run")).code == 0
    assert (tmp_path / "run" / "cells.jsonl").read_bytes().startswith(before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_set_while_a_command_runs_only(run) -> None:  # type: ignore[no-untyped-def]
    before = [signal.getsignal(number) for number in SIGNALS]
    run("families")
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.slow
def test_a_signal_ends_the_workers_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["survey", "--target", "modes:tokens=6,modes=3", "--samples", "2000", "--workers"]
    command += ["2", "--family", "gpt,maskgit,diffusion,ar_diffusion", "--length", "0,3,6"]
    process = subprocess.Popen(
        [sys.executable, "-m", "capcheck", *command, "--out", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    helpers: list[Path] = []
    while time.monotonic() < deadline and process.poll() is None and not helpers:
        helpers = [path for path in folder.glob("cells-*.jsonl") if path.stat().st_size]
        time.sleep(0.02)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 128 + signal.SIGTERM
    assert (
        said[-1] == "error: stopped by SIGTERM; the same command continues a run kept with --out."
    )
    helper = int(helpers[0].stem.split("-")[-2])
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _lives(helper):
        time.sleep(0.1)
    assert not _lives(helper)
    assert Store.open(folder)
    assert list((folder / "claims").iterdir()) == [] or _all_void(folder)


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False


def _all_void(folder: Path) -> bool:
    """Whether no process lives that a claim of the run belongs to."""
    claims = [path for path in (folder / "claims").iterdir() if path.suffix[1:].isdecimal()]
    return not any(_lives(json.loads(path.read_text())["pid"]) for path in claims)


# Output that cannot be written


def closed_pipe() -> int:
    """The end of a pipe for writing, whose reader has closed it."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_a_closed_pipe_has_an_exit_code_of_its_own() -> None:
    writer = closed_pipe()
    done = subprocess.run(
        [sys.executable, "-m", "capcheck", "families"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (CLOSED_PIPE, b"")


def test_a_verdict_does_not_depend_on_who_reads_the_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["capcheck", *CHECK])
    with os.fdopen(closed_pipe(), "w") as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        with pytest.raises(SystemExit) as caught:
            main()
    assert caught.value.code == 0
    assert "representable" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_table_that_a_full_disk_does_not_take_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "capcheck", "families"], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: output cannot be written: No space left on device;")


def test_a_report_in_a_folder_that_cannot_be_written_is_told(  # type: ignore[no-untyped-def]
    run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert run(*CHECK, "--out", str(folder)).code == 0
    (tmp_path / "file").write_text("mine")
    told = run("report", str(folder), "--out", str(tmp_path / "file" / "page.html"))
    assert told.code == 2
    assert "cannot be written" in told.err
    assert len(told.err.splitlines()) == 1


# Packages that cannot be imported


@pytest.mark.parametrize("package", ["click", "rich", "torch", "pydantic"])
def test_a_missing_package_has_an_exit_code_of_its_own(package: str) -> None:
    code = (
        "import sys; sys.modules[sys.argv.pop(1)] = None\nfrom capcheck.cli.app import main\nmain()"
    )
    command = [sys.executable, "-c", code, package, "check", "--family", "gpt", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == MISSING
    assert done.stderr.startswith("error: ")
    assert package in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Seeds


def test_the_largest_seed_fits_networks_as_well(run) -> None:  # type: ignore[no-untyped-def]
    few = ["--target", "modes:tokens=2", "--samples", "200", "--steps", "1", "--length", "2"]
    seeded = ["--seed", str(2**63 - 1), "--network", "mlp:width=4", "--fit-steps", "5"]
    found = run("check", "--family", "diffusion", *few, *seeded, "--json")
    assert found.code in (0, 1, 3)
    assert json.loads(found.out)["settings"]["seed"] == 2**63 - 1


@pytest.mark.parametrize("option", ["--family", "--steps", "--length"])
def test_an_option_that_is_given_twice_is_refused(run, option: str) -> None:  # type: ignore[no-untyped-def]
    values = {"--family": ("gpt", "maskgit"), "--steps": ("1", "2"), "--length": ("0", "2")}[option]
    given = [f"{option}={values[0]}", option, values[1]]
    found = run("survey", "--target", "parity:3", *given)
    assert found.code == 2
    assert f"{option} is given 2 times; give it once, with commas" in found.err
