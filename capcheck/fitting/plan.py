"""Plan: how many steps a fit makes and how many draws of the oracle it makes them with.

Where no number of steps is given, one draw and one step are timed, and what fits into the time is
kept from then on. An oracle that is dearer than a step is asked for as many draws as a part of the
time allows, which are then used again.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from capcheck.fitting.batches import BatchSource
from capcheck.fitting.objectives import Batch

__all__ = [
    "CHECKS",
    "DESCENT",
    "MOST_STEPS",
    "MOST_TIMED",
    "SMALLEST_POOL",
    "TIMED",
    "Plan",
    "planned",
]

CHECKS = 20  # validations of a fit
MOST_STEPS = 20_000
DESCENT = 0.7  # share of the time that is for steps and draws
SMALLEST_POOL = 4
MOST_TIMED = 3.0  # seconds for it, if two are timed
TIMED = 6  # draws and steps, of which the first is not timed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a fit will do.

    Attributes:
        steps: Of Adam.
        pool: Draws that are used again, or None if every step has its own.
    """

    steps: int
    pool: int | None = None

    @property
    def every(self) -> int:
        """Steps between two validations."""
        return max(1, self.steps // CHECKS)


def planned(source: BatchSource, module: nn.Module, *, seconds: float, dtype: torch.dtype) -> Plan:
    """The plan that takes about so many seconds.

    Args:
        source: Of the fit.
        module: It is copied.
        seconds: That are left.
        dtype: Of the module.
    """
    began = time.monotonic()
    scratch = copy.deepcopy(module)
    batches: list[Batch] = []
    draw = _timed(lambda k: batches.append(source.timed(k)))

    def one(k: int) -> None:
        source.loss(scratch, batches[k % len(batches)], k, dtype=dtype).backward()

    step = 1.3 * _timed(one)  # with the optimiser and the validations
    available = max(0.0, DESCENT * seconds - (time.monotonic() - began))
    if draw <= step:
        return Plan(steps=_within(available / (draw + step)))
    pool = max(SMALLEST_POOL, int(0.5 * available / draw))
    for_steps = max(0.5 * available, available - (pool - len(batches)) * draw)
    return Plan(steps=_within(for_steps / step), pool=pool)


def _within(steps: float) -> int:
    return int(min(max(steps, CHECKS), MOST_STEPS))


def _timed(do: Callable[[int], object]) -> float:
    """Seconds of one, the first not counted; the median, which other work disturbs little."""
    spent = []
    for k in range(TIMED):
        began = time.monotonic()
        do(k)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.monotonic() - began)
        if k and sum(spent) > MOST_TIMED:
            break
    return statistics.median(spent[1:])
