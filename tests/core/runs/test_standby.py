"""Processes that stand by for a run: when they are started, and that they never outlive it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from folders import sorted_cells
from processes import group_size, lives

from capcheck.cli import app
from capcheck.runs import standby

BEGIN = """
import os, sys, time
from capcheck.runs import standby
assert "torch" not in sys.modules
standby.begin(1)
own = standby.take()
print(own.submit(os.getpid).result(), flush=True)
print(own.submit(eval, "'torch' in __import__('sys').modules").result(), flush=True)
"""


@contextlib.contextmanager
def begun(rest: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with another one standing by, and the number of the latter."""
    command = [sys.executable, "-c", BEGIN + rest]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process.stdout.readline() == "True\n"  # it has loaded what takes long
        yield process, pid


def surveyed(data: str, *options: str) -> subprocess.Popen[str]:
    """A survey with a process for every core, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "capcheck", "survey", "--data", data, *options],
        env=on_all_cores(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def on_all_cores() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "CAPCHECK_WORKERS"}


def eventually(condition: Callable[[], bool], *, wait: float = 0.1) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not condition():
        time.sleep(wait)
    return condition()


@pytest.mark.slow
def test_a_process_that_stands_by_ends_with_a_killed_owner() -> None:
    with begun("time.sleep(600)") as (process, pid):
        assert lives(pid)
        os.kill(process.pid, signal.SIGKILL)
    assert eventually(lambda: not lives(pid))


@pytest.mark.slow
def test_a_process_that_is_not_taken_is_ended() -> None:
    with begun("standby._waiting.append(own)\nstandby.end()\ntime.sleep(600)") as (process, pid):
        assert eventually(lambda: not lives(pid))
        assert process.poll() is None
        process.kill()


def test_a_machine_that_can_start_no_process_has_none_standing_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        def submit(self, *_: object) -> None:
            raise PermissionError("no semaphores here")

        def shutdown(self, **_: object) -> None:
            pass

    monkeypatch.setattr(standby, "_executor", Broken)
    standby.begin(2)
    assert standby.ready() == 0


@pytest.mark.slow
def test_a_command_that_fails_leaves_no_process_behind(tmp_path: Path) -> None:
    with surveyed(str(tmp_path / "missing.npy")) as process:
        error = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert eventually(lambda: group_size(process.pid) == 0)


@pytest.mark.slow
def test_an_interrupt_while_processes_start_is_one_sentence(tmp_path: Path) -> None:
    with surveyed("digits", "--out", str(tmp_path / "run")) as process:
        if standby.cores() > 1:
            assert eventually(lambda: group_size(process.pid) > 1, wait=0.001)
        else:
            time.sleep(2)
        os.killpg(process.pid, signal.SIGINT)
        try:
            error = process.communicate(timeout=10)[1]
        except subprocess.TimeoutExpired:  # it is not heard while a process is made
            os.killpg(process.pid, signal.SIGINT)
            error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.endswith("error: interrupted; the same command continues a run kept with --out.\n")
    assert eventually(lambda: group_size(process.pid) == 0)


@pytest.mark.slow
def test_a_survey_with_processes_that_stand_by_has_the_cells_of_one_without(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "capcheck", "survey", "--target", "modes:tokens=4,modes=3"]
    command += ["--family", "gpt,maskgit,diffusion", "--samples", "500", "--out"]
    one = on_all_cores() | {"CAPCHECK_WORKERS": "1"}
    for name, environment in (("many", on_all_cores()), ("one", one)):
        folder = str(tmp_path / name)
        subprocess.run([*command, folder], env=environment, check=True, capture_output=True)
    assert sorted_cells(tmp_path / "many") == sorted_cells(tmp_path / "one")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["survey", "--data", "digits"], True),
        (["survey", "--quick"], True),
        (["survey", "--help"], False),
        (["survey", "--workers", "1"], False),
        (["survey", "--workers=4"], False),
        (["survey", "--start-only"], False),
        (["check", "--family", "gpt"], False),
        (["--debug", "survey"], False),
        ([], False),
    ],
)
def test_only_a_survey_on_every_core_has_processes_standing_by(
    arguments: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CAPCHECK_WORKERS")
    monkeypatch.setattr(app, "NVIDIA", tmp_path / "none")
    assert app._needs_helpers(arguments) is expected
    monkeypatch.setattr(app, "NVIDIA", tmp_path)  # with a GPU they are as many as GPUs
    assert not app._needs_helpers(arguments)


def test_few_processes_stand_by_however_many_cores_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    class Counted:
        def submit(self, *_: object) -> None:
            made.append(self)

        def shutdown(self, **_: object) -> None:
            made.remove(self)

    monkeypatch.setattr(standby, "_executor", Counted)
    standby.begin(63)
    assert standby.ready() == len(made) == standby.MOST
    standby.end()
    assert standby.ready() == len(made) == 0
