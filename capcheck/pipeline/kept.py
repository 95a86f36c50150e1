"""Verdicts that are kept between starts, by the content of everything that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Generic, TypeVar

from capcheck.core.arguments import shown
from capcheck.core.errors import InputError
from capcheck.core.record import Record
from capcheck.core.version import code_digest
from capcheck.results.survey import SCHEMA_VERSION
from capcheck.runs.atomic import write_atomically
from capcheck.runs.environment import environment

__all__ = ["CACHE", "Kept", "cache_folder"]

RecordT = TypeVar("RecordT", bound=Record)

CACHE = "CAPCHECK_CACHE"  # environment variable that names the folder


def cache_folder() -> Path:
    """The folder of kept verdicts: `CAPCHECK_CACHE`, or `capcheck` in the user's cache folder."""
    own = os.environ.get(CACHE)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(own) if own else Path(base) / "capcheck"


class Kept(Generic[RecordT]):
    """Records of one kind in a folder, each in a file named by what it depends on.

    A file that cannot be read is no record, and a folder that cannot be written keeps none: a
    cache never fails.

    Args:
        kind: Class of the records.
        folder: Folder of the files, or None to keep nothing.
        facts: Everything that a record depends on, as JSON data, beside the code and the libraries.
    """

    def __init__(self, kind: type[RecordT], folder: Path | None, facts: Any) -> None:
        whole = [SCHEMA_VERSION, code_digest(), environment(), facts]
        text = json.dumps(whole, sort_keys=True, default=shown)
        self._kind = kind
        name = f"{kind.__name__.lower()}-{hashlib.sha256(text.encode()).hexdigest()[:40]}.json"
        self._file = None if folder is None else folder / name

    def read(self) -> RecordT | None:
        """The record, or None if there is none that can be read."""
        if self._file is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            return self._kind.model_validate_json(self._file.read_text(encoding="utf-8"))
        return None

    def write(self, record: RecordT) -> None:
        """Keep a record, if the folder can be written."""
        if self._file is not None:
            with contextlib.suppress(InputError, OSError):
                write_atomically(self._file, record.model_dump_json())
