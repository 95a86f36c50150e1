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
    tolerance_in_unit,
)
from capcheck.results.measurement import Cell, Measurement, Outcome

__all__ = ["draws_needed", "open_questions"]


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


@dataclass(frozen=True, kw_only=True)
class _Question:
    """A question that the evidence about a divergence leaves open.

    Attributes:
        text: The question in words.
        draws: The number of draws that would answer it, about; infinite if none would.
    """

    text: str
    draws: float = math.inf


def _questions(
    measurement: Measurement, tolerances: Mapping[str, float], level: float
) -> list[_Question]:
    """The questions about all divergences that do not lie within their tolerances."""
    found = []
    for name, estimate in available(measurement).items():
        bound = tolerance_in_unit(estimate, tolerances[name])
        if not (is_resolved(estimate, bound) and estimate.interval(level)[1] <= bound):
            limited = name == "kl" and estimate.samples < measurement.samples
            found.append(_open_question(name, estimate, bound, level, limited=limited))
    return found


def _open_question(
    name: str, estimate: Estimate, bound: float, level: float, *, limited: bool
) -> _Question:
    """The question about one divergence; `limited` says that time limits its number of draws."""
    value, (low, high) = estimate.value, estimate.interval(level)
    if value is None or math.isnan(value):
        return _Question(text=f"{name} is not a number")
    distance = abs(bound - value)
    decisive = math.isfinite(high - low) and distance > 0
    growth = ((high - low) / 2 / distance) ** 2 if decisive else math.inf
    if estimate.kind == "lower bound":
        text = f"{name} is a lower bound here, and can only refuse"
        refusing = estimate.samples * growth if value > bound else math.inf
        return _Question(text=text, draws=TRAITS[name].sets * refusing)
    if estimate.kind == "two bounds":
        text = f"the bounds on {name} lie on both sides of its tolerance"
        return _Question(text=text)
    if not is_resolved(estimate, bound):
        needed = estimate.samples * ((estimate.null_error or 0.0) / (RESOLVED * bound)) ** 2
        return _with_more(name, f"{name} is unresolved", needed)
    if estimate.kind == "upper bound" and low > bound:
        text = f"the upper bound on {name} is above its tolerance, which decides nothing"
        return _Question(text=text)
    if not decisive:
        return _Question(text=f"{name} sits at its tolerance")
    if limited:
        more = f"({growth:.2g} times --seconds-per-cell would decide it)"
        return _Question(text=f"{name} is undecided {more}")
    return _with_more(name, f"{name} is undecided", estimate.samples * growth)


def _with_more(name: str, text: str, rows: float) -> _Question:
    """A question with the number of draws that would decide it.

    Args:
        name: Name of the divergence.
        text: The question in words.
        rows: Rows that each independent sample set would need.
    """
    divergence = TRAITS[name]
    if divergence.most is not None and rows > divergence.most:
        more = f"(it would need sets of {_rounded(rows)} draws, more than can be transported)"
        return _Question(text=f"{text} {more}")
    draws = divergence.sets * rows
    more = f"(about {_rounded(draws)} samples would decide it)"
    return _Question(text=f"{text} {more}", draws=draws)


def _rounded(count: float) -> str:
    if not math.isfinite(count):
        return "infinitely many"
    digits = max(0, math.floor(math.log10(max(count, 1))) - 1)
    return f"{math.ceil(count / 10**digits) * 10**digits:,}"
