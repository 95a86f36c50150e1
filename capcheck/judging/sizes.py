"""A capacity curve is the divergence of one family as a function of its network's size.

All networks of a curve are measured with the same random numbers, so that the change from one size
to the next has the interval of paired differences. The curve also names the smallest network that
suffices.
"""

from __future__ import annotations

from collections.abc import Sequence

from capcheck.judging.gap import decompose
from capcheck.results.family import FamilyResult
from capcheck.results.gap import Part
from capcheck.results.measurement import Outcome
from capcheck.results.survey import CapacityCurve, CurvePoint

__all__ = ["capacity_curves"]


def capacity_curves(results: Sequence[FamilyResult], level: float) -> tuple[CapacityCurve, ...]:
    """The capacity curves of all families measured with several networks of known size.

    Args:
        results: The results of all families and networks of a run.
        level: Confidence of the intervals.
    """
    curves = []
    procedures: dict[str, list[FamilyResult]] = {}
    for found in results:
        procedures.setdefault(found.plan.with_oracle().model_dump_json(), []).append(found)
    for networks in procedures.values():
        sized = sorted(
            (found for found in networks if found.cells and found.parameters),
            key=lambda found: found.parameters,
        )
        if len(sized) > 1:
            curves.append(_curve(sized, level))
    return tuple(curves)


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
        parameters=found.parameters,
        fit=found.facts.fit if found.facts is not None else None,
        outcome=last.outcome,
        totals=totals,
        changes=changes,
    )
