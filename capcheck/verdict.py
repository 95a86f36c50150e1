"""Verdicts: from estimates and tolerances to three-valued outcomes, per cell and per family.

A cell is representable if for every divergence that is available and resolved the upper end is
within the tolerance, and one of them suffices alone; not representable if for at least one the
lower end is above it; otherwise inconclusive. A divergence whose null standard error exceeds a
quarter of its tolerance is unresolved: it can refuse, and it does not block a pass that another
gives.

Several looks at once: a refusal holds if any divergence refuses, so each refuses at level
1 - alpha / (divergences); some budget of a grid passes if any does, so each passes at level
1 - alpha / (budgets). Every budget must refuse for the family to be refused, which needs no
further correction. The family's outcome, and that its smallest budget suffices, then hold at the
stated level; that a cheaper budget does not suffice holds for each by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Estimate
from capcheck.results import Cell, Measurement, Outcome

TRAITS = DIVERGENCES["continuous"]  # what verdicts use of them is the same for all tokens
RESOLVED = 0.25  # largest null standard error of a resolved divergence, in tolerances


def limit(estimate: Estimate, tolerance: float) -> float:
    """The tolerance in the unit of the estimate."""
    return float(tolerance**estimate.power * estimate.scale)


def judge(
    measurement: Measurement, tolerances: Mapping[str, float], *, level: float, budgets: int
) -> Cell:
    """The verdict of one cell.

    Args:
        measurement: What was measured.
        tolerances: Tolerance of each divergence.
        level: Confidence of the family's verdict.
        budgets: Cells of the family that are looked at.
    """
    available = {
        name: estimate
        for name, estimate in measurement.estimates.items()
        if estimate.value is not None
    }
    refuse_level = 1 - (1 - level) / max(len(available), 1)
    pass_level = 1 - (1 - level) / budgets
    refusing, passing, resolved, open_questions = [], [], [], []
    for name, estimate in available.items():
        bound = limit(estimate, tolerances[name])
        if estimate.kind != "upper bound" and estimate.interval(refuse_level)[0] > bound:
            refusing.append(
                f"{name} is at least {_times(estimate.interval(refuse_level)[0], bound)}"
            )
        # A lower bound cannot tell that the divergence is small, however precise it is.
        resolves = estimate.kind != "lower bound"
        is_resolved = resolves and (estimate.null_error or 0.0) <= RESOLVED * bound
        within = estimate.interval(pass_level)[1] <= bound
        if is_resolved:
            resolved.append(name)
        if is_resolved and within:
            passing.append(name)
        else:
            open_questions.append(_open_question(name, estimate, bound, pass_level, is_resolved))
    sufficient = any(TRAITS[name].sufficient for name in passing)
    if refusing:
        outcome, reason = Outcome.NOT_REPRESENTABLE, ", ".join(refusing)
    elif sufficient and resolved == passing:
        unresolved = [name for name in available if name not in resolved]
        note = f"; unresolved: {', '.join(unresolved)}" if unresolved else ""
        outcome, reason = Outcome.REPRESENTABLE, f"within tolerance: {', '.join(passing)}{note}"
    elif not available:
        outcome, reason = Outcome.INCONCLUSIVE, "no divergence is available"
    else:
        if not open_questions:
            open_questions = [f"{', '.join(passing)} alone cannot show that dependence is kept"]
        outcome, reason = Outcome.INCONCLUSIVE, "; ".join(open_questions)
    facts = {name: getattr(measurement, name) for name in Measurement.model_fields}
    return Cell(**facts, outcome=outcome, reason=reason)


def family_outcome(cells: Sequence[Cell]) -> tuple[Outcome, str]:
    """The verdict over a grid, with one sentence that says why."""
    if not cells:
        return Outcome.INCONCLUSIVE, "nothing was measured"
    passed = smallest(cells)
    if passed is not None:
        return Outcome.REPRESENTABLE, f"sufficient at {passed.budget}: {passed.reason}"
    largest = cells[-1]
    if all(cell.outcome is Outcome.NOT_REPRESENTABLE for cell in cells):
        reason = f"every budget fails; at {largest.budget} {largest.reason}"
        return Outcome.NOT_REPRESENTABLE, reason
    undecided = [cell for cell in cells if cell.outcome is Outcome.INCONCLUSIVE]
    cheapest = min(undecided, key=_cost)
    return Outcome.INCONCLUSIVE, f"undecided from {cheapest.budget} on: {undecided[-1].reason}"


def smallest(cells: Sequence[Cell]) -> Cell | None:
    """The cell of fewest model calls, then of least budget, that is representable."""
    passed = [cell for cell in cells if cell.outcome is Outcome.REPRESENTABLE]
    return min(passed, key=_cost) if passed else None


def _cost(cell: Cell) -> tuple[int, int, int]:
    return cell.model_calls, cell.budget.length, cell.budget.steps


def _times(value: float, bound: float) -> str:
    return f"{value / bound:.3g} times its tolerance" if bound > 0 else f"{value:.3g}, not 0"


def _open_question(
    name: str, estimate: Estimate, bound: float, level: float, is_resolved: bool
) -> str:
    value, (low, high) = estimate.value, estimate.interval(level)
    if value is None or math.isnan(value):
        return f"{name} is not a number"
    if estimate.kind == "lower bound":
        return f"{name} is a lower bound here, and can only refuse"
    if not is_resolved:
        growth = ((estimate.null_error or 0.0) / (RESOLVED * bound)) ** 2
        return f"{name} is unresolved{_with_more(name, estimate.samples * growth)}"
    if estimate.kind == "upper bound" and low > bound:
        return f"the upper bound on {name} is above its tolerance, which decides nothing"
    distance = abs(bound - value)
    if distance == 0 or not math.isfinite(high - low):
        return f"{name} sits at its tolerance"
    growth = ((high - low) / 2 / distance) ** 2
    return f"{name} is undecided{_with_more(name, estimate.samples * growth)}"


def _with_more(name: str, rows: float) -> str:
    """How many draws would decide, given the rows that one sample set would need."""
    divergence = TRAITS[name]
    if divergence.most is not None and rows > divergence.most:
        return f" (it would need sets of {_rounded(rows)} draws, more than can be transported)"
    return f" (about {_rounded(divergence.sets * rows)} samples would decide it)"


def _rounded(count: float) -> str:
    if not math.isfinite(count):
        return "infinitely many"
    digits = max(0, math.floor(math.log10(max(count, 1))) - 1)
    return f"{math.ceil(count / 10**digits) * 10**digits:,}"
