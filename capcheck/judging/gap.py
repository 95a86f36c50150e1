"""The gap: how much of a divergence is the procedure's, the network's and the arithmetic's.

    total = structural (oracle) + network (the network - oracle) + numerics (fewer digits - more)

The parts are differences of cells that share their random numbers row by row, so that each has the
interval of the groupwise differences. All parts follow the functional that decides the total (a
bandwidth, a direction), and so add up to it. What fewer digits do is measured from draws alone: the
numerics are the difference of the draws of both precisions, by one estimator, and come on top of
the best that is known of the more precise run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from capcheck.core.budget import Budget
from capcheck.divergences.estimate import GROUPS, Estimate, Term, t_quantile
from capcheck.results.gap import Gap, Part, PartName
from capcheck.results.measurement import Measurement

Stages = Sequence[tuple[PartName, Measurement]]
"""The name of each change, and the cell after it."""


def gaps_of(stages: Stages, *, level: float, rounded: Measurement | None = None) -> tuple[Gap, ...]:
    """Every divergence of a cell in parts.

    Args:
        stages: What each change is called, and the cell after it.
        level: Confidence of the intervals.
        rounded: The last of them in fewer digits, if that is the cell.
    """
    last = stages[-1][1]
    return tuple(
        decompose(
            name,
            [(part, cell.estimates[name]) for part, cell in stages],
            budget=last.budget,
            level=level,
            digits=None if rounded is None else (rounded.precise[name], rounded.estimates[name]),
        )
        for name in last.estimates
    )


def decompose(
    divergence: str,
    stages: Sequence[tuple[PartName, Estimate]],
    *,
    budget: Budget,
    level: float,
    digits: tuple[Estimate, Estimate] | None = None,
) -> Gap:
    """The parts of a divergence.

    Args:
        divergence: Its name.
        stages: What each change is called, and the divergence after it, from the same random
            numbers; the first is a part by itself.
        budget: Of the cell.
        level: Confidence of the intervals.
        digits: The divergence of the draws in the run's own precision and in fewer digits, if the
            cell has fewer.
    """
    gap = Gap(budget=budget, divergence=divergence, level=level)
    named = [*stages, *(("numerics", estimate) for estimate in digits or ())]
    if (reason := _unknown(named, infinite_last=digits is None)) is not None:
        return gap.model_copy(update={"reason": reason})
    # What a total must not contradict: that of the run's own precision, and that of fewer digits.
    certain = any(_is_overruled(e) for e in (stages[-1][1], named[-1][1]))
    followed = _followed([estimate for _, estimate in named], certain=certain)
    if followed is None:
        reason = "its parts are measured in different ways"
        return gap.model_copy(update={"reason": reason})
    own = followed[: len(stages)]
    parts = [_alone(stages[0][0], own[0], level)]
    for (name, _), before, after in zip(stages[1:], own, own[1:], strict=False):
        parts.append(_between(name, before, after, level))
    total = own[-1]
    if digits is not None:
        precise, rounded = followed[-2:]
        parts.append(_between("numerics", precise, rounded, level))
        total = _shifted(total, precise, rounded)
    parts.append(_alone("total", total, level))
    bounds = {f"{e.kind}s" for _, e in named if e.kind.endswith("bound")}
    if certain:
        bounds = {"lower bounds"}
    reason = f"parts of {' and '.join(sorted(bounds))}" if bounds else ""
    return gap.model_copy(update={"parts": tuple(parts), "reason": reason})


def _unknown(named: Sequence[tuple[str, Estimate]], *, infinite_last: bool) -> str | None:
    """Why there are no parts, if there are none."""
    for name, estimate in named:
        if estimate.value is None:
            return f"{name}: {estimate.method}"
        if not estimate.terms and (estimate.below or estimate.above):
            return f"{name}: it is known between two bounds only"
    last = len(named) - infinite_last  # what is added to something finite may be infinite
    for name, estimate in named[:last]:
        if estimate.value is not None and not math.isfinite(estimate.value):
            return f"{name}: it is infinite"
    return None


def _is_overruled(estimate: Estimate) -> bool:
    """Whether certificates leave no room for what the functionals say."""
    if not estimate.terms or estimate.low is None or estimate.high is None:
        return False
    return not estimate.low <= max(term.value for term in estimate.terms) <= estimate.high


def _followed(estimates: Sequence[Estimate], *, certain: bool) -> list[Term] | None:
    """One functional of each estimate, the one that decides the last; None if they are unlike.

    Args:
        estimates: In the order of the stages.
        certain: Follow what bounds them from below, as the last falls short of it.
    """
    found = [e.below if certain else e.terms for e in estimates]
    sampled = [terms for terms, e in zip(found, estimates, strict=True) if e.terms]
    labels = {tuple(term.label for term in terms) for terms in sampled}
    if len(labels) > 1 or () in labels:
        return None
    count = max(1, *map(len, found))
    rows = [_terms(e, terms, count) for e, terms in zip(estimates, found, strict=True)]
    place = max(range(count), key=lambda i: rows[-1][i].value)
    return [row[place] for row in rows]


def _terms(estimate: Estimate, terms: Sequence[Term], count: int) -> list[Term]:
    """Its functionals; an exact value stands for each."""
    if terms:
        return list(terms)
    value = float(estimate.value or 0.0)
    groups = (value,) * GROUPS if math.isfinite(value) else ()
    return [Term(label="exact", value=value, standard_error=0, degrees=1, groups=groups)] * count


def _alone(name: PartName, term: Term, level: float) -> Part:
    low, high = term.interval(level)
    return Part(name=name, value=term.value, low=low, high=high)


def _between(name: PartName, before: Term, after: Term, level: float) -> Part:
    value = after.value - before.value
    half = 0.0
    if after.groups and before.groups:  # an infinite value has none
        half = t_quantile(level, GROUPS - 1) * _error(before, after)
    return Part(name=name, value=value, low=value - half, high=value + half)


def _error(before: Term, after: Term) -> float:
    """Standard error of the difference of two functionals of paired rows."""
    each = np.array(after.groups) - np.array(before.groups)
    error = float(each.std(ddof=1)) / math.sqrt(GROUPS)
    if error == 0 and before.value != after.value:  # no two rows differ, which is no certainty
        return math.hypot(before.standard_error, after.standard_error)
    return error


def _shifted(term: Term, before: Term, after: Term) -> Term:
    """A functional with what a change adds to it."""
    value = term.value + after.value - before.value
    if not (term.groups and before.groups and after.groups):
        return Term(label=term.label, value=value, standard_error=0, degrees=1, groups=())
    groups = np.array(term.groups) + np.array(after.groups) - np.array(before.groups)
    spread = float(groups.std(ddof=1)) / math.sqrt(GROUPS)
    return Term(
        label=term.label,
        value=value,
        standard_error=spread or _error(before, after),
        degrees=GROUPS - 1,
        groups=tuple(groups.tolist()),
    )
