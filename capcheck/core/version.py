"""The installed version of capcheck, and digests of the code that measured numbers depend on."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

__all__ = ["NOT_DIGESTED", "PACKAGE", "class_digest", "code_digest"]

__version__ = version("capcheck")

PACKAGE = Path(__file__).parents[1]
NOT_DIGESTED = {
    "api.py",
    "callbacks",
    "cli",
    "judging",
    "pipeline",
    "probes",
    "published",
    "reports",
    "results",
    "testing",
}
"""Parts of the package that `code_digest` leaves out: no measured number depends on them.

The exception is `probes`, each of which has a `class_digest` of its own.
"""


@functools.cache
def code_digest() -> str:
    """SHA-256 over the sources of this package that measured numbers depend on."""
    sources = (
        file
        for file in PACKAGE.rglob("*.py")
        if file.relative_to(PACKAGE).parts[0] not in NOT_DIGESTED
    )
    return _digest(sorted(sources))


@functools.cache
def class_digest(cls: type) -> str:
    """SHA-256 over the files that define a class and its bases.

    A class that was defined in an interactive session has no file, and therefore no digest of its
    own code.
    """
    files: set[Path] = set()
    for base in cls.__mro__:
        try:
            found = inspect.getsourcefile(base)
        except (TypeError, OSError):  # built in, or defined in an interactive session
            continue
        if found is not None and Path(found).is_file():
            files.add(Path(found))
    return _digest(sorted(files, key=lambda file: (file.name, file.read_bytes())))


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
