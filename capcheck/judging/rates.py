"""Rates: how fast a divergence falls along a budget axis, with the other axis at its largest.

    excess(b) = divergence(b) - null floor ~ b^-rate,  rate = - slope of log excess against log b

by least squares over the tail: the larger half, and at least three, of the budgets that are clearly
above the floor. Budgets share their draws, so that the noise of the slope is that of its groups of
rows (the delta method), and the noise of the common floor is added. Numbers without noise have as
their interval the range of the slopes between neighbouring budgets, which shows how far the tail is
from a power of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from capcheck.core.budget import AXES, Axis
from capcheck.divergences.estimate import GROUPS, Estimate, Term, t_quantile
from capcheck.judging.scaling import ROUNDING, along
from capcheck.judging.verdict import limit
from capcheck.results.family import Axes, Rate
from capcheck.results.measurement import Cell

LEAST = 3  # budgets, of which two give a slope and the third shows that there is one
CLEAR = 5.0  # standard errors above the floor: the logarithm is then off by 2% of itself at most


@dataclass(frozen=True, kw_only=True)
class _Point:
    """One budget that is clearly above the floor.

    Attributes:
        budget: b.
        excess: Divergence less its null floor.
        influence: (GROUPS,) how far each group of rows moves it.
        null_error: Standard error of the floor.
    """

    budget: int
    excess: float
    influence: np.ndarray
    null_error: float


def measured_rates(
    cells: Sequence[Cell], tolerances: Mapping[str, float], axes: Axes, *, level: float
) -> tuple[Rate, ...]:
    """The rate of every divergence along both axes, or why there is none.

    Args:
        cells: A full grid.
        tolerances: Of the measured divergences.
        axes: Measured use of the axes; one that is flat has no rates.
        level: Confidence of each interval by itself.
    """
    return tuple(
        _rate(along(cells, axis), axis, name, tolerance, getattr(axes, axis), level)
        for axis in AXES
        for name, tolerance in tolerances.items()
    )


def _rate(
    line: Sequence[Cell], axis: Axis, name: str, tolerance: float, use: str, level: float
) -> Rate:
    def none(reason: str, budgets: int = 0) -> Rate:
        return Rate(axis=axis, divergence=name, level=level, budgets=budgets, reason=reason)

    if use == "flat":
        return none(f"the {axis} axis is flat")
    points = list(_points(line, axis, name, tolerance))
    if len(points) < LEAST:
        return none(
            f"{len(points)} of {len(line)} budgets are measured to be clearly above the null "
            f"floor, and a rate needs {LEAST}",
            len(points),
        )
    tail = points[-max(LEAST, math.ceil(len(points) / 2)) :]
    value, low, high = _slope(tail, level)
    return Rate(
        axis=axis,
        divergence=name,
        value=value,
        low=low,
        high=high,
        level=level,
        budgets=len(tail),
        reason=f"over {axis} {tail[0].budget} to {tail[-1].budget}",
    )


def _points(line: Sequence[Cell], axis: Axis, name: str, tolerance: float) -> Iterator[_Point]:
    """Budgets of at least 1 whose divergence is finite, no bound, and clearly above the floor."""
    usable = [
        cell
        for cell in line
        if getattr(cell.budget, axis) > 0 and cell.estimates[name].kind in ("exact", "estimate")
    ]
    label = _leading(usable, name)
    for cell in usable:
        estimate = cell.estimates[name]
        term = _term(estimate, label)
        if term is None or not math.isfinite(term.value):
            continue
        excess = term.value - (estimate.null or 0.0)
        null_error = estimate.null_error or 0.0
        noise = math.hypot(term.standard_error, null_error)
        if excess > max(CLEAR * noise, ROUNDING * limit(estimate, tolerance)):
            groups = np.array(term.groups or (term.value,) * GROUPS)
            yield _Point(
                budget=getattr(cell.budget, axis),
                excess=excess,
                influence=groups - term.value,
                null_error=null_error,
            )


def _leading(cells: Sequence[Cell], name: str) -> str | None:
    """Label of the largest term at the largest budget with terms: one kernel for all budgets."""
    for cell in reversed(cells):
        if terms := [t for t in cell.estimates[name].terms if not math.isnan(t.value)]:
            return max(terms, key=lambda term: term.value).label
    return None


def _term(estimate: Estimate, label: str | None) -> Term | None:
    """The term of that label; an exact value stands for every term."""
    if estimate.kind == "exact" and estimate.value is not None:
        return Term(label="exact", value=estimate.value, standard_error=0, degrees=1, groups=())
    return next((term for term in estimate.terms if term.label == label), None)


def _slope(tail: Sequence[_Point], level: float) -> tuple[float, float, float]:
    """The rate and its interval."""
    t = np.log([point.budget for point in tail])
    y = np.log([point.excess for point in tail])
    excess = np.array([point.excess for point in tail])
    weights = -(t - t.mean()) / np.square(t - t.mean()).sum()  # rate = weights @ y
    value = float(weights @ y)
    by_group = (weights / excess) @ np.stack([point.influence for point in tail])  # (GROUPS,)
    of_floor = float((weights / excess).sum()) * max(point.null_error for point in tail)
    error = math.hypot(float(by_group.std(ddof=1)) / math.sqrt(GROUPS), of_floor)
    if error == 0:
        between = -np.diff(y) / np.diff(t)
        return value, float(between.min()), float(between.max())
    half = t_quantile(level, GROUPS - 1) * error
    return value, value - half, value + half
