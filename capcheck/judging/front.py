"""The efficiency front: the cells of a survey that no other cell beats in both cost and error.

A cell is a point (c, r): c counted model calls, and r the upper end of the interval of a divergence
in tolerances, which is what the cell is shown to achieve. It is on the front if no other cell has
c' <= c and r' <= r with one of the two strictly less; cells that tie are on it together. The
divergence is the one that most cells have, KL first and Wasserstein second, of those that can make
a family representable.
One call of an unlimited network can be exact, so that each group of families has a front as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from capcheck.divergences import DIVERGENCES
from capcheck.judging.verdict import limit
from capcheck.procedures.probe import ROWS, Row
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell
from capcheck.results.survey import SurveyResult


@dataclass(frozen=True, kw_only=True)
class Point:
    """One cell of a family.

    Attributes:
        family: Its name, with that of its network if it is not the oracle.
        row: Its group in the paper's table.
        cell: The cell; of those alike in both numbers, the one of the least budget.
        multiple: r, in tolerances; may be infinite.
    """

    family: str
    row: Row
    cell: Cell
    multiple: float

    @property
    def calls(self) -> int:
        """c, counted sequential model calls."""
        return self.cell.model_calls


@dataclass(frozen=True, kw_only=True)
class Front:
    """What a survey's families achieve at which cost.

    Attributes:
        divergence: Name of the divergence.
        points: Every cell whose divergence is bounded from above, family by family.
        best: The front, by rising calls.
        of_groups: The front of every group that has one, in the order of the paper's table.
        absent: Families that were measured and have no such cell.
    """

    divergence: str
    points: tuple[Point, ...]
    best: tuple[Point, ...]
    of_groups: dict[Row, tuple[Point, ...]]
    absent: tuple[str, ...]


def front(result: SurveyResult) -> Front:
    """The efficiency front over all families of a survey; empty if nothing was measured."""
    traits = DIVERGENCES[result.target.kind]
    found = {name: _points(result, name) for name in traits if name in result.settings.tolerances}
    # max() keeps the first of equals, and KL and Wasserstein come first.
    name = max(found, key=lambda name: (traits[name].sufficient, len(found[name])))
    points: dict[tuple[str, int, float], Point] = {}
    for point in found[name]:
        points.setdefault((point.family, point.calls, point.multiple), point)
    of_groups = {
        row: non_dominated(point for point in points.values() if point.row == row) for row in ROWS
    }
    measured = [family.title for family in _oracles(result) if family.cells]
    placed = {point.family for point in found[name]}
    return Front(
        divergence=name,
        points=tuple(points.values()),
        best=non_dominated(points.values()),
        of_groups={row: best for row, best in of_groups.items() if best},
        absent=tuple(family for family in measured if family not in placed),
    )


def non_dominated(points: Iterable[Point]) -> tuple[Point, ...]:
    """The points of finite error that no other one dominates, by rising calls."""
    best: list[Point] = []
    finite = (point for point in points if math.isfinite(point.multiple))
    for point in sorted(finite, key=lambda p: (p.calls, p.multiple)):
        last = best[-1] if best else None
        ties = last is not None and (point.calls, point.multiple) == (last.calls, last.multiple)
        if last is None or ties or point.multiple < last.multiple:
            best.append(point)
    return tuple(best)


def _oracles(result: SurveyResult) -> list[FamilyResult]:
    """What the procedures can do; a network's divergence is also that of its fit."""
    return [family for family in result.families if family.network == "oracle"]


def _points(result: SurveyResult, name: str) -> list[Point]:
    points = []
    for family in _oracles(result):
        for cell in family.cells:
            multiple = _multiple(cell, name, result.settings.tolerances[name])
            if multiple is not None and not math.isnan(multiple):
                point = Point(family=family.title, row=family.row, cell=cell, multiple=multiple)
                points.append(point)
    return points


def _multiple(cell: Cell, name: str, tolerance: float) -> float | None:
    """Upper end of a divergence in tolerances, or None where nothing bounds it from above."""
    estimate = cell.estimates[name]
    if estimate.high is None or estimate.kind == "lower bound":
        return None
    bound = limit(estimate, tolerance)
    if bound == 0:  # a law of one sequence has no spread
        return math.inf if estimate.high > 0 else 0.0
    return estimate.high / bound
