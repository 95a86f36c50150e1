"""The gap splits a divergence into the parts of the procedure, the network and the arithmetic.

    total = structural (oracle) + network (network - oracle) + numerics (fewer digits - more digits)

Each part is the difference of two cells that share their random numbers row by row, so that its
interval is that of the paired differences, taken over groups of rows. All parts use the one
functional that decides the total (for example one bandwidth), and therefore add up to the total.

The numerics are measured from draws alone: one estimator is applied to the draws in both
precisions. Their difference is added to the best known value of the more precise run, which may be
exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from capcheck.core.budget import Budget
from capcheck.divergences.estimate import GROUPS, Estimate, Term, t_quantile
from capcheck.results.gap import Gap, Part, PartName
from capcheck.results.measurement import Measurement

__all__ = ["Stages", "decompose", "gaps_of"]

Stages = Sequence[tuple[PartName, Measurement]]
"""The stages of a cell: the name of each change, with the cell measured after that change."""


def gaps_of(stages: Stages, *, level: float, rounded: Measurement | None = None) -> tuple[Gap, ...]:
    """Splits every divergence of a cell into parts.

    Args:
        stages: The name of each change, with the cell after it; the first is a part by itself.
        level: Confidence of the intervals.
        rounded: The last stage in fewer digits, if that is the cell whose gap is wanted.
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
    """Splits one divergence of a cell into parts.

    Args:
        divergence: Name of the divergence.
        stages: The name of each change, with the divergence after it; all are measured from the
            same random numbers, and the first is a part by itself.
        budget: Budget of the cell.
        level: Confidence of the intervals.
        digits: For a cell in fewer digits: the divergence of the draws in the run's own precision,
            and that of the draws in fewer digits, by the same estimator.

    Returns:
        The parts and their total, or no parts and the reason.
    """
    gap = Gap(budget=budget, divergence=divergence, level=level)
    named = [*stages, *(("numerics", estimate) for estimate in digits or ())]
    if (reason := _unknown(named, infinite_last=digits is None)) is not None:
        return gap.model_copy(update={"reason": reason})
    if divergence == "wasserstein" and len({e.samples for _, e in named if e.terms}) > 1:
        # Transport falls short of the distance by what depends on the number of rows.
        reason = "its parts are measured from different numbers of draws"
        return gap.model_copy(update={"reason": reason})
    # A total must contradict neither the estimate in the run's own precision nor that in fewer
    # digits, so lower bounds take the place of the estimates wherever they overrule one of the two.
    certain = any(_is_overruled(e) for e in (stages[-1][1], named[-1][1]))
    followed = _followed_terms([estimate for _, estimate in named], certain=certain)
    if followed is None:
        reason = "its parts are measured in different ways"
        return gap.model_copy(update={"reason": reason})
    own = followed[: len(stages)]
    parts = [_part(stages[0][0], own[0], level)]
    for (name, _), before, after in zip(stages[1:], own, own[1:], strict=False):
        parts.append(_difference(name, before, after, level))
    total = own[-1]
    if digits is not None:
        precise, rounded = followed[-2:]
        parts.append(_difference("numerics", precise, rounded, level))
        total = _sum(total, precise, rounded)
    parts.append(_part("total", total, level))
    bounds = {f"{e.kind}s" for _, e in named if e.kind.endswith("bound")}
    if certain:
        bounds = {"lower bounds"}
    reason = f"parts of {' and '.join(sorted(bounds))}" if bounds else ""
    return gap.model_copy(update={"parts": tuple(parts), "reason": reason})


def _unknown(named: Sequence[tuple[str, Estimate]], *, infinite_last: bool) -> str | None:
    """The reason why a divergence has no parts, or None if it has them."""
    for name, estimate in named:
        if estimate.value is None:
            return f"{name}: {estimate.method}"
        if not estimate.terms and (estimate.below or estimate.above):
            return f"{name}: it is known between two bounds only"
    last = len(named) - infinite_last  # an infinite last stage is an infinite part on a finite one
    for name, estimate in named[:last]:
        if estimate.value is not None and not math.isfinite(estimate.value):
            return f"{name}: it is infinite"
    return None


def _is_overruled(estimate: Estimate) -> bool:
    """Whether certificates exclude the value that the measured functionals give."""
    if not estimate.terms or estimate.low is None or estimate.high is None:
        return False
    return not estimate.low <= max(term.value for term in estimate.terms) <= estimate.high


def _followed_terms(estimates: Sequence[Estimate], *, certain: bool) -> list[Term] | None:
    """Selects from each estimate the functional that decides the last estimate.

    Args:
        estimates: The divergence at each stage, in the order of the stages.
        certain: Use the lower bounds instead of the estimated functionals.

    Returns:
        One functional per estimate, or None if the estimates do not have the same functionals.
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
    """The functionals of an estimate; an exact value is repeated `count` times."""
    if terms:
        return list(terms)
    value = float(estimate.value or 0.0)
    groups = (value,) * GROUPS if math.isfinite(value) else ()
    return [Term(label="exact", value=value, standard_error=0, degrees=1, groups=groups)] * count


def _part(name: PartName, term: Term, level: float) -> Part:
    low, high = term.interval(level)
    return Part(name=name, value=term.value, low=low, high=high)


def _difference(name: PartName, before: Term, after: Term, level: float) -> Part:
    value = after.value - before.value
    half = 0.0
    if after.groups and before.groups:  # an infinite value has no groups
        half = t_quantile(level, GROUPS - 1) * _error(before, after)
    return Part(name=name, value=value, low=value - half, high=value + half)


def _error(before: Term, after: Term) -> float:
    """Standard error of the difference of two functionals of paired rows."""
    each = np.array(after.groups) - np.array(before.groups)
    error = float(each.std(ddof=1)) / math.sqrt(GROUPS)
    if error == 0 and before.value != after.value:  # equal rows in a sample do not prove certainty
        return math.hypot(before.standard_error, after.standard_error)
    return error


def _sum(term: Term, before: Term, after: Term) -> Term:
    """The functional `term` plus the paired difference of `after` and `before`."""
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
