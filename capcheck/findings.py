"""Findings: what the cells of one family show together.

Verdicts are not stored: they follow from the measurements and the tolerances, and are found anew
whenever a run is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from capcheck.budget import AXES
from capcheck.probe import AnyProbe, Suspect
from capcheck.rates import measured_rates
from capcheck.records import Axes, Cause, Cell, FamilyPlan, Measurement, Outcome, Settings
from capcheck.results import FamilyResult
from capcheck.scaling import loop_order, measured_axes, worse_with_more
from capcheck.sequences import Kind
from capcheck.verdict import family_outcome, judge, smallest, worst


def find(
    probe: AnyProbe,
    plan: FamilyPlan,
    measurements: Sequence[Measurement],
    settings: Settings,
    cured: Sequence[tuple[Suspect, Measurement]] = (),
) -> FamilyResult:
    """Judge a family.

    Args:
        probe: The family's procedure.
        plan: What was measured.
        measurements: All cells of the grid, steps changing fastest.
        settings: How they were measured, and the tolerances.
        cured: What the procedure does at the largest budget with each suspect switched off.
    """
    tolerances, level = settings.tolerances, settings.level_of_a_look
    cells = judge(measurements, tolerances, level=level)
    outcome, reason = family_outcome(cells)
    passed = smallest(cells)
    axes = measured_axes(cells, tolerances, level=level)
    notes = [worse_with_more(cells, tolerances, axis, level=level) for axis in AXES]
    largest = cells[-1]
    if outcome is not Outcome.REPRESENTABLE and largest.witness is not None:
        notes += [f"At {largest.budget}: {said}" for said in largest.witness.sentences()]
    return FamilyResult(
        **_facts(plan),
        row=probe.row,
        in_paper=probe.in_paper,
        outcome=outcome,
        reason=reason,
        smallest_budget=passed.budget if passed else None,
        axes=axes,
        loop_order=loop_order(cells[-1].traces.highest, axes),
        cells=cells,
        causes=tuple(
            cause
            for suspect, measurement in cured
            if (cause := _cause(suspect, measurement, largest, settings)) is not None
        ),
        notes=tuple(note for note in notes if note),
        rates=measured_rates(cells, tolerances, axes, level=settings.level),
    )


def has_floor(found: FamilyResult) -> bool:
    """Whether even the largest budget is refused, so that there is a cause to look for."""
    return bool(found.cells) and found.cells[-1].outcome is Outcome.NOT_REPRESENTABLE


def _cause(
    suspect: Suspect, measurement: Measurement, floor: Cell, settings: Settings
) -> Cause | None:
    """Judge a suspect by what the procedure does without it, or not if that shows nothing.

    It is a cause if the worst divergence that was measured in both falls clearly and nothing is
    refused any more.
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
        plan=plan_of(suspect.probe),
        cell=cell,
        removed=removed,
        sentence=f"with {suspect.cure} {name} {verb} from {before} to {after}",
    )


def plan_of(probe: AnyProbe) -> FamilyPlan:
    """What is measured of a probe with its oracle."""
    return FamilyPlan(family=probe.family, options=dataclasses.asdict(probe))


def without_blame(found: FamilyResult, reason: str) -> FamilyResult:
    """The same result, in which what was refused is undecided: its network proves nothing."""
    cells = tuple(
        cell.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "reason": reason})
        if cell.outcome is Outcome.NOT_REPRESENTABLE
        else cell
        for cell in found.cells
    )
    update: dict[str, Any] = {"cells": cells}
    if found.outcome is not Outcome.REPRESENTABLE:
        update |= {"outcome": Outcome.INCONCLUSIVE, "reason": reason}
    return found.model_copy(update=update)


def wrong_kind(probe: AnyProbe, kind: Kind) -> str:
    """Why a family cannot take tokens of a kind that its procedure is not defined for."""
    kinds = " and ".join(sorted(probe.kinds))
    return f"{probe.family} is defined for {kinds} tokens, not {kind} ones."


def unsupported(probe: AnyProbe, plan: FamilyPlan, reason: str) -> FamilyResult:
    """The result of a family that a target rules out."""
    return failed(probe, plan, reason).model_copy(update={"supported": False})


def failed(probe: AnyProbe, plan: FamilyPlan, error: str) -> FamilyResult:
    """The result of a family that could not be measured."""
    return FamilyResult(
        **_facts(plan),
        row=probe.row,
        in_paper=probe.in_paper,
        outcome=Outcome.INCONCLUSIVE,
        reason=error,
        smallest_budget=None,
        axes=Axes(length="undecided", steps="undecided"),
        loop_order=None,
        cells=(),
        error=error,
    )


def _facts(plan: FamilyPlan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in FamilyPlan.model_fields}
