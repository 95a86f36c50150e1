"""The time of a part of a run, from a moment of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from capcheck.core.budget import Budget
from capcheck.core.errors import ControlFlow
from capcheck.fitting.fit import fit_procedure
from capcheck.networks.kinds import FittedNetwork
from capcheck.procedures.procedure import AnyProcedure
from capcheck.runs.work_counter import MemoryMeter

__all__ = ["FEW", "LONG", "MOMENT", "MORE", "Rate", "memory_of", "rate_of", "seconds_of_fit"]

FEW, MORE = 16, 256  # rows of the two sizes at which a part is timed
MOMENT = 1.0  # seconds after which no further turn is timed, and no larger size
LONG = 4.0  # the same of a size most of whose time does not depend on it, and of one row again


class _Enough(ControlFlow):
    """Raised to end a fit that has been timed."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Seconds of a part that takes `fixed + each * rows`."""

    fixed: float
    each: float

    def of(self, rows: float) -> float:
        """Seconds of some rows."""
        return self.fixed + self.each * rows


def rate_of(timed: Callable[[int], float], *, most: int, growth: float = 1.0) -> Rate:
    """The time of a part by its rows, from the smallest two sizes that tell it.

    Args:
        timed: Function that makes the part with some rows, and returns its seconds.
        most: Most rows that are made at once.
        growth: Factor by which each row is to take longer.
    """
    one = timed(1)
    if one < LONG:
        one = timed(1)  # what all calls use was made by the first
    few = timed(FEW)
    smaller, rows, less = one, FEW, 1
    if few < MOMENT or (one > few / 2 and few < LONG):
        smaller, rows, less = few, min(MORE, max(most, FEW + 1)), FEW
        few = timed(rows)
    each = max(0.0, (few - smaller) / (rows - less))
    return Rate(fixed=max(0.0, few - each * rows), each=growth * each)


def memory_of(made: Callable[[int], object], rate: Rate, *, most: int) -> float:
    """The most bytes that a part holds at once, from two numbers of rows that take a moment.

    Args:
        made: Function that makes the part with some rows.
        rate: The part's time by its rows.
        most: Rows that are made at once, whose memory is told.
    """
    sizes = (FEW, MORE) if rate.of(MORE) < MOMENT else (1, FEW if rate.of(FEW) < MOMENT else 2)
    less, more = (min(most, rows) for rows in sizes)
    peaks: list[float] = []
    for rows in sorted({less, more}):
        with MemoryMeter() as meter:
            made(rows)
        peaks.append(meter.peak)
    each = (peaks[-1] - peaks[0]) / max(1, more - less)
    return peaks[-1] + max(0.0, each) * (most - more)


def seconds_of_fit(
    procedure: AnyProcedure,
    module: Any,
    kind: FittedNetwork,
    budgets: Sequence[Budget],
    *,
    seed: int,
) -> float:
    """Seconds of a fit, from its steps up to the second validation at the latest.

    Args:
        procedure: Procedure with its oracle as network.
        module: Module that the fit begins with.
        kind: Objective and limit of the fit.
        budgets: Budgets at which the network is used.
        seed: Seed of the fit.
    """
    if kind.steps is None:
        assert kind.seconds is not None
        return kind.seconds
    marks: list[tuple[int, float]] = []
    began = time.perf_counter()

    def stop(step: int, steps: int, validation: float) -> None:
        marks.append((step, time.perf_counter()))
        if len(marks) > 1 or marks[0][1] - began > MOMENT:
            raise _Enough

    with contextlib.suppress(_Enough):
        fit_procedure(
            procedure,
            module,
            budgets=budgets,
            steps=kind.steps,
            seed=seed,
            progress=stop,
            objective=kind.objective,
        )
    step, first = marks[0]
    each = (first - began) / step
    if len(marks) > 1:
        each = (marks[1][1] - first) / (marks[1][0] - step)
    return first - began + each * (kind.steps - step)
