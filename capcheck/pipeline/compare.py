"""Two runs side by side: what got worse, what got better, and by how much.

Runs of one seed share their random numbers row by row, so that the difference of two cells has the
interval of paired differences. Runs of other seeds, targets or sizes are compared all the same: the
groups of rows are then independent, and the intervals wider.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.divergences.estimate import Estimate
from capcheck.judging.gap import decompose
from capcheck.judging.resolution import tolerance_in_unit
from capcheck.pipeline.comparison import CellChange, Change, Comparison, FamilyChange
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell, Outcome
from capcheck.results.survey import SurveyResult

__all__ = ["MARGIN", "compare"]

MARGIN = 0.1  # share by which a divergence may rise, of its tolerance or of what it was if larger


def compare(before: SurveyResult, after: SurveyResult, *, margin: float = MARGIN) -> Comparison:
    """Compare two results, family by family and budget by budget.

    Families are matched by their names and networks, whatever their options: a change of a schedule
    is what comparisons are made for. Where a run holds a family several times, the options must be
    equal.

    A divergence is worse if its rise is surely above the margin, and a family if its verdict, its
    smallest sufficient budget or a divergence is.

    Args:
        before: Result of the first run.
        after: Result of the second run.
        margin: See `Comparison`; at least 0.

    Raises:
        InputError: The runs have no family in common, or the margin is below 0.
    """
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not margin >= 0:
        raise InputError(f"margin must be a number of at least 0, got {margin!r}.")
    first, second = _by_name(before), _by_name(after)
    both = [name for name in first if name in second]
    if not both:
        raise InputError(
            f"the runs have no family in common: the first has {', '.join(first)}, the second "
            f"{', '.join(second)}."
        )
    level = min(before.settings.level, after.settings.level)
    one, other = before.settings, after.settings
    return Comparison(
        targets=(before.target.name, after.target.name),
        same_target=before.target.fingerprint == after.target.fingerprint,
        paired=(one.seed, one.samples, one.given) == (other.seed, other.samples, other.given),
        margin=float(margin),
        level=level,
        families=tuple(
            _family(first[name], second[name], after.settings.tolerances, margin, level)
            for name in both
        ),
        only_before=tuple(name for name in first if name not in second),
        only_after=tuple(name for name in second if name not in first),
    )


def _by_name(result: SurveyResult) -> dict[str, FamilyResult]:
    """The families by their titles; options are added where a title stands twice."""
    found: dict[str, FamilyResult] = {}
    titles = [one.title for one in result.families]
    for one in result.families:
        options = ", ".join(f"{k}={v}" for k, v in one.plan.options.items())
        found[one.title if titles.count(one.title) == 1 else f"{one.title} ({options})"] = one
    return found


def _family(
    before: FamilyResult,
    after: FamilyResult,
    tolerances: dict[str, float],
    margin: float,
    level: float,
) -> FamilyChange:
    held = {cell.budget: cell for cell in before.cells}
    pairs = [(held[cell.budget], cell) for cell in after.cells if cell.budget in held]
    if not pairs and before.cells and after.cells:
        pairs = [(before.cells[-1], after.cells[-1])]
    cells = tuple(
        change
        for old, new in pairs
        for change in _changes(old, new, tolerances, margin=margin, level=level)
    )
    smallest = (before.smallest_budget, after.smallest_budget)
    calls = tuple(
        None if budget is None else found.cell(budget).model_calls
        for found, budget in zip((before, after), smallest, strict=True)
    )
    draft = FamilyChange(
        title=after.title,
        outcomes=(before.outcome, after.outcome),
        measured=(bool(before.cells), bool(after.cells)),
        smallest=smallest,
        calls=(calls[0], calls[1]),
        cells=cells,
        verdict="same",
        reasons=(),
    )
    found = {kind: list(_reasons(draft, kind)) for kind in ("worse", "better", "open")}
    verdict = next((kind for kind in ("worse", "better", "open") if found[kind]), "same")
    said = [*found["worse"], *found["better"]] or found["open"]
    return draft.model_copy(update={"verdict": verdict, "reasons": tuple(said)})


RANK = {Outcome.REPRESENTABLE: 0, Outcome.INCONCLUSIVE: 1, Outcome.NOT_REPRESENTABLE: 2}


def _reasons(found: FamilyChange, kind: str) -> Iterator[str]:
    """The sentences about what is worse, better or open."""
    old, new = found.outcomes
    said = "{} before, {} after".format(*found.words)
    if old is not new and Outcome.INCONCLUSIVE not in (old, new):
        if kind == ("worse" if RANK[new] > RANK[old] else "better"):
            yield said
    elif len(set(found.words)) == 2 and kind == "open":
        yield said
    a, b = found.calls
    if a is not None and b is not None and a != b and kind == ("worse" if b > a else "better"):
        yield f"{a} model calls sufficed, now {b} ({found.smallest[0]}; {found.smallest[1]})"
    for cell in found.cells:
        if cell.verdict == kind and kind != "open":
            was = "" if cell.budget == cell.before_budget else f" ({cell.before_budget} before)"
            yield (
                f"{cell.divergence} at {cell.budget}{was}: {_shown(cell.before)} before and "
                f"{_shown(cell.after)} after ({cell.unit}), {_interval(cell)}"
            )


def _interval(cell: CellChange) -> str:
    if cell.change is None or cell.low is None or cell.high is None:
        return "infinite on one side"
    if cell.low == cell.high:
        return f"a change of {cell.change:+.3g}"
    return f"a change of {cell.change:+.3g} [{cell.low:+.3g}, {cell.high:+.3g}]"


def _shown(value: float | None) -> str:
    return "unavailable" if value is None else f"{value:.3g}"


def _changes(
    old: Cell, new: Cell, tolerances: dict[str, float], *, margin: float, level: float
) -> Iterator[CellChange]:
    """The change of every divergence that both cells have."""
    for name, after in new.estimates.items():
        if name not in old.estimates:
            continue
        before = old.estimates[name]
        known_before = abs(before.value or 0.0)
        size = known_before if math.isfinite(known_before) else 0.0
        allowed = margin * max(size, tolerance_in_unit(after, tolerances[name]))
        draft = CellChange(
            budget=new.budget,
            before_budget=old.budget,
            divergence=name,
            before=before.value,
            after=after.value,
            unit=after.unit,
            allowed=allowed,
            verdict="open",
        )
        if before.value is None or after.value is None:
            missing = before if before.value is None else after
            yield draft.model_copy(update={"reason": missing.method})
        elif math.isinf(before.value) or math.isinf(after.value):
            equal = before.value == after.value
            known = "same" if equal else "worse" if math.isinf(after.value) else "better"
            yield draft.model_copy(update={"verdict": known})
        else:
            change, low, high = _difference(name, before, after, budget=new.budget, level=level)
            verdict: Change = "open"
            if low > allowed:
                verdict = "worse"
            elif high < -allowed:
                verdict = "better"
            elif -allowed <= low and high <= allowed:
                verdict = "same"
            facts = {"change": change, "low": low, "high": high, "verdict": verdict}
            yield draft.model_copy(update=facts)


def _difference(
    name: str, before: Estimate, after: Estimate, *, budget: Budget, level: float
) -> tuple[float, float, float]:
    """After minus before, with the interval of paired rows, or of both intervals together."""
    stages = [("structural", before), ("network", after)]
    gap = decompose(name, stages, budget=budget, level=level)  # type: ignore[arg-type]
    part = gap.part("network")
    if part is not None and gap.reason == "":
        return part.value, part.low, part.high
    each = 1 - (1 - level) / 2  # both intervals hold at once
    (a, b), (c, d) = before.interval(each), after.interval(each)
    assert before.value is not None
    assert after.value is not None
    return after.value - before.value, c - b, d - a
