"""Files and lines that are written whole, by one process or by many at the same time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from capcheck.core.errors import InputError
from capcheck.runs.atomic import append_line, create_atomically, write_atomically

PROCESSES, LINES = 4, 40

CREATING = """
import sys, pathlib
from capcheck.runs.atomic import create_atomically
sys.stdin.readline()
print(create_atomically(pathlib.Path(sys.argv[1]), sys.argv[2] * 50_000))
"""
APPENDING = f"""
import sys, pathlib
from capcheck.runs.atomic import append_line
sys.stdin.readline()
for _ in range({LINES}):
    append_line(pathlib.Path(sys.argv[1]), sys.argv[2].encode() * 20_000)
"""


def at_once(code: str, path: Path) -> list[str]:
    """What several processes print that run the code at the same time, each with a letter."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), "abcdefgh"[i]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(PROCESSES)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate()[0].strip() for process in started]
    assert [process.returncode for process in started] == [0] * PROCESSES
    return told


def test_one_of_many_processes_creates_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new"
    told = at_once(CREATING, path)
    assert sorted(told) == ["False"] * (PROCESSES - 1) + ["True"]
    assert path.read_text() == "abcdefgh"[told.index("True")] * 50_000
    assert list(tmp_path.iterdir()) == [path]


def test_lines_of_many_processes_do_not_mix(tmp_path: Path) -> None:
    at_once(APPENDING, tmp_path / "lines")
    lines = (tmp_path / "lines").read_text().splitlines()
    assert sorted(lines) == sorted(
        letter * 20_000 for letter in "abcdefgh"[:PROCESSES] for _ in range(LINES)
    )


def test_half_a_line_is_ended_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"whole\nhal")
    append_line(path, b"next")
    append_line(path, b"last")
    assert path.read_bytes() == b"whole\nhal\nnext\nlast\n"


def test_a_file_is_created_without_links_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links on this file system")

    monkeypatch.setattr("capcheck.runs.atomic.os.link", link)
    assert create_atomically(tmp_path / "new", "mine")
    assert not create_atomically(tmp_path / "new", "other")
    assert (tmp_path / "new").read_text() == "mine"


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_atomically(tmp_path / "page", "old")

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("capcheck.runs.atomic.os.fsync", fsync)
    with pytest.raises(InputError, match="No space left on device; free space there and run"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_lets_nothing_be_removed_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(InputError, match="Read-only file system; make it writable"):
        write_atomically(tmp_path / "page", "new")
