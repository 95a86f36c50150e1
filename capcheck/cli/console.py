"""The console that commands print to."""

from __future__ import annotations

from rich.console import Console

__all__ = ["encodes", "output"]


def output() -> Console:
    """A console on standard output; in a pipe it is wide enough for every table."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=140, emoji=False)


def encodes(console: Console, text: str) -> bool:
    """Whether a console can show all characters of a text."""
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        return False
    return True
