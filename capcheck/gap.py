"""The gap: how much of a divergence is the procedure's, the network's and the arithmetic's.

    total = structural (oracle) + network (the network - oracle) + numerics (fewer digits - more)

The parts are differences of cells that share their random numbers row by row, so that each has the
interval of the groupwise differences, which is narrower than those of its two ends. All parts
follow the functional that decides the total (a bandwidth, a direction), and so add up to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from capcheck.budget import Budget
from capcheck.divergences.estimate import GROUPS, Estimate, Term, t_quantile

PartName = Literal["structural", "network", "objective", "numerics", "total"]


class Part(BaseModel):
    """One part of a divergence.

    Attributes:
        name: `structural`, `network` (`objective` if it was fitted end to end), `numerics`, or the
            `total` of them.
        value: In the unit of the divergence; negative where the change made it better.
        low: Lower end of its interval.
        high: Upper end of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: PartName
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.value):
            return f"{self.value:+g}"
        if self.low == self.high:
            return f"{self.value:+.3g}"
        return f"{self.value:+.3g} [{self.low:.3g}, {self.high:.3g}]"


class Gap(BaseModel):
    """A divergence of one cell, in parts.

    Attributes:
        budget: Of the cell.
        divergence: Which.
        level: Confidence of each interval.
        parts: In the order in which they are added, and the total; empty if they are not known.
        reason: Why they are not known, or what else a reader should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    budget: Budget
    divergence: str
    level: float
    parts: tuple[Part, ...] = ()
    reason: str = ""

    def part(self, name: PartName) -> Part | None:
        """The part of that name, if there is one."""
        return next((part for part in self.parts if part.name == name), None)


def decompose(
    divergence: str,
    stages: Sequence[tuple[PartName, Estimate]],
    *,
    budget: Budget,
    level: float,
) -> Gap:
    """The parts of a divergence.

    Args:
        divergence: Its name.
        stages: What each change is called, and the divergence after it, from the same random
            numbers; the first is a part by itself.
        budget: Of the cell.
        level: Confidence of the intervals.
    """
    gap = Gap(budget=budget, divergence=divergence, level=level)
    for name, estimate in stages:
        if estimate.value is None:
            return gap.model_copy(update={"reason": f"{name}: {estimate.method}"})
    followed = _followed([estimate for _, estimate in stages])
    if followed is None:
        return gap.model_copy(update={"reason": "it is known between two bounds only"})
    bounds = {f"{e.kind}s" for _, e in stages if e.kind.endswith("bound")}
    zero = Term(label="nothing", value=0, standard_error=0, degrees=1, groups=(0.0,) * GROUPS)
    befores = [zero, *followed[:-1]]
    parts = [
        _part(name, before, after, level)
        for (name, _), before, after in zip(stages, befores, followed, strict=True)
    ]
    parts.append(_part("total", zero, followed[-1], level))
    reason = f"parts of {' and '.join(sorted(bounds))}" if bounds else ""
    return gap.model_copy(update={"parts": tuple(parts), "reason": reason})


def _followed(estimates: Sequence[Estimate]) -> list[Term] | None:
    """One functional of each estimate, the one that decides the last; None if there is none."""
    count = max(len(estimate.terms) for estimate in estimates)
    if any(len(e.terms) != count and e.terms for e in estimates):
        return None
    if any((e.below or e.above) and not e.terms for e in estimates):
        return None
    rows = [_terms(estimate, max(count, 1)) for estimate in estimates]
    place = max(range(len(rows[-1])), key=lambda i: rows[-1][i].value)
    return [row[place] for row in rows]


def _terms(estimate: Estimate, count: int) -> list[Term]:
    """Its terms; an exact value stands for each."""
    if estimate.terms:
        return list(estimate.terms)
    value = float(estimate.value or 0.0)
    groups = (value,) * GROUPS if math.isfinite(value) else ()
    return [Term(label="exact", value=value, standard_error=0, degrees=1, groups=groups)] * count


def _part(name: PartName, before: Term, after: Term, level: float) -> Part:
    value = 0.0 if after.value == before.value else after.value - before.value
    half = 0.0
    if after.groups and before.groups:  # an infinite value has none
        each = np.array(after.groups) - np.array(before.groups)
        error = float(each.std(ddof=1)) / math.sqrt(GROUPS)
        half = t_quantile(level, GROUPS - 1) * error
    return Part(name=name, value=value, low=value - half, high=value + half)
