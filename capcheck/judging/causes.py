"""Causes of a floor: what is wrong where even the largest budget is refused.

Each suspect that a family names is switched off, and the largest budget is measured again.
"""

from __future__ import annotations

from capcheck.judging.verdict import judge, worst
from capcheck.results.family import Cause, FamilyResult
from capcheck.results.measurement import Cell, Measurement, Outcome
from capcheck.results.plan import SuspectPlan
from capcheck.results.settings import Settings


def has_floor(found: FamilyResult) -> bool:
    """Whether even the largest budget is refused, so that there is a cause to look for."""
    return bool(found.cells) and found.cells[-1].outcome is Outcome.NOT_REPRESENTABLE


def cause_of(
    suspect: SuspectPlan, measurement: Measurement, floor: Cell, settings: Settings
) -> Cause | None:
    """Judge a suspect by what the procedure does without it, or not if that shows nothing.

    The suspect is a cause if the worst divergence that was measured in both falls clearly and
    nothing is refused any more.
    """
    level = settings.level_of_a_look
    (cell,) = judge([measurement], settings.tolerances, level=level)
    comparable = {
        name: estimate
        for name, estimate in floor.estimates.items()
        if name in cell.estimates and cell.estimates[name].value is not None
    }
    shared = floor.model_copy(update={"estimates": comparable})
    (refused,) = judge([shared], settings.tolerances, level=level)
    if refused.outcome is not Outcome.NOT_REPRESENTABLE:
        return None
    name = worst(shared, settings.tolerances)
    before, after = (c.estimates[name] for c in (floor, cell))
    removed = cell.outcome is not Outcome.NOT_REPRESENTABLE
    if removed and after.interval(after.level)[1] >= before.interval(before.level)[0]:
        return None
    verb = "falls" if removed else "stays refused, going"
    return Cause(
        failure=suspect.failure,
        cure=suspect.cure,
        plan=suspect.plan,
        cell=cell,
        removed=removed,
        sentence=f"with {suspect.cure} {name} {verb} from {before} to {after}",
    )
