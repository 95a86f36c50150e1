"""Capacity curves: what a divergence falls to as the network grows, and which size suffices.

The sizes of a curve share all random numbers, so that the change from one to the next has the
interval of the paired differences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capcheck.budget import Budget
from capcheck.gap import Part, decompose
from capcheck.records import FitFacts, Outcome, Record

if TYPE_CHECKING:
    from capcheck.results import FamilyResult, SurveyResult


class CurvePoint(Record):
    """One network.

    Attributes:
        network: Its name.
        parameters: Numbers that were fitted.
        fit: What the fit came to.
        outcome: Verdict at the curve's budget.
        totals: Each divergence at the curve's budget.
        changes: By how much each divergence rises from the next smaller network; negative if it
            falls.
    """

    network: str
    parameters: int
    fit: FitFacts | None
    outcome: Outcome
    totals: dict[str, Part]
    changes: dict[str, Part]


class CapacityCurve(Record):
    """A family with networks of several sizes.

    Attributes:
        family: Its name.
        budget: At which divergences are compared: the largest.
        level: Confidence of each interval.
        points: One per network, the smallest first.
        smallest: Name of the smallest network that suffices at this budget, or None.
    """

    family: str
    budget: Budget
    level: float
    points: tuple[CurvePoint, ...]
    smallest: str | None


def capacity_curves(result: SurveyResult) -> tuple[CapacityCurve, ...]:
    """The curves of all families with several networks whose size is known."""
    curves = []
    families = dict.fromkeys(found.family for found in result.families)
    for family in families:
        sized = sorted(
            (f for f in result.families if f.family == family and f.cells and _size(f)),
            key=_size,
        )
        if len(sized) > 1:
            curves.append(_curve(sized, result.settings.level))
    return tuple(curves)


def _size(found: FamilyResult) -> int:
    return (found.facts.parameters or 0) if found.facts is not None else 0


def _curve(sized: list[FamilyResult], level: float) -> CapacityCurve:
    smaller: list[FamilyResult | None] = [None, *sized]
    points = tuple(
        _point(found, before, level) for before, found in zip(smaller, sized, strict=False)
    )
    enough = (point.network for point in points if point.outcome is Outcome.REPRESENTABLE)
    return CapacityCurve(
        family=sized[0].family,
        budget=sized[0].cells[-1].budget,
        level=level,
        points=points,
        smallest=next(enough, None),
    )


def _point(found: FamilyResult, smaller: FamilyResult | None, level: float) -> CurvePoint:
    totals: dict[str, Part] = {}
    changes: dict[str, Part] = {}
    last = found.cells[-1]
    for name, estimate in last.estimates.items():
        before = [] if smaller is None else [("structural", smaller.cells[-1].estimates[name])]
        stages = [*before, ("network", estimate)]
        gap = decompose(name, stages, budget=last.budget, level=level)  # type: ignore[arg-type]
        for parts, part in ((totals, gap.part("total")), (changes, gap.part("network"))):
            if part is not None and (parts is totals or smaller is not None):
                parts[name] = part
    return CurvePoint(
        network=found.network,
        parameters=_size(found),
        fit=found.facts.fit if found.facts is not None else None,
        outcome=last.outcome,
        totals=totals,
        changes=changes,
    )
