"""Verdicts: from estimates and tolerances to three-valued outcomes, per cell and per family.

A cell is representable if for every divergence that is available and resolved the upper end is
within the tolerance, and one of them suffices alone; not representable if for at least one the
lower end is above it; otherwise inconclusive. A divergence whose null standard error exceeds a
quarter of its tolerance is unresolved: it can refuse, and it does not block a pass that another
gives.

Several looks at once. Of a cell, a pass needs every divergence, so its p-value is the largest of
theirs; a refusal needs one, so its p-value is the smallest times their number (Bonferroni). Of a
family, with one-sided error alpha = (1 - level) / 2 for each of two procedures:

- every budget is refused if each has p <= alpha, for all must be (intersection-union);
- otherwise the cells are decided in the order of their p-values, the j-th at alpha / (B - j + 1)
  (Holm): of the two statements about each budget one is true, so at most B false ones are at risk.

What a result says of all budgets, the smallest sufficient one and those below it that are refused
included, then holds at the stated level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Estimate
from capcheck.results.measurement import Cell, Measurement, Outcome

TRAITS = DIVERGENCES["continuous"]  # what verdicts use of them is the same for all tokens
RESOLVED = 0.25  # largest null standard error of a resolved divergence, in tolerances


def limit(estimate: Estimate, tolerance: float) -> float:
    """The tolerance in the unit of the estimate."""
    return float(tolerance**estimate.power * estimate.scale)


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """What speaks for either verdict of one cell.

    Attributes:
        p_pass: Of the hypothesis that the cell is not representable.
        p_refuse: Of the hypothesis that it is.
        passing: Why it passes, if it does.
        refusing: Why it is refused, if it is.
    """

    p_pass: float
    p_refuse: float
    passing: str
    refusing: str


def judge(
    measurements: Sequence[Measurement], tolerances: Mapping[str, float], *, level: float
) -> tuple[Cell, ...]:
    """The verdicts of all cells of a family; they hold together at the level.

    Args:
        measurements: What was measured.
        tolerances: Tolerance of each divergence.
        level: Confidence of the family's verdict.
    """
    alpha = (1 - level) / 2
    evidence = [_weigh(measurement, tolerances, alpha) for measurement in measurements]
    outcomes = _decide(evidence, alpha)
    cells = []
    for measurement, found, outcome in zip(measurements, evidence, outcomes, strict=True):
        if outcome is Outcome.REPRESENTABLE:
            reason = found.passing
        elif outcome is Outcome.NOT_REPRESENTABLE:
            reason = found.refusing
        else:
            reason = _open_questions(measurement, tolerances, 1 - (1 - level) / len(evidence))
        facts = {name: getattr(measurement, name) for name in Measurement.model_fields}
        cells.append(Cell(**facts, outcome=outcome, reason=reason))
    return tuple(cells)


def _weigh(measurement: Measurement, tolerances: Mapping[str, float], alpha: float) -> _Evidence:
    estimates = _available(measurement)
    bounds = {name: limit(estimate, tolerances[name]) for name, estimate in estimates.items()}
    resolved = [name for name in estimates if _is_resolved(estimates[name], bounds[name])]
    p_within = [estimates[name].p_within(bounds[name]) for name in resolved]
    sufficient = any(TRAITS[name].sufficient for name in resolved)
    unresolved = [name for name in estimates if name not in resolved]
    note = f"; unresolved: {', '.join(unresolved)}" if unresolved else ""
    p_above = {name: estimates[name].p_above(bounds[name]) for name in estimates}
    count = max(len(estimates), 1)
    refusing = [
        f"{name} is {_times(estimates[name].interval(1 - 2 * alpha / count)[0], bound)}"
        for name, bound in bounds.items()
        if count * p_above[name] <= alpha
    ]
    return _Evidence(
        p_pass=max(p_within) if sufficient else 1.0,
        p_refuse=min(1.0, count * min(p_above.values(), default=1.0)),
        passing=f"within tolerance: {', '.join(resolved)}{note}",
        refusing=", ".join(refusing),
    )


def _decide(evidence: Sequence[_Evidence], alpha: float) -> list[Outcome]:
    if all(found.p_refuse <= alpha for found in evidence):
        return [Outcome.NOT_REPRESENTABLE] * len(evidence)
    outcomes = [Outcome.INCONCLUSIVE] * len(evidence)
    p = [min(found.p_pass, found.p_refuse) for found in evidence]
    for j, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        threshold = alpha / (len(p) - j)
        if p[place] > threshold:
            break
        refused = evidence[place].p_refuse <= threshold
        outcomes[place] = Outcome.NOT_REPRESENTABLE if refused else Outcome.REPRESENTABLE
    return outcomes


def _available(measurement: Measurement) -> dict[str, Estimate]:
    return {
        name: estimate
        for name, estimate in measurement.estimates.items()
        if estimate.value is not None
    }


def _is_resolved(estimate: Estimate, bound: float) -> bool:
    """Whether it could tell that the divergence is small: a lower bound never can."""
    if estimate.kind == "lower bound":
        return False
    return bool(estimate.above) or (estimate.null_error or 0.0) <= RESOLVED * bound


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


def worst(cell: Measurement, tolerances: Mapping[str, float]) -> str:
    """The divergence whose lower end exceeds its tolerance most."""

    def times(name: str) -> float:
        estimate = cell.estimates[name]
        low = estimate.interval(estimate.level)[0]
        return low / limit(estimate, tolerances[name])

    return max(_available(cell), key=times)


def smallest(cells: Sequence[Cell]) -> Cell | None:
    """The cell of fewest model calls, then of least budget, that is representable."""
    passed = [cell for cell in cells if cell.outcome is Outcome.REPRESENTABLE]
    return min(passed, key=_cost) if passed else None


def _cost(cell: Cell) -> tuple[int, int, int]:
    return cell.model_calls, cell.budget.length, cell.budget.steps


def _times(value: float, bound: float) -> str:
    if math.isinf(value):
        return "infinite"
    if bound > 0:
        return f"at least {value / bound:.3g} times its tolerance"
    return f"at least {value:.3g}, not 0"


def _open_questions(measurement: Measurement, tolerances: Mapping[str, float], level: float) -> str:
    """Why a cell is undecided, and how many samples would decide it."""
    estimates = _available(measurement)
    if not estimates:
        return "no divergence is available"
    questions, passing = [], []
    for name, estimate in estimates.items():
        bound = limit(estimate, tolerances[name])
        if _is_resolved(estimate, bound) and estimate.interval(level)[1] <= bound:
            passing.append(name)
        else:
            questions.append(_open_question(name, estimate, bound, level))
    if questions:
        return "; ".join(questions)
    return f"{', '.join(passing)} alone cannot show that dependence is kept"


def _open_question(name: str, estimate: Estimate, bound: float, level: float) -> str:
    value, (low, high) = estimate.value, estimate.interval(level)
    if value is None or math.isnan(value):
        return f"{name} is not a number"
    if estimate.kind == "lower bound":
        return f"{name} is a lower bound here, and can only refuse"
    if estimate.kind == "two bounds":
        return f"the bounds on {name} lie on both sides of its tolerance"
    if not _is_resolved(estimate, bound):
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
