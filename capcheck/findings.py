"""Findings: what the cells of one family show together.

Verdicts are not stored: they follow from the measurements and the tolerances, and are found anew
whenever a run is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capcheck.budget import AXES
from capcheck.probe import AnyProbe
from capcheck.results import Axes, FamilyPlan, FamilyResult, Measurement, Outcome, Settings
from capcheck.scaling import loop_order, measured_axes, worse_with_more
from capcheck.sequences import Kind
from capcheck.verdict import family_outcome, judge, smallest


def find(
    probe: AnyProbe, plan: FamilyPlan, measurements: Sequence[Measurement], settings: Settings
) -> FamilyResult:
    """Judge a family.

    Args:
        probe: The family's procedure.
        plan: What was measured.
        measurements: All cells of the grid, steps changing fastest.
        settings: How they were measured, and the tolerances.
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
        outcome=outcome,
        reason=reason,
        smallest_budget=passed.budget if passed else None,
        axes=axes,
        loop_order=loop_order(cells[-1].traces.highest, axes),
        cells=cells,
        notes=tuple(note for note in notes if note),
    )


def unsupported(probe: AnyProbe, plan: FamilyPlan, kind: Kind) -> FamilyResult:
    """The result of a family whose procedure is not defined for such tokens."""
    kinds = " and ".join(sorted(probe.kinds))
    reason = f"{probe.family} is defined for {kinds} tokens, not {kind} ones."
    return failed(probe, plan, reason).model_copy(update={"supported": False})


def failed(probe: AnyProbe, plan: FamilyPlan, error: str) -> FamilyResult:
    """The result of a family that could not be measured."""
    return FamilyResult(
        **_facts(plan),
        row=probe.row,
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
