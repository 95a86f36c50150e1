"""A plan is the number of steps of a fit and the number of batches that it draws for them.

If a time is given in place of a number of steps, a few draws and steps are timed first, and the
plan is the number that fits into the time. If drawing a batch takes longer than a step, as many
batches are drawn as fit into half of the time, and are then reused.
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
    "SPACED",
    "TIMED",
    "Plan",
    "planned",
]

SPACED = 10  # fewest steps between two validations of a fit of more than `CHECKS` steps
CHECKS = 20  # validations in a fit, and least number of steps
MOST_STEPS = 20_000  # largest number of steps of a fit with a given time
DESCENT = 0.7  # share of the given time that is spent on draws and steps
SMALLEST_POOL = 4  # least number of reused batches
MOST_TIMED = 3.0  # seconds of timing, after which no further draw or step is timed
TIMED = 6  # draws, and steps, that are timed; the first of each is discarded


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a fit.

    Attributes:
        steps: Number of Adam steps.
        pool: Number of precomputed batches that are reused, or None if every step draws its own.
    """

    steps: int
    pool: int | None = None

    @property
    def every(self) -> int:
        """Number of steps between two validations."""
        return max(SPACED, self.steps // CHECKS) if self.steps > CHECKS else 1


def planned(source: BatchSource, module: nn.Module, *, seconds: float, dtype: torch.dtype) -> Plan:
    """Plan a fit that takes about `seconds` seconds.

    Args:
        source: Batches of the fit.
        module: Module to be fitted; it is copied.
        seconds: Time that is left for the fit.
        dtype: Precision of the module.
    """
    began = time.monotonic()
    scratch = copy.deepcopy(module)
    batches: list[Batch] = []
    draw = _timed(lambda k: batches.append(source.timed(k)))

    def one(k: int) -> None:
        source.loss(scratch, batches[k % len(batches)], k, dtype=dtype).backward()

    step = 1.3 * _timed(one)  # 30 % are added for the optimiser and the validations
    available = max(0.0, DESCENT * seconds - (time.monotonic() - began))
    if draw <= step:
        return Plan(steps=_within(available / (draw + step)))
    pool = max(SMALLEST_POOL, int(0.5 * available / draw))
    for_steps = max(0.5 * available, available - (pool - len(batches)) * draw)
    return Plan(steps=_within(for_steps / step), pool=pool)


def _within(steps: float) -> int:
    return int(min(max(steps, CHECKS), MOST_STEPS))


def _timed(do: Callable[[int], object]) -> float:
    """Median seconds per call, without the first call; other work disturbs a median little."""
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
