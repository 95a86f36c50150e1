"""Files that are written whole or not at all, and lines that are appended whole.

A file is written under a temporary name and then renamed, so that readers see all of it or none. A
line is appended under a lock on its file. Half a line that a killed process or a full disk left
behind is ended first, and readers skip it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from capcheck.core.errors import InputError, cure_of

if sys.platform != "win32":
    import fcntl

__all__ = ["PARTIAL", "append_line", "create_atomically", "require_name", "write_atomically"]

PARTIAL = ".*.partial"  # pattern of files left behind by a process killed while writing


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file atomically, text as UTF-8, and return its path.

    Readers see all of it or none.

    Raises:
        InputError: The file cannot be written.
    """
    require_name(path, "a file must be given a name, got")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with _partial(path, content) as partial:
            partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be written: {error.strerror}; {cure_of(error)}, or "
            "write elsewhere."
        ) from error
    return path


def create_atomically(path: Path, text: str) -> bool:
    """Write a file unless there is one; whether it was written.

    Of several processes that create one file at the same time, one writes it.

    Raises:
        OSError: The file cannot be written.
    """
    with _partial(path, text) as partial:
        try:
            # Neither replaces a file. Windows has no other way on its older file systems.
            (os.rename if sys.platform == "win32" else os.link)(partial, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_in_place(path, text)
    return True


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def _create_in_place(path: Path, text: str) -> bool:
    """Write a file unless there is one, on a file system without links; readers may see half."""
    try:
        with path.open("xb") as file:
            _write(file, text.encode("utf-8"))
    except FileExistsError:
        return False
    except OSError:
        _discard(path)  # this process created it
        raise
    return True


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file; it is on disk when this function returns.

    Args:
        path: File of the lines, which is created if it is not there.
        line: The line, without its end.

    Raises:
        OSError: The line cannot be written, or only a part of it.
    """
    with path.open("ab+", buffering=0) as file:
        _lock(file)
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[file.write(rest) or 0 :]
        os.fsync(file.fileno())


def require_name(path: Path, rule: str) -> None:
    """Raise InputError if the path holds a NUL character, which no file system allows."""
    if "\0" in str(path):
        raise InputError(f"{rule} {str(path)!r}, which holds a NUL character; leave it out.")


@contextlib.contextmanager
def _partial(path: Path, content: str | bytes) -> Iterator[Path]:
    """A file beside a path with a content that is on disk; it is removed in the end."""
    # Two machines that see the folder may have processes of one number.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            _write(file, content if isinstance(content, bytes) else content.encode("utf-8"))
        yield partial
    finally:
        _discard(partial)


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _discard(path: Path) -> None:
    """Remove a file if it is there and can be removed, which a folder may not allow."""
    with contextlib.suppress(OSError):
        path.unlink()


def _lock(file: FileIO) -> None:
    """Have other processes wait for the end of this one's line, where files can be locked.

    Elsewhere a line is one write to the end of the file.
    """
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
