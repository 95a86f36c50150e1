"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from capcheck.core.errors import InputError

__all__ = ["PARTIAL", "require_name", "write_atomically"]

PARTIAL = ".*.partial"  # pattern of files left behind by a process killed while writing


def write_atomically(path: Path, text: str) -> Path:
    """Write a file atomically, so that readers see all of it or none, and return the path.

    Raises:
        InputError: The file cannot be written.
    """
    require_name(path, "a file must be given a name, got")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}.") from None
    return path


def require_name(path: Path, rule: str) -> None:
    """Raise InputError if the path holds a NUL character, which no file system allows."""
    if "\0" in str(path):
        raise InputError(f"{rule} {str(path)!r}, which holds a NUL character; leave it out.")
