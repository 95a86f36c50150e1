"""The efficiency front is the set of cells of a survey that no other cell beats in cost and error.

A cell is a point (c, r). The cost c is its number of counted model calls; the error r is the upper
end of the confidence interval of one divergence, divided by the tolerance. A cell is on the front
if no other cell has c' <= c and r' <= r with at least one of the two strictly less; cells that tie
are on the front together.

The divergence is chosen among those that can make a family representable: the one that the most
cells have, and among equals KL before Wasserstein. Each group of families has a front of its own as
well, because one call of an ideal network can be exact and such families would hide all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from capcheck.divergences import DIVERGENCES
from capcheck.judging.resolution import multiple, tolerance_in_unit
from capcheck.procedures.rows import ROWS, Row
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell
from capcheck.results.survey import SurveyResult

__all__ = ["Front", "Point", "front", "fronts", "non_dominated"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One cell of a family as a point of cost and error.

    Attributes:
        family: Name of the family, and of its network if that is not the oracle.
        row: The family's group in the paper's table.
        cell: The cell; if several cells of a family have equal cost and error, the one of the
            smallest budget.
        multiple: r, the upper end of the divergence in multiples of its tolerance; may be infinite.
    """

    family: str
    row: Row
    cell: Cell
    multiple: float

    @property
    def calls(self) -> int:
        """The cost c: counted sequential model calls."""
        return self.cell.model_calls


@dataclass(frozen=True, kw_only=True)
class Front:
    """The efficiency front of a survey, and the points that it was chosen from.

    Attributes:
        divergence: Name of the divergence whose upper end is the error.
        points: Every cell whose divergence is bounded from above, family by family.
        best: The front over all families, by rising calls.
        of_groups: The front of every group that has one, in the order of the paper's table.
        absent: Measured families none of whose cells bounds the divergence from above.
        partly: Measured families that have such cells and others.
    """

    divergence: str
    points: tuple[Point, ...]
    best: tuple[Point, ...]
    of_groups: dict[Row, tuple[Point, ...]]
    absent: tuple[str, ...]
    partly: tuple[str, ...]


def front(result: SurveyResult) -> Front:
    """Computes the efficiency front of a survey's oracles; it is empty if nothing was measured."""
    return fronts(result)[0]


def fronts(result: SurveyResult) -> tuple[Front, ...]:
    """The efficiency fronts of every divergence of a survey, the chosen divergence first."""
    traits = DIVERGENCES[result.target.kind]
    found = {name: _points(result, name) for name in traits if name in result.settings.tolerances}
    # max() keeps the first of equals, and KL and Wasserstein come first.
    chosen = max(found, key=lambda name: (traits[name].sufficient, len(found[name])))
    order = [chosen, *(name for name in found if name != chosen)]
    return tuple(_front(result, name, found[name]) for name in order)


def _front(result: SurveyResult, name: str, found: Sequence[Point]) -> Front:
    points: dict[tuple[str, int, float], Point] = {}
    for point in found:
        points.setdefault((point.family, point.calls, point.multiple), point)
    of_groups = {
        row: non_dominated(point for point in points.values() if point.row == row) for row in ROWS
    }
    measured = [family.title for family in _oracles(result) if family.cells]
    placed = {point.family for point in found}
    return Front(
        divergence=name,
        points=tuple(points.values()),
        best=non_dominated(points.values()),
        of_groups={row: best for row, best in of_groups.items() if best},
        absent=tuple(family for family in measured if family not in placed),
        partly=tuple(
            one.title
            for one in _oracles(result)
            if 0 < sum(point.family == one.title for point in found) < len(one.cells)
        ),
    )


def non_dominated(points: Iterable[Point]) -> tuple[Point, ...]:
    """The points of finite error that no other point dominates, by rising calls."""
    best: list[Point] = []
    finite = (point for point in points if math.isfinite(point.multiple))
    for point in sorted(finite, key=lambda p: (p.calls, p.multiple)):
        last = best[-1] if best else None
        ties = last is not None and (point.calls, point.multiple) == (last.calls, last.multiple)
        if last is None or ties or point.multiple < last.multiple:
            best.append(point)
    return tuple(best)


def _oracles(result: SurveyResult) -> list[FamilyResult]:
    """Results with the oracle only: with a fitted network, the error is partly that of the fit."""
    return [family for family in result.families if family.network == "oracle"]


def _points(result: SurveyResult, name: str) -> list[Point]:
    points = []
    for family in _oracles(result):
        for cell in family.cells:
            high = _high(cell, name, result.settings.tolerances[name])
            if high is not None and not math.isnan(high):
                point = Point(family=family.title, row=family.row, cell=cell, multiple=high)
                points.append(point)
    return points


def _high(cell: Cell, name: str, tolerance: float) -> float | None:
    """Upper end of a divergence in tolerances, or None if nothing bounds it from above."""
    estimate = cell.estimates[name]
    if estimate.high is None or estimate.kind == "lower bound":
        return None
    return multiple(estimate.high, tolerance_in_unit(estimate, tolerance))
