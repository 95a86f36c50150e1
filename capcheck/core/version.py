"""The installed version, and digests of the code that measured numbers depend on."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

__version__ = version("capcheck")

PACKAGE = Path(__file__).parents[1]
SILENT = {"api.py", "cli", "judging", "probes", "reports", "results", "testing"}
"""Parts of the package that no measured number depends on, and probes, which have digests."""


@functools.cache
def code_digest() -> str:
    """SHA-256 over the sources of this package that measured numbers depend on."""
    sources = (file for file in PACKAGE.rglob("*.py") if _part(file) not in SILENT)
    return _digest(sorted(sources))


@functools.cache
def class_digest(cls: type) -> str:
    """SHA-256 over the files that define a class and its bases outside of `code_digest`.

    A class of an interactive session has no file: it is told from others by its name only.
    """
    files: set[Path] = set()
    for base in cls.__mro__:
        try:
            found = inspect.getsourcefile(base)
        except (TypeError, OSError):  # built in, or of an interactive session
            continue
        if found is not None and Path(found).is_file():
            files.add(Path(found))
    return _digest(sorted(files))


def _part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0]


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
