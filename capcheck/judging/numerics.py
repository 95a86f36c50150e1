"""Numerics decides whether a verdict still holds when the procedure runs in fewer digits.

A budget *holds* if it is refused in both precisions, sufficient in both, or if its draws move too
little to matter. A budget is *broken by numerics* if it is sufficient in the run's own precision
and refused in fewer digits.

A family that passes *holds* in fewer digits if at least one of its passing budgets also holds
there, and is *broken by numerics* if all of them break. Any other family holds if all of its
budgets hold. Everything else is *undecided*.

If rounding moves the draws by m in the Wasserstein distance, a distance W from the target becomes
at most W + m. A sufficient budget therefore holds if W + m is within the tolerance. A budget whose
draws move by at most a tenth of the tolerance (`NEGLIGIBLE`) always holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from capcheck.core.budget import Budget
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Estimate
from capcheck.judging.gap import Stages, gaps_of
from capcheck.judging.resolution import tolerance_in_unit
from capcheck.judging.verdict import judge, smallest_sufficient
from capcheck.networks.rounded import Precision
from capcheck.results.family import PrecisionResult
from capcheck.results.measurement import Cell, Holding, Measurement, Outcome, PrecisionCell
from capcheck.results.settings import Settings

__all__ = ["NEGLIGIBLE", "judge_precision"]

NEGLIGIBLE = 0.1  # largest negligible movement, as a share of the Wasserstein tolerance


def judge_precision(
    precision: Precision,
    measured: Sequence[Measurement],
    precise: Sequence[Cell],
    before: Sequence[Stages],
    settings: Settings,
) -> PrecisionResult:
    """Judges a procedure that was run in fewer digits against its run in full precision.

    Args:
        precision: The lower precision.
        measured: The cells in that precision, one per budget.
        precise: The cells in the run's own precision, with their verdicts.
        before: The stages of each cell in the run's own precision; see `gaps_of`.
        settings: Settings of the run, with the tolerances.
    """
    level = settings.level_of_a_look
    each = 1 - (1 - level) / len(measured)
    cells = []
    judged = judge(measured, settings.tolerances, level=level)
    for cell, own, stages in zip(judged, precise, before, strict=True):
        facts = {name: getattr(cell, name) for name in Cell.model_fields}
        holding = _holding(cell, own, settings, each)
        gaps = gaps_of(stages, level=settings.level, rounded=cell)
        cells.append(PrecisionCell(**facts, holding=holding, gaps=gaps))
    enough = [
        cell
        for cell, own in zip(cells, precise, strict=True)
        if own.outcome is Outcome.REPRESENTABLE
    ]
    holding = _overall([cell.holding for cell in enough or cells], sufficient=bool(enough))
    reason = _reason(precision, cells, precise, settings)
    return PrecisionResult(precision=precision, holding=holding, reason=reason, cells=tuple(cells))


def _overall(holdings: Sequence[Holding], *, sufficient: bool) -> Holding:
    """Whether a procedure holds, from its sufficient budgets, or from all if none is sufficient."""
    if (any if sufficient else all)(holding == "holds" for holding in holdings):
        return "holds"
    broken = sufficient and all(holding == "numerics" for holding in holdings)
    return "numerics" if broken else "undecided"


def _holding(cell: Cell, own: Cell, settings: Settings, level: float) -> Holding:
    if cell.outcome is own.outcome is not Outcome.INCONCLUSIVE:
        return "holds"
    if own.outcome is Outcome.REPRESENTABLE and cell.outcome is Outcome.NOT_REPRESENTABLE:
        return "numerics"
    return "holds" if _moves_too_little(cell, own, settings, level) else "undecided"


def _moves_too_little(cell: Cell, own: Cell, settings: Settings, level: float) -> bool:
    """Whether the draws of a budget move too little to change its verdict."""
    moved = cell.moved
    if moved is None or moved.value is None:
        return False
    tolerance = _distance(_tolerated(moved, settings), moved)
    move = _distance(moved.interval(level)[1], moved)
    if move <= NEGLIGIBLE * tolerance:
        return True
    distance = own.estimates.get("wasserstein")
    if own.outcome is not Outcome.REPRESENTABLE or distance is None or distance.value is None:
        return False
    return _distance(distance.interval(level)[1], moved) + move <= tolerance


def _distance(value: float, like: Estimate) -> float:
    """A Wasserstein divergence as a distance: the square root where the estimate is a square."""
    return float(max(value, 0.0) ** (1 / like.power))


def _tolerated(moved: Estimate, settings: Settings) -> float:
    default = DIVERGENCES["continuous" if moved.power == 2 else "categorical"]["wasserstein"]
    return tolerance_in_unit(moved, settings.tolerances.get("wasserstein", default.tolerance))


def _reason(
    precision: Precision,
    cells: Sequence[PrecisionCell],
    precise: Sequence[Cell],
    settings: Settings,
) -> str:
    said = []
    broken = [cell for cell in cells if cell.holding == "numerics"]
    if broken:
        said.append(
            f"{_named([cell.budget for cell in broken])} suffices in {settings.dtype} and not in "
            f"{precision}: {broken[-1].reason}"
        )
    passed = smallest_sufficient(
        [own for own, c in zip(precise, cells, strict=True) if c.holding == "holds"]
    )
    if broken and passed is not None:
        said.append(f"{passed.budget} suffices in both")
    still_open = [cell for cell in cells if cell.holding == "undecided"]
    if still_open:
        last = still_open[-1]
        said.append(
            f"{_named([cell.budget for cell in still_open])} is open: {_moves(last, settings)}, "
            f"and {last.reason}"
        )
    return "; ".join(said) or _moves(max(cells, key=_movement), settings)


def _movement(cell: Cell) -> float:
    return -1.0 if cell.moved is None or cell.moved.value is None else cell.moved.value


def _moves(cell: Cell, settings: Settings) -> str:
    """A clause that says how far the draws of a budget move."""
    moved = cell.moved
    if moved is None or moved.value is None or moved.high is None:
        return "it is not known how far draws move" + (f" ({moved.method})" if moved else "")
    tolerance = _distance(_tolerated(moved, settings), moved)
    if tolerance == 0 or not math.isfinite(moved.high):
        return f"draws move by {moved} on average"
    share = _distance(moved.high, moved) / tolerance
    return f"draws move by at most {share:.2g} times the tolerance of the Wasserstein distance"


def _named(budgets: Sequence[Budget]) -> str:
    more = len(budgets) - 1
    return str(budgets[-1]) + (f" (and {more} more)" if more else "")
