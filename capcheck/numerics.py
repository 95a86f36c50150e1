"""Numerics: whether a verdict survives fewer digits, and what they add to each divergence.

A budget *holds* if it is as it was: refused in both precisions, sufficient in both, or its draws
moved so little that the digits cannot cost more than the tolerance of the Wasserstein distance. It
is blamed on *numerics* if it is refused in fewer digits only.
"""

from __future__ import annotations

from collections.abc import Sequence

from capcheck.budget import Budget
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Estimate
from capcheck.gap import Gap, PartName, decompose
from capcheck.precision import Precision
from capcheck.records import (
    Cell,
    Holding,
    Measurement,
    Outcome,
    PrecisionCell,
    PrecisionResult,
    Settings,
)
from capcheck.verdict import judge, limit

Stages = Sequence[tuple[PartName, Measurement]]


def gaps_of(stages: Stages, *, level: float) -> tuple[Gap, ...]:
    """Every divergence of a cell in parts.

    Args:
        stages: What each change is called, and the cell after it.
        level: Confidence of the intervals.
    """
    last = stages[-1][1]
    return tuple(
        decompose(
            name,
            [(part, cell.estimates[name]) for part, cell in stages],
            budget=last.budget,
            level=level,
        )
        for name in last.estimates
    )


def judge_precision(
    precision: Precision,
    measured: Sequence[Measurement],
    precise: Sequence[Cell],
    before: Sequence[Stages],
    settings: Settings,
) -> PrecisionResult:
    """What a precision does to a procedure.

    Args:
        precision: Which.
        measured: Its cells, one per budget.
        precise: Those in the run's own precision, with their verdicts.
        before: The parts of each cell up to there.
        settings: How they were measured, and the tolerances.
    """
    level = settings.level_of_a_look
    alpha = (1 - level) / 2 / len(measured)
    cells = []
    judged = judge(measured, settings.tolerances, level=level)
    for cell, own, stages in zip(judged, precise, before, strict=True):
        gaps = gaps_of([*stages, ("numerics", cell)], level=settings.level)
        holding = _holding(cell, own, gaps, settings, alpha)
        facts = {name: getattr(cell, name) for name in Cell.model_fields}
        cells.append(PrecisionCell(**facts, holding=holding, gaps=gaps))
    found = {cell.holding for cell in cells}
    holding = next(name for name in _WORST_FIRST if name in found)
    reason = _reason(precision, holding, cells, settings)
    return PrecisionResult(precision=precision, holding=holding, reason=reason, cells=tuple(cells))


_WORST_FIRST: tuple[Holding, ...] = ("numerics", "undecided", "holds")


def _holding(
    cell: Cell, own: Cell, gaps: Sequence[Gap], settings: Settings, alpha: float
) -> Holding:
    if cell.outcome is Outcome.NOT_REPRESENTABLE:
        if own.outcome is Outcome.NOT_REPRESENTABLE:
            return "holds"
        parts = [gap.part("numerics") for gap in gaps]
        worse = any(part is not None and part.low > 0 for part in parts)
        return "numerics" if worse or own.outcome is Outcome.REPRESENTABLE else "undecided"
    if cell.outcome is own.outcome is Outcome.REPRESENTABLE or _stays(cell, settings, alpha):
        return "holds"
    return "undecided"


def _stays(cell: Cell, settings: Settings, alpha: float) -> bool:
    """Whether draws moved by less than the tolerance of the Wasserstein distance."""
    moved = cell.moved
    if moved is None or moved.value is None:
        return False
    return moved.p_within(_tolerated(moved, settings)) <= alpha


def _tolerated(moved: Estimate, settings: Settings) -> float:
    default = DIVERGENCES["continuous" if moved.power == 2 else "categorical"]["wasserstein"]
    return limit(moved, settings.tolerances.get("wasserstein", default.tolerance))


def _reason(
    precision: Precision, holding: Holding, cells: Sequence[PrecisionCell], settings: Settings
) -> str:
    if holding == "holds":
        moves = [cell.moved for cell in cells if cell.moved is not None]
        most = max((m.high or 0.0) / _tolerated(m, settings) for m in moves)
        return f"draws move by at most {most:.2g} times the tolerance of the Wasserstein distance"
    worst = [cell for cell in cells if cell.holding == holding]
    budgets = _named([cell.budget for cell in worst])
    if holding == "numerics":
        return f"{budgets} fails in {precision} and not in {settings.dtype}: {worst[-1].reason}"
    moved = worst[-1].moved
    return f"{budgets} is open: its draws move by {moved}, and {worst[-1].reason}"


def _named(budgets: Sequence[Budget]) -> str:
    more = len(budgets) - 1
    return str(budgets[-1]) + (f" (and {more} more)" if more else "")
