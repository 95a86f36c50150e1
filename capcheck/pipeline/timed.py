"""A check that ends in time, with what was decided by then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from capcheck.core.errors import ControlFlow
from capcheck.procedures.probe import AnyProbe
from capcheck.results.survey import CheckResult
from capcheck.runs.options import Progress
from capcheck.runs.planning import engine_of_check
from capcheck.targets.target import Target

__all__ = ["Clock", "check_in_time"]

PER_RUN = 0.5  # share of the time that one run of a procedure may take
PER_CELL = 0.1  # share of the time that one log-density may take


class _OutOfTime(ControlFlow):
    """The time is over."""


class Clock:
    """The time of a gate, which starts now.

    Args:
        seconds: Seconds in all.
        progress: Function that is told about the progress as well, or None.
    """

    def __init__(self, seconds: float, progress: Callable[[Progress], None] | None) -> None:
        self.seconds = seconds
        self._began, self._progress = time.monotonic(), progress

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds until the end, at least 0."""
        return max(0.0, self.seconds - self.passed)

    def look(self, progress: Progress) -> None:
        """Tell the progress, and stop the run if the time is over."""
        if self._progress is not None:
            self._progress(progress)
        if self.left == 0:
            raise _OutOfTime


def check_in_time(
    family: str | AnyProbe,
    target: Target,
    clock: Clock,
    *,
    lengths: Sequence[int] | None,
    steps: Sequence[int] | None,
    **keywords: Any,
) -> CheckResult | None:
    """Check a family as `capcheck.check` does, or return None if the time is over before the end.

    Args:
        family: See `capcheck.check`.
        target: See `capcheck.check`.
        clock: Clock of the time that is left.
        lengths: See `RunOptions`.
        steps: See `RunOptions`.
        **keywords: See `CheckOptions`.
    """
    engine = engine_of_check(
        family,
        target,
        lengths=lengths,
        steps=steps,
        seconds_per_run=max(1.0, PER_RUN * clock.seconds),
        seconds_per_cell=PER_CELL * clock.seconds,
        progress=clock.look,
        **keywords,
    )
    try:
        return CheckResult.of(engine.run(errors_are_results=False))
    except _OutOfTime:
        return None
