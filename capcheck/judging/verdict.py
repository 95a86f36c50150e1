"""A verdict is one of three outcomes, found from the estimates of a cell and their tolerances.

A cell is *representable* if the interval of every available and resolved divergence lies within its
tolerance, and at least one of these divergences is sufficient by itself. A cell is *not
representable* if the interval of at least one available divergence lies above its tolerance, and
*inconclusive* otherwise.

A divergence is *unresolved* if its null standard error exceeds a quarter of its tolerance
(`RESOLVED`), or if it is only a lower bound. An unresolved divergence can refuse a cell; it cannot
pass one, and does not block a pass by another divergence.

Multiple testing, in one cell: a pass needs every resolved divergence, so its p-value is the largest
of theirs; a refusal needs only one, so its p-value is the smallest of all divergences times their
number (Bonferroni). Over the B budgets of a family, there are two procedures, each with one-sided
error alpha = (1 - level) / 2:

- all budgets are refused together if each has a refusal p-value of at most alpha
  (intersection-union test);
- otherwise the cells are decided in the order of their p-values, the j-th at alpha / (B - j + 1)
  (Holm). Exactly one of the two statements about a budget is false, so there are at most B false
  statements.

All statements about the budgets of a family hold together at the stated level. These include which
sufficient budget is the smallest, and which smaller ones are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capcheck.divergences.estimate import Estimate
from capcheck.judging.open_questions import open_questions
from capcheck.judging.resolution import TRAITS, available, is_resolved, tolerance_in_unit
from capcheck.results.measurement import Cell, Measurement, Outcome

__all__ = [
    "family_outcome",
    "judge",
    "passes_alone",
    "refuses_alone",
    "refusing_divergences",
    "smallest_sufficient",
    "worst_divergence",
]


def refuses_alone(estimate: Estimate, tolerance: float, *, level: float, statements: int) -> bool:
    """Whether a divergence refuses its cell by itself, whatever the other evidence is.

    Args:
        estimate: Estimate of the divergence.
        tolerance: Its tolerance, in its tolerance unit.
        level: Joint confidence of the verdicts of a family.
        statements: Number of divergences times the number of budgets of the family, which is the
            most that the two corrections of `judge` divide the error by.
    """
    p_above = estimate.p_above(tolerance_in_unit(estimate, tolerance))
    return statements * p_above <= (1 - level) / 2


def passes_alone(estimate: Estimate, tolerance: float, *, level: float, statements: int) -> bool:
    """Whether a divergence is within its tolerance, whatever else is measured of its family.

    Args:
        estimate: Estimate of the divergence.
        tolerance: Its tolerance, in its tolerance unit.
        level: Joint confidence of the verdicts of a family.
        statements: As for `refuses_alone`.
    """
    p_within = estimate.p_within(tolerance_in_unit(estimate, tolerance))
    return statements * p_within <= (1 - level) / 2


def refusing_divergences(
    measurement: Measurement, tolerances: Mapping[str, float], *, level: float
) -> list[str]:
    """The divergences that refuse a cell, if any does, each with a part of the error level."""
    estimates = available(measurement)
    return [
        name
        for name, estimate in estimates.items()
        if len(estimates) * estimate.p_above(tolerance_in_unit(estimate, tolerances[name]))
        <= (1 - level) / 2
    ]


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """The evidence for and against one cell.

    Attributes:
        p_pass: p-value of the hypothesis that the cell is not representable.
        p_refuse: p-value of the hypothesis that the cell is representable.
        passing: The reason to state if the cell passes.
        refusing: The reason to state if the cell is refused.
    """

    p_pass: float
    p_refuse: float
    passing: str
    refusing: str


def judge(
    measurements: Sequence[Measurement], tolerances: Mapping[str, float], *, level: float
) -> tuple[Cell, ...]:
    """Judges all cells of a family, so that all of their verdicts hold together at the level.

    Args:
        measurements: The measured cells.
        tolerances: Tolerance of each divergence, in its tolerance unit.
        level: Joint confidence of the verdicts.
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
            reason = open_questions(measurement, tolerances, 1 - (1 - level) / len(evidence))
        facts = {name: getattr(measurement, name) for name in Measurement.model_fields}
        cells.append(Cell(**facts, outcome=outcome, reason=reason))
    return tuple(cells)


def _weigh(measurement: Measurement, tolerances: Mapping[str, float], alpha: float) -> _Evidence:
    estimates = available(measurement)
    bounds = {
        name: tolerance_in_unit(estimate, tolerances[name]) for name, estimate in estimates.items()
    }
    resolved = [name for name in estimates if is_resolved(estimates[name], bounds[name])]
    p_within = [estimates[name].p_within(bounds[name]) for name in resolved]
    sufficient = any(TRAITS[name].sufficient for name in resolved)
    unresolved = [name for name in estimates if name not in resolved]
    note = f"; unresolved: {', '.join(unresolved)}" if unresolved else ""
    p_above = {name: estimates[name].p_above(bounds[name]) for name in estimates}
    count = max(len(estimates), 1)
    refusing = [
        f"{name} is {_times(estimates[name].interval(1 - 2 * alpha / count)[0], bounds[name])}"
        for name in refusing_divergences(measurement, tolerances, level=1 - 2 * alpha)
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


def family_outcome(cells: Sequence[Cell]) -> tuple[Outcome, str]:
    """The verdict of a family over its grid, with one sentence that gives the reason."""
    if not cells:
        return Outcome.INCONCLUSIVE, "nothing was measured"
    passed = smallest_sufficient(cells)
    if passed is not None:
        return Outcome.REPRESENTABLE, f"sufficient at {passed.budget}: {passed.reason}"
    largest = cells[-1]
    if all(cell.outcome is Outcome.NOT_REPRESENTABLE for cell in cells):
        reason = f"every budget fails; at {largest.budget} {largest.reason}"
        return Outcome.NOT_REPRESENTABLE, reason
    undecided = [cell for cell in cells if cell.outcome is Outcome.INCONCLUSIVE]
    cheapest = min(undecided, key=_cost)
    return Outcome.INCONCLUSIVE, f"undecided from {cheapest.budget} on: {undecided[-1].reason}"


def worst_divergence(cell: Measurement, tolerances: Mapping[str, float]) -> str:
    """Name of the divergence whose lower end is the largest multiple of its tolerance."""

    def times(name: str) -> float:
        estimate = cell.estimates[name]
        low = estimate.interval(estimate.level)[0]
        return low / tolerance_in_unit(estimate, tolerances[name])

    return max(available(cell), key=times)


def smallest_sufficient(cells: Sequence[Cell]) -> Cell | None:
    """The representable cell of fewest model calls, among equals of the smallest budget."""
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
