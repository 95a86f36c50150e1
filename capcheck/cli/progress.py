"""Progress of a run on standard error: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)

from capcheck.runs.options import Progress

__all__ = ["live_progress"]


@contextmanager
def live_progress() -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows progress on standard error.

    On a terminal it moves a bar, and in a pipe it prints lines.
    """
    console = Console(stderr=True, emoji=False)
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda p: bar.update(
            task, completed=p.done, total=p.total or None, description=escape(p.running)
        )


def _plain_lines(console: Console) -> Callable[[Progress], None]:
    start = time.monotonic()
    last = -1

    def show(progress: Progress) -> None:
        nonlocal last
        if progress.done == last and progress.total:
            return
        last = progress.done if progress.total else -1
        elapsed = time.monotonic() - start
        left = elapsed / progress.done * (progress.total - progress.done) if progress.done else 0
        tail = f", about {left:.0f} s left" if progress.done else ""
        place = f"[{progress.done}/{progress.total}] " if progress.total else ""
        line = f"{place}{progress.running}{tail}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return show
