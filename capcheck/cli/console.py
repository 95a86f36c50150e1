"""The console that commands print to."""

from __future__ import annotations

from rich.console import Console

__all__ = ["output"]


def output() -> Console:
    """A console on standard output; in a pipe it is wide enough for every table."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=140, emoji=False)
