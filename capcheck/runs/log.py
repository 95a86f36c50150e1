"""The log of a run: progress, and the reasons of failures, in a file of the run's folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from capcheck.core.errors import unwritable

__all__ = ["LOG", "logged_to", "logger"]

LOG = "run.log"  # name of the log file in a run's folder
logger = logging.getLogger("capcheck")
logger.addHandler(logging.NullHandler())  # a program that wants the log adds a handler of its own


class _LogFile(logging.FileHandler):
    """A log that drops what it cannot write; the run says itself that its folder is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (a name of logging)
        """Print nothing, where `logging` prints a traceback for each message."""

    def close(self) -> None:
        """Close the file, and drop what is left to write."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def logged_to(folder: Path | None) -> Iterator[None]:
    """Write the log to a run's folder, if there is one.

    Raises:
        StoreError: The file cannot be opened.
    """
    if folder is None:
        yield
        return
    try:
        handler = _LogFile(folder / LOG, encoding="utf-8")
    except OSError as error:
        raise unwritable(folder, error) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(process)d %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
