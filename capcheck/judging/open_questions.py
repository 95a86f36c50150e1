"""The questions that an undecided cell leaves open, and the draws that would answer them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capcheck.divergences.estimate import RESOLVED, Estimate
from capcheck.judging.resolution import (
    TRAITS,
    available,
    is_resolved,
    label,
    tolerance_in_unit,
)
from capcheck.results.measurement import Cell, Measurement, Outcome

__all__ = ["LEAST_GROWTH", "Question", "draws_needed", "foremost_question", "open_questions"]

LEAST_GROWTH = 1.5  # least factor of time that is told; one time is what there was


def open_questions(measurement: Measurement, tolerances: Mapping[str, float], level: float) -> str:
    """The reason why a cell is undecided, with the number of samples that would decide it."""
    estimates = available(measurement)
    if not estimates:
        return "no divergence is available"
    questions = _questions(measurement, tolerances, level)
    if questions:
        return "; ".join(question.text for question in questions)
    return f"{', '.join(estimates)} alone cannot show that dependence is kept"


def draws_needed(cells: Sequence[Cell], tolerances: Mapping[str, float], *, level: float) -> float:
    """The fewest draws that would decide a cell of an undecided family; infinite if none would.

    Args:
        cells: All cells of the family, judged.
        tolerances: Tolerance of each divergence, in its tolerance unit.
        level: Joint confidence of the verdicts.
    """
    return min(
        (
            question.draws
            for cell in cells
            if cell.outcome is Outcome.INCONCLUSIVE
            for question in _questions(cell, tolerances, 1 - (1 - level) / len(cells))
        ),
        default=math.inf,
    )


def foremost_question(
    cells: Sequence[Cell], tolerances: Mapping[str, float], *, level: float
) -> Question | None:
    """The question that keeps an undecided family undecided, at its largest undecided budget.

    Divergences that can make a family representable come before others, those that block a pass
    before unresolved ones, and then those that the fewest draws would decide.

    Args:
        cells: All cells of the family, judged.
        tolerances: Tolerance of each divergence, in its tolerance unit.
        level: Joint confidence of the verdicts.

    Returns:
        The question, or None if no cell is undecided or no single divergence is at fault.
    """
    undecided = [cell for cell in cells if cell.outcome is Outcome.INCONCLUSIVE]
    if not undecided:
        return None
    return min(
        _questions(undecided[-1], tolerances, 1 - (1 - level) / len(cells)),
        key=lambda q: (not TRAITS[q.divergence].sufficient, not q.blocks, q.draws),
        default=None,
    )


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question that the evidence about a divergence leaves open.

    Attributes:
        divergence: Name of the divergence.
        text: The question in words.
        answer: What would answer it, or what prevents an answer, as a short clause.
        blocks: Whether the divergence is resolved, so that nothing passes without its answer.
        draws: The number of draws that would answer it, about; infinite if none would.
    """

    divergence: str
    text: str
    answer: str
    blocks: bool
    draws: float = math.inf


def _questions(
    measurement: Measurement, tolerances: Mapping[str, float], level: float
) -> list[Question]:
    """The questions about all divergences that do not lie within their tolerances."""
    found = []
    for name, estimate in available(measurement).items():
        bound = tolerance_in_unit(estimate, tolerances[name])
        resolved = is_resolved(estimate, bound)
        if not (resolved and estimate.interval(level)[1] <= bound):
            text, answer, draws = _open_question(
                name, estimate, bound, level, asked=measurement.samples
            )
            found.append(
                Question(divergence=name, text=text, answer=answer, blocks=resolved, draws=draws)
            )
    return found


def _open_question(
    name: str, estimate: Estimate, bound: float, level: float, *, asked: int
) -> tuple[str, str, float]:
    """The question about one divergence in words, what would answer it, and the draws that would.

    Args:
        name: Name of the divergence.
        estimate: Its estimate.
        bound: Its tolerance, in the unit of the estimate.
        level: Confidence of the estimate's interval.
        asked: Number of draws that the settings ask for, of which an estimate may take a part.
    """
    value, (low, high), short = estimate.value, estimate.interval(level), label(name, estimate)
    if value is None or math.isnan(value):
        return f"{name} is not a number", f"{short} is not a number", math.inf
    distance = abs(bound - value)
    # Intervals may be wider on one side; the end on the side of the tolerance decides.
    half = high - value if value <= bound else value - low
    decisive = math.isfinite(half) and distance > 0
    growth = (half / distance) ** 2 if decisive else math.inf
    if estimate.kind == "lower bound":
        text = f"{name} is a lower bound here, and can only refuse"
        refusing = estimate.samples * growth if value > bound else math.inf
        return text, f"needs a bound on {short} from above", _draws(name, refusing, estimate, asked)
    if estimate.kind == "two bounds":
        text = f"the bounds on {name} lie on both sides of its tolerance"
        return text, f"bounds on {short} on both sides of its tolerance", math.inf
    if not is_resolved(estimate, bound):
        needed = estimate.samples * ((estimate.null_error or 0.0) / (RESOLVED * bound)) ** 2
        return _with_more(name, f"{name} is unresolved", short, needed, estimate, asked)
    if estimate.kind == "upper bound" and low > bound:
        text = f"the upper bound on {name} is above its tolerance, which decides nothing"
        return text, f"only an upper bound on {short}, above its tolerance", math.inf
    if not decisive:
        return f"{name} sits at its tolerance", f"{short} sits at its tolerance", math.inf
    if name == "kl" and estimate.samples < asked:  # time limits its draws
        more = f"{max(growth, LEAST_GROWTH):.2g} times --seconds-per-cell would decide"
        return f"{name} is undecided ({more} it)", f"{more} {short}", math.inf
    needed = estimate.samples * growth
    return _with_more(name, f"{name} is undecided", short, needed, estimate, asked)


def _with_more(
    name: str, text: str, short: str, rows: float, estimate: Estimate, asked: int
) -> tuple[str, str, float]:
    """A question, and the draws that would decide it.

    Args:
        name: Name of the divergence.
        text: The question in words.
        short: Name of the divergence in tables.
        rows: Rows that each independent sample set would need.
        estimate: The estimate, which may have taken a part of the draws.
        asked: Number of draws that the settings ask for.
    """
    divergence = TRAITS[name]
    if divergence.most is not None and rows > divergence.most:
        sets = f"sets of {_rounded(rows)} draws"
        more = f"it would need {sets}, more than can be transported"
        return f"{text} ({more})", f"{short} needs {sets}, too many to transport", math.inf
    draws = _draws(name, rows, estimate, asked)
    count = _rounded(draws)
    return (
        f"{text} (about {count} samples would decide it)",
        f"about {count} draws would decide {short}",
        draws,
    )


def _draws(name: str, rows: float, estimate: Estimate, asked: int) -> float:
    """The draws to ask for, so that each sample set of an estimate has a number of rows."""
    return max(TRAITS[name].sets * rows, asked * rows / max(estimate.samples, 1))


def _rounded(count: float) -> str:
    if not math.isfinite(count):
        return "infinitely many"
    digits = max(0, math.floor(math.log10(max(count, 1))) - 1)
    return f"{math.ceil(count / 10**digits) * 10**digits:,}"
