"""A family's result is judged from its measured cells, the tolerances and the confidence level.

Verdicts are not stored. They are computed again whenever a run is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from capcheck.core.budget import AXES
from capcheck.judging.rates import measured_rates
from capcheck.judging.scaling import loop_order, measured_axes, worse_with_more
from capcheck.judging.verdict import family_outcome, judge, smallest_sufficient
from capcheck.results.family import Axes, FamilyResult
from capcheck.results.measurement import Cell, Measurement, Outcome
from capcheck.results.plan import FamilyEntry
from capcheck.results.settings import Settings

__all__ = [
    "failed_result",
    "judge_family",
    "unfinished_result",
    "unsupported_result",
    "with_refusals_undecided",
]


def judge_family(
    entry: FamilyEntry,
    measurements: Sequence[Measurement],
    settings: Settings,
) -> FamilyResult:
    """Judges a family: its verdict, its use of the axes and its rates.

    Args:
        entry: The family's plan, its row of the paper's table and its suspects.
        measurements: All cells of the grid, steps changing fastest.
        settings: Settings of the run, with the tolerances.
    """
    tolerances, level = settings.tolerances, settings.level_of_a_look
    cells = judge(measurements, tolerances, level=level)
    outcome, reason = family_outcome(cells)
    passed = smallest_sufficient(cells)
    axes = measured_axes(cells, tolerances, level=level)
    notes = [worse_with_more(cells, tolerances, axis, level=level) for axis in AXES]
    largest = cells[-1]
    notes.append(_never_placed(cells))
    if outcome is not Outcome.REPRESENTABLE and largest.witness is not None:
        notes += [f"At {largest.budget}: {said}" for said in largest.witness.sentences()]
    if outcome is not Outcome.REPRESENTABLE and largest.quality is not None:
        notes += [f"At {largest.budget}: {said}" for said in largest.quality.sentences()]
    return FamilyResult(
        plan=entry.plan,
        row=entry.row,
        in_paper=entry.in_paper,
        outcome=outcome,
        reason=reason,
        smallest_budget=passed.budget if passed else None,
        axes=axes,
        loop_order=loop_order(cells[-1].traces.highest, axes),
        cells=cells,
        notes=tuple(note for note in notes if note),
        rates=measured_rates(cells, tolerances, axes, level=settings.level),
    )


def _never_placed(cells: Sequence[Cell]) -> str | None:
    """A note on tokens that a procedure left behind, although its length allows all of them."""
    ended = [cell for cell in cells if cell.unplaced > 0]
    if not ended:
        return None
    counts = "; ".join(f"{cell.unplaced:.3g} at {cell.budget}" for cell in ended)
    return f"Tokens of a sequence that no step accepted, and that are completed at once: {counts}."


def with_refusals_undecided(found: FamilyResult, reason: str) -> FamilyResult:
    """Turns every refusal of a result into `inconclusive`, as its network was not fitted well.

    Args:
        found: The result with that network.
        reason: Why the fit shows nothing about the network, as one clause.
    """
    cells = tuple(
        cell.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "reason": reason})
        if cell.outcome is Outcome.NOT_REPRESENTABLE
        else cell
        for cell in found.cells
    )
    undecided = {"outcome": Outcome.INCONCLUSIVE, "reason": reason}
    passed = found.outcome is Outcome.REPRESENTABLE
    return found.model_copy(update={"cells": cells} | ({} if passed else undecided))


def unsupported_result(entry: FamilyEntry, reason: str) -> FamilyResult:
    """The result of a family whose procedure is not defined for the target."""
    return failed_result(entry, reason, missing=0).model_copy(update={"supported": False})


def failed_result(entry: FamilyEntry, error: str, *, missing: int) -> FamilyResult:
    """The result of a family that could not be measured, and so lacks a number of cells."""
    return FamilyResult(
        plan=entry.plan,
        row=entry.row,
        in_paper=entry.in_paper,
        outcome=Outcome.INCONCLUSIVE,
        reason=error,
        smallest_budget=None,
        axes=Axes(length="undecided", steps="undecided"),
        loop_order=None,
        cells=(),
        error=error,
        missing=missing,
    )


def unfinished_result(
    entry: FamilyEntry, measurements: Sequence[Measurement], settings: Settings
) -> FamilyResult:
    """The result of a family that lacks cells of the grid, with those that are measured.

    The verdicts of a family hold together, and need all its cells. Here every cell is undecided.

    Args:
        entry: The family's plan, its row of the paper's table and its suspects.
        measurements: The cells that are measured, steps changing fastest.
        settings: Settings of the run.
    """
    total, title = len(settings.grid.budgets()), entry.plan.title
    missing = total - len(measurements)
    lack = f"{title} lacks {missing} of its {total} cells; run the command again."
    reason = "its family lacks cells, and is judged when it has them all"
    cells = (
        Cell(
            **{name: getattr(cell, name) for name in Measurement.model_fields},
            outcome=Outcome.INCONCLUSIVE,
            reason=reason,
        )
        for cell in measurements
    )
    found = failed_result(entry, lack, missing=missing)
    return found.model_copy(update={"cells": tuple(cells)})
