"""The log of a run: progress, and the reasons of failures, in a file of the run's folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LOG", "logged_to", "logger"]

LOG = "run.log"  # name of the log file in a run's folder
logger = logging.getLogger("capcheck")
logger.addHandler(logging.NullHandler())  # a program that wants the log adds a handler of its own


@contextlib.contextmanager
def logged_to(folder: Path | None) -> Iterator[None]:
    """Write the log to a run's folder, if there is one."""
    if folder is None:
        yield
        return
    handler = logging.FileHandler(folder / LOG, encoding="utf-8")
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
