"""A cause is the property of a procedure that keeps its divergence above the tolerance.

A family has a *floor* if even its largest budget is refused. Each suspected cause that the family
names is switched off and the largest budget is measured again, by KL alone if it refuses the floor
and decides it, which needs few draws of the procedure, and otherwise by all divergences that refuse
the floor; if the divergence falls clearly, the suspect is a cause of the floor. Most causes
show from a part of the draws, and all draws are taken where these are expected to show more.
"""

from __future__ import annotations

import math

from capcheck.judging.resolution import tolerance_in_unit
from capcheck.judging.verdict import judge, refusing_divergences, worst_divergence
from capcheck.results.family import Cause, FamilyResult
from capcheck.results.measurement import Cell, Measurement, Outcome
from capcheck.results.plan import SuspectPlan
from capcheck.results.settings import Settings

__all__ = ["cause_of", "has_floor", "more_draws_would_show", "settings_of_suspects"]


def has_floor(found: FamilyResult) -> bool:
    """Whether even the largest budget of a family is refused."""
    return bool(found.cells) and found.cells[-1].outcome is Outcome.NOT_REPRESENTABLE


def settings_of_suspects(settings: Settings, look: int, floor: Cell) -> list[Settings]:
    """The settings with which suspects of a floor are measured, until one shows something.

    Args:
        settings: Settings of the run.
        look: Number of the look that shows the floor.
        floor: The largest budget, which is refused.
    """
    tolerances, level = settings.tolerances, settings.level_of_a_look
    refusing = refusing_divergences(floor, tolerances, level=level)
    asked = {name: tolerances[name] for name in refusing}
    whole = settings.at(look).model_copy(update={"tolerances": asked})
    part = whole.model_copy(update={"samples": whole.fewer_samples})
    if len(asked) == 1 or "kl" not in asked or floor.estimates["kl"].kind == "lower bound":
        return [part, whole]
    alone = part.model_copy(update={"tolerances": {"kl": asked["kl"]}})
    return [alone, part, whole]


def cause_of(
    suspect: SuspectPlan, measurement: Measurement, floor: Cell, settings: Settings
) -> Cause | None:
    """Judges whether a suspect causes the floor, from the procedure without that suspect.

    Only divergences that are available in both cells are compared, and not those of which only a
    lower bound is known for the changed procedure. The suspect removes the floor if the changed
    procedure is not refused and the worst divergence falls: the upper end of its new interval is
    below the lower end of the old one. If the changed procedure is still refused, the result says
    so with `removed=False`.

    Args:
        suspect: The suspected cause and the procedure that lacks it.
        measurement: The largest budget of the procedure without the suspect.
        floor: The largest budget of the procedure itself.
        settings: Tolerances and confidence level of the run.

    Returns:
        The cause, or None if the comparison shows nothing: the floor is not refused by the
        divergences that both cells have, or no divergence falls clearly.
    """
    level = settings.level_of_a_look
    (cell,) = judge([measurement], settings.tolerances, level=level)
    comparable = {
        name: estimate
        for name, estimate in floor.estimates.items()
        if name in cell.estimates
        and cell.estimates[name].kind not in ("unavailable", "lower bound")
    }
    shared = floor.model_copy(update={"estimates": comparable})
    refusing = refusing_divergences(floor, settings.tolerances, level=level)
    if cell.outcome is Outcome.INCONCLUSIVE and set(cell.estimates) < set(refusing):
        return None  # those that were not asked may still refuse
    (refused,) = judge([shared], settings.tolerances, level=level)
    if refused.outcome is not Outcome.NOT_REPRESENTABLE:
        return None
    name = worst_divergence(shared, settings.tolerances)
    before, after = (c.estimates[name] for c in (floor, cell))
    removed = cell.outcome is not Outcome.NOT_REPRESENTABLE
    if removed and after.interval(after.level)[1] >= before.interval(before.level)[0]:
        return None
    verb = f"{name} falls" if removed else f"it is still refused, and {name} goes"
    return Cause(
        failure=suspect.failure,
        cure=suspect.cure,
        plan=suspect.plan,
        cell=cell,
        removed=removed,
        sentence=f"with {suspect.cure} {verb} from {before} to {after}",
    )


def more_draws_would_show(
    measurement: Measurement, floor: Cell, settings: Settings, *, samples: int
) -> bool:
    """Whether more draws are expected to show what a suspect does that shows nothing yet.

    Intervals narrow with the root of the number of draws. An estimate that came half a standard
    error nearer to it would have to lie below the floor then, or above its tolerance.

    Args:
        measurement: The largest budget of the procedure without the suspect.
        floor: The largest budget of the procedure itself.
        settings: Tolerances and confidence level of the run.
        samples: Number of draws that would be made.
    """
    narrower = math.sqrt(measurement.samples / samples)
    for name, after in measurement.estimates.items():
        before = floor.estimates[name]
        if after.value is None or before.value is None or after.kind == "lower bound":
            continue
        low, high = after.interval(after.level)
        tolerance = tolerance_in_unit(after, settings.tolerances[name])
        nearer = (after.value - low) / 4
        highest = after.value - nearer + narrower * (high - after.value)
        lowest = after.value + nearer - narrower * (after.value - low)
        if highest < before.interval(before.level)[0] or lowest > tolerance:
            return True
    return False
