"""Measured scaling says which budget axes a family uses and which of its two loops is outside.

An axis is *used* if some larger budget has a smaller divergence than the smallest budget, with the
other axis at its largest budget. For at least one divergence the simultaneous interval of that
difference must exclude 0, and the drop must be at least a tenth of the excess of the smallest
budget over the null floor.

An axis is *flat* if, for every available divergence, the intervals of all differences lie within
the tolerance, and *undecided* otherwise. Between two budgets whose divergence is bounded from both
sides, it falls by at least the lower bound of the one less the upper bound of the other, which can
show that an axis is used, and never that it is flat. Cells share their draws, so differences are
paired by groups of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from capcheck.core.budget import AXES, Axis
from capcheck.divergences.estimate import GROUPS, Estimate, Term, t_quantile
from capcheck.judging.resolution import tolerance_in_unit
from capcheck.procedures.trace import TraceClass
from capcheck.results.family import Axes, AxisUse, LoopOrder
from capcheck.results.measurement import Cell

__all__ = ["DROP", "ROUNDING", "along", "loop_order", "measured_axes", "worse_with_more"]

ROUNDING = 1e-6  # share of a tolerance up to which a difference counts as rounding error
DROP = 0.1  # smallest drop that counts as scaling, as a share of the excess over the null floor


@dataclass(frozen=True, kw_only=True)
class _Drop:
    """The divergence at the smallest budget minus that at a larger one, for one functional.

    Attributes:
        value: The difference.
        standard_error: Standard error of the difference; 0 if both are exact.
        start: Excess of the smallest budget over the null floor.
        bound: Tolerance, in the unit of the divergence.
        at_least: Whether the divergence may fall by more, as between bounds from below and above.
    """

    value: float
    standard_error: float
    start: float
    bound: float
    at_least: bool = False

    def interval(self, level: float) -> tuple[float, float]:
        if self.standard_error == 0 or not math.isfinite(self.value):
            return self.value, self.value
        half = t_quantile(level, GROUPS - 1) * self.standard_error
        return self.value - half, self.value + half


def measured_axes(cells: Sequence[Cell], tolerances: Mapping[str, float], *, level: float) -> Axes:
    """Measures the use of both axes over all cells of a grid."""
    uses = {axis: _axis_use(along(cells, axis), tolerances, level) for axis in AXES}
    return Axes(**uses)


def along(cells: Sequence[Cell], axis: Axis) -> list[Cell]:
    """The cells along one axis in rising order, with the other axis at its largest budget."""
    other: Axis = "steps" if axis == "length" else "length"
    top = max(getattr(cell.budget, other) for cell in cells)
    line = [cell for cell in cells if getattr(cell.budget, other) == top]
    return sorted(line, key=lambda cell: getattr(cell.budget, axis))


def loop_order(trace: TraceClass, axes: Axes) -> LoopOrder:
    """The loop order that a trace shows.

    A sweep puts the steps loop outside only if the length axis is used, as otherwise there is no
    inner loop over the length.
    """
    if trace == "sweep":
        return "steps_outer" if axes.length == "used" else "steps"
    orders: dict[TraceClass, LoopOrder] = {
        "once": "none",
        "in_turn": "length",
        "finish_first": "length_outer",
    }
    return orders[trace]


def worse_with_more(
    cells: Sequence[Cell], tolerances: Mapping[str, float], axis: Axis, *, level: float
) -> str | None:
    """A sentence that some smaller budget along an axis is better than the largest, or None."""
    line = along(cells, axis)
    last, earlier = line[-1], line[:-1]
    drops = {
        (name, cell.budget): list(
            _differences(cell.estimates[name], last.estimates[name], name, tolerance)
        )
        for name, tolerance in tolerances.items()
        for cell in earlier
        # An estimate below an exact value may be noise; two exact values may be compared.
        if (cell.estimates[name].kind, last.estimates[name].kind)
        in (("estimate", "estimate"), ("exact", "estimate"), ("exact", "exact"))
    }
    looks = sum(map(len, drops.values()))
    for (name, budget), found in drops.items():
        if any(drop.interval(1 - (1 - level) / looks)[1] < 0 for drop in found):
            return (
                f"more {axis} can make {name} worse: "
                f"{axis} {getattr(budget, axis)} is better than {getattr(last.budget, axis)}."
            )
    return None


def _axis_use(line: Sequence[Cell], tolerances: Mapping[str, float], level: float) -> AxisUse:
    if len(line) < 2:
        return "undecided"
    drops = [
        drop for name, tolerance in tolerances.items() for drop in _drops(line, name, tolerance)
    ]
    if not drops:
        return "undecided"
    each = 1 - (1 - level) / len(drops)
    if any(drop.interval(each)[0] > 0 and drop.value >= DROP * drop.start for drop in drops):
        return "used"
    small = (
        not drop.at_least
        and -drop.bound <= drop.interval(each)[0]
        and drop.interval(each)[1] <= drop.bound
        for drop in drops
    )
    if all(small):
        return "flat"
    return "undecided"


def _drops(line: Sequence[Cell], name: str, tolerance: float) -> Iterator[_Drop]:
    first = line[0].estimates[name]
    for cell in line[1:]:
        yield from _differences(first, cell.estimates[name], name, tolerance)


def _differences(first: Estimate, later: Estimate, name: str, tolerance: float) -> Iterator[_Drop]:
    if first.value is None or later.value is None:
        return
    bound = tolerance_in_unit(first, tolerance)
    if first == later:
        yield _Drop(value=0.0, standard_error=0.0, start=0.0, bound=bound)
        return
    if first.kind == "upper bound" or later.kind == "lower bound":
        return  # a falling bound does not show that the divergence falls
    # The divergence between two bounds need not move with the bounds.
    at_least = "two bounds" == first.kind == later.kind
    starts = first.below if first.kind == "two bounds" else first.terms
    ends = later.above if later.kind == "two bounds" else later.terms
    if "two bounds" in (first.kind, later.kind) and len(starts) != len(ends):
        return  # an exact value, or certificates of several kinds
    count = max(len(starts), len(ends), 1)
    for a, b in zip(_terms(first, starts, count), _terms(later, ends, count), strict=True):
        if not (math.isfinite(a.value) and math.isfinite(b.value)):
            value = 0.0 if a.value == b.value else a.value - b.value
            error = 0.0
        else:
            difference = np.array(a.groups) - np.array(b.groups)
            value = a.value - b.value
            error = float(difference.std(ddof=1)) / math.sqrt(GROUPS)
            if max(abs(value), error) <= ROUNDING * bound:
                value = error = 0.0
        yield _Drop(
            value=value,
            standard_error=error,
            start=a.value - (first.null or 0.0),
            bound=bound,
            at_least=at_least,
        )


def _terms(estimate: Estimate, terms: Sequence[Term], count: int) -> Sequence[Term]:
    """The terms of an estimate; an exact value is repeated `count` times."""
    if terms:
        return terms
    assert estimate.value is not None
    value = estimate.value
    exact = Term(label="exact", value=value, standard_error=0, degrees=1, groups=(value,) * GROUPS)
    return [exact] * count
