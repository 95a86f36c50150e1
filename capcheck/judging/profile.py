"""A profile is one divergence of a family along its budgets, in multiples of its tolerance.

The divergence is the *deciding* one: for a family that is not representable, the one that refuses
the largest budget by the largest multiple; for a representable family, the one among those that can
make it representable that comes closest to its tolerance at the smallest sufficient budget; for an
undecided family, the one that its foremost open question is about.

The profile has one point for each number of model calls, in rising order: the best cell of that
many calls. A multiple is value / tolerance, both in the unit of the divergence; it may be infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from capcheck.core.budget import Budget
from capcheck.divergences.estimate import Estimate, Kind
from capcheck.judging.open_questions import foremost_question
from capcheck.judging.resolution import (
    TRAITS,
    available,
    is_resolved,
    label,
    multiple,
    tolerance_in_unit,
)
from capcheck.judging.verdict import smallest_sufficient
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell, Outcome

__all__ = ["ProfilePoint", "decided_by", "deciding_divergence", "profile"]

_BEST_FIRST = (Outcome.REPRESENTABLE, Outcome.INCONCLUSIVE, Outcome.NOT_REPRESENTABLE)


@dataclass(frozen=True, kw_only=True)
class ProfilePoint:
    """The best cell of a family among those of equal model calls.

    Attributes:
        calls: Counted sequential model calls.
        budget: The cell's budget.
        multiple: The divergence in multiples of its tolerance; may be infinite.
        low: Lower end of its interval in the same unit, or None of an upper bound.
        high: Upper end of its interval in the same unit, or None of a lower bound.
        kind: Kind of the estimate.
        outcome: The cell's verdict.
    """

    calls: int
    budget: Budget
    multiple: float
    low: float | None
    high: float | None
    kind: Kind
    outcome: Outcome


def deciding_divergence(found: FamilyResult, tolerances: Mapping[str, float]) -> str | None:
    """Name of the divergence that decides a family's verdict, or None if nothing was measured."""
    cells = [cell for cell in found.cells if available(cell)]
    if not cells:
        return None
    passed = smallest_sufficient(cells)
    if passed is not None:
        return _closest(passed, tolerances)
    if found.outcome is Outcome.INCONCLUSIVE:
        level = next(iter(available(cells[-1]).values())).level
        question = foremost_question(cells, tolerances, level=level)
        if question is not None:
            return question.divergence
    return _worst(cells[-1], tolerances)


def decided_by(found: FamilyResult, tolerances: Mapping[str, float]) -> str:
    """The deciding divergence by its short name, such as W2 for W2 squared; empty without one."""
    name = deciding_divergence(found, tolerances)
    if name is None:
        return ""
    known = (cell.estimates[name] for cell in found.cells if name in available(cell))
    return label(name, next(known)).removesuffix(" squared")


def profile(found: FamilyResult, tolerances: Mapping[str, float]) -> tuple[ProfilePoint, ...]:
    """The deciding divergence along a family's budgets, by rising model calls.

    Args:
        found: Result of a family.
        tolerances: Tolerance of each divergence, in its tolerance unit.

    Returns:
        The points; empty if nothing was measured. Cells whose divergence is unavailable or not a
        number have none.
    """
    name = deciding_divergence(found, tolerances)
    if name is None:
        return ()
    best: dict[int, ProfilePoint] = {}
    for cell in found.cells:
        point = _point(cell, name, tolerances[name])
        if point is None or math.isnan(point.multiple):
            continue
        other = best.get(point.calls)
        if other is None or _badness(point) < _badness(other):
            best[point.calls] = point
    return tuple(best[calls] for calls in sorted(best))


def _point(cell: Cell, name: str, tolerance: float) -> ProfilePoint | None:
    estimate = cell.estimates[name]
    if estimate.value is None:
        return None
    bound = tolerance_in_unit(estimate, tolerance)
    low, high = estimate.interval(estimate.level)
    return ProfilePoint(
        calls=cell.model_calls,
        budget=cell.budget,
        multiple=multiple(estimate.value, bound),
        low=None if estimate.kind == "upper bound" else multiple(low, bound),
        high=None if estimate.kind == "lower bound" else multiple(high, bound),
        kind=estimate.kind,
        outcome=cell.outcome,
    )


def _badness(point: ProfilePoint) -> tuple[int, float]:
    return _BEST_FIRST.index(point.outcome), point.multiple


def _closest(cell: Cell, tolerances: Mapping[str, float]) -> str:
    """The divergence with the highest upper end among those that can make a cell representable."""
    highs = {
        name: multiple(estimate.interval(estimate.level)[1], bound)
        for name, estimate in available(cell).items()
        if is_resolved(estimate, bound := tolerance_in_unit(estimate, tolerances[name]))
        and TRAITS[name].sufficient
    }
    return max(highs, key=highs.__getitem__) if highs else _worst(cell, tolerances)


def _worst(cell: Cell, tolerances: Mapping[str, float]) -> str:
    """The divergence with the highest lower end; that of an upper bound shows nothing."""
    found = available(cell)
    # All divergences may refuse a cell, and share the error level (`capcheck.judging.verdict`).
    return max(found, key=lambda name: _least(found[name], tolerances[name], len(found)))


def _least(estimate: Estimate, tolerance: float, divergences: int) -> float:
    low = estimate.interval(1 - (1 - estimate.level) / divergences)[0]
    times = multiple(low, tolerance_in_unit(estimate, tolerance))
    return -math.inf if estimate.kind == "upper bound" or math.isnan(times) else times
