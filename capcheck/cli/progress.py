"""Progress of a run on standard error: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import math
import threading
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

PATIENCE = 1.0  # seconds before a stage without a count is told
BEAT = 5.0  # most seconds without a line
TICK = 0.1  # seconds between looks at the clock


@contextmanager
def live_progress() -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows progress on standard error.

    On a terminal it moves a bar, and in a pipe it prints lines.
    """
    console = Console(stderr=True, emoji=False)
    if not console.is_terminal:
        lines = _Lines(console)
        try:
            yield lines.show
        finally:
            lines.close()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(p: Progress) -> None:
            if p.verdict:
                bar.console.print(p.verdict, markup=False, highlight=False, soft_wrap=True)
            bar.update(task, completed=p.done, total=p.total or None, description=escape(p.running))

        yield show


class _Lines:
    """Plain lines of progress: one for each task done, and one in `BEAT` seconds in any case.

    A line about a stage without a count waits `PATIENCE` seconds, so that a refusal is one line.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = self._began = time.monotonic()
        self._last = -1
        self._running, self._due = "", math.inf  # what a line is due about, and when
        self._closed = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.running != self._running:
            self._running, self._began = progress.running, now
            if not progress.total:
                self._due = min(self._due, now + PATIENCE)
        if progress.verdict:
            self._print(progress.verdict)
        if progress.total and progress.done != self._last:
            self._due = now + BEAT
            self._print(
                f"[{progress.done}/{progress.total}] {progress.running}{self._left(progress)}"
            )
        self._last = progress.done if progress.total else -1

    def close(self) -> None:
        self._closed.set()

    def _beat(self) -> None:
        while not self._closed.wait(TICK):
            now = time.monotonic()
            if now >= self._due:
                self._due = now + BEAT
                seconds = now - self._began
                self._print(self._running + (f", {seconds:.0f} s" if seconds > BEAT else ""))

    def _left(self, progress: Progress) -> str:
        if not progress.done:
            return ""
        elapsed = time.monotonic() - self._start
        return f", about {elapsed / progress.done * (progress.total - progress.done):.0f} s left"

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
