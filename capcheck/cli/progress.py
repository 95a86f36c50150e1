"""Progress of a run on standard error: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from capcheck.runs.options import Progress

__all__ = ["live_progress"]

PATIENCE = 1.0  # seconds before a stage without a count is told
BEAT = 5.0  # most seconds without a line
TELLING = 0.08  # share of the work whose time tells that of the rest
ALL = 0.985  # share from which the rest is suspects and drafts, which are not counted
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
        TextColumn("{task.fields[cells]}"),
        TextColumn("{task.fields[left]}"),
    )
    left = _TimeLeft()
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None, cells="", left="")

        def show(p: Progress) -> None:
            if p.verdict:
                bar.console.print(p.verdict, markup=False, highlight=False, soft_wrap=True)
            bar.update(
                task,
                completed=p.share,
                total=1.0 if p.total else None,
                description=escape(p.running),
                cells=f"{p.done}/{p.total}" if p.total else "",
                left=left.of(p),
            )

        yield show


class _TimeLeft:
    """Tells the time that is left from the share of the work that is done."""

    def __init__(self) -> None:
        self._start = math.nan  # when the first cell was begun
        self._already = 0.0  # share of the work that the run's folder held by then

    def of(self, progress: Progress) -> str:
        """The time left in words; empty where it is not known."""
        now = time.monotonic()
        if math.isnan(self._start):
            if progress.total:
                self._start, self._already = now, progress.share
            return ""
        done = progress.share - self._already
        if done < TELLING or progress.share > ALL:
            return ""
        left = (now - self._start) / done * (1 - progress.share)
        return f"about {left:.0f} s left" if left < 120 else f"about {left / 60:.0f} min left"


class _Lines:
    """Plain lines of progress: one for each task done, and one in `BEAT` seconds in any case.

    A line about a stage without a count waits `PATIENCE` seconds, so that a refusal is one line.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._left = _TimeLeft()
        self._began = time.monotonic()
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
            counted = f"[{progress.done}/{progress.total}] {progress.running}"
            self._print(", ".join(filter(None, [counted, self._left.of(progress)])))
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

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
