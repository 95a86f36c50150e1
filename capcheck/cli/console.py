"""The console that commands print to."""

from __future__ import annotations

import os

from rich.console import Console

__all__ = ["encodes", "output"]


def output() -> Console:
    """A console on standard output.

    In a pipe it is as wide as the variable COLUMNS says, or else wide enough for every table.
    """
    console = Console(emoji=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=140, emoji=False)


def encodes(console: Console, text: str) -> bool:
    """Whether a console can show all characters of a text."""
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        return False
    return True
