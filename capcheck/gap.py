"""The gap: how much of a divergence is the procedure's, the network's and the arithmetic's.

    total = structural (oracle) + network (fitted - oracle) + numerics (fewer digits - more)

The parts are differences of cells that share their random numbers row by row, so that each has the
interval of the groupwise differences, which is narrower than those of its two ends.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict

from capcheck.divergences.estimate import GROUPS, Estimate, Term, t_quantile


class Part(BaseModel):
    """One part of a divergence.

    Attributes:
        divergence: Which.
        value: In the unit of the divergence; negative where the change made it better.
        low: Lower end of its interval.
        high: Upper end of it.
        level: Confidence of [low, high].
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    divergence: str
    value: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        if math.isinf(self.value):
            return f"{self.value:+g}"
        return f"{self.value:+.3g} [{self.low:.3g}, {self.high:.3g}]"


def difference(name: str, before: Estimate, after: Estimate, *, level: float) -> Part | None:
    """What a change adds to a divergence, or None if it cannot be told.

    Of several terms the one that decides the estimate after the change is followed; an exact value
    stands for each term of the other.

    Args:
        name: Of the divergence.
        before: Its estimate without the change.
        after: Its estimate with it, from the same random numbers.
        level: Confidence of the interval.
    """
    if before.value is None or after.value is None:
        return None
    if not before.terms and not after.terms:
        value = _minus(after.value, before.value)
        return Part(divergence=name, value=value, low=value, high=value, level=level)
    count = max(len(before.terms), len(after.terms))
    pairs = list(zip(_terms(before, count), _terms(after, count), strict=True))
    first, second = max(pairs, key=lambda pair: pair[1].value)
    value = _minus(second.value, first.value)
    half = 0.0
    if math.isfinite(value):
        each = np.array(second.groups) - np.array(first.groups)
        error = float(each.std(ddof=1)) / math.sqrt(GROUPS)
        half = t_quantile(level, GROUPS - 1) * error
    return Part(divergence=name, value=value, low=value - half, high=value + half, level=level)


def _terms(estimate: Estimate, count: int) -> list[Term]:
    if len(estimate.terms) == count:
        return list(estimate.terms)
    value = float(estimate.value or 0.0)
    return [
        Term(label="exact", value=value, standard_error=0, degrees=1, groups=(value,) * GROUPS)
    ] * count


def _minus(a: float, b: float) -> float:
    return 0.0 if a == b else a - b
