"""A rate is the power at which a divergence falls along one budget axis.

    excess(b) = divergence(b) - null floor ~ b^-rate,  rate = - slope of log excess against log b

The slope is fitted by least squares, with the other axis at its largest budget, over the tail: the
larger half, and at least three, of the budgets whose divergence is clearly above the null floor.

Budgets share their draws. The standard error of the slope is therefore computed from the groups of
rows by the delta method, and the error of the common null floor is added. Without sampling noise
the interval is the range of the slopes between neighbouring budgets, which shows how far the tail
is from a power law.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from capcheck.core.budget import AXES, Axis
from capcheck.divergences.estimate import GROUPS, Estimate, Term, t_quantile
from capcheck.judging.resolution import tolerance_in_unit
from capcheck.judging.scaling import ROUNDING, along
from capcheck.results.family import Axes, Rate
from capcheck.results.measurement import Cell

__all__ = ["CLEAR", "LEAST", "measured_rates"]

LEAST = 3  # fewest budgets of a rate: two give a slope, and the third shows whether it is one
CLEAR = 5.0  # standard errors above the floor, so that the logarithm's bias is at most 2%


@dataclass(frozen=True, kw_only=True)
class _Point:
    """One budget whose divergence is clearly above the null floor.

    Attributes:
        budget: b, the budget along the axis.
        excess: The divergence minus its null floor.
        influence: (GROUPS,) deviation of each group of rows from the divergence.
        null_error: Standard error of the null floor.
    """

    budget: int
    excess: float
    influence: np.ndarray
    null_error: float


def measured_rates(
    cells: Sequence[Cell], tolerances: Mapping[str, float], axes: Axes, *, level: float
) -> tuple[Rate, ...]:
    """Fits the rate of every divergence along both axes, or says why there is none.

    Args:
        cells: All cells of a grid.
        tolerances: Tolerance of each measured divergence.
        axes: Measured use of the axes; a flat axis has no rates.
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
    """Budgets above 0 whose divergence is finite, not a bound, and clearly above the floor."""
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
        if excess > max(CLEAR * noise, ROUNDING * tolerance_in_unit(estimate, tolerance)):
            groups = np.array(term.groups or (term.value,) * GROUPS)
            yield _Point(
                budget=getattr(cell.budget, axis),
                excess=excess,
                influence=groups - term.value,
                null_error=null_error,
            )


def _leading(cells: Sequence[Cell], name: str) -> str | None:
    """Label of the largest term at the largest budget, so that all budgets use one functional."""
    for cell in reversed(cells):
        if terms := [t for t in cell.estimates[name].terms if not math.isnan(t.value)]:
            return max(terms, key=lambda term: term.value).label
    return None


def _term(estimate: Estimate, label: str | None) -> Term | None:
    """The term with a label; an exact value stands in for any label."""
    if estimate.kind == "exact" and estimate.value is not None:
        return Term(label="exact", value=estimate.value, standard_error=0, degrees=1, groups=())
    return next((term for term in estimate.terms if term.label == label), None)


def _slope(tail: Sequence[_Point], level: float) -> tuple[float, float, float]:
    """The rate, and the lower and upper end of its interval."""
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
