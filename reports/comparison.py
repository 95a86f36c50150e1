"""The page of a comparison: what got worse between two runs, with every change and its interval."""

from __future__ import annotations

import dataclasses
import math

from capcheck.pipeline.comparison import CellChange, Comparison, FamilyChange
from capcheck.reports.page import page

__all__ = ["Bar", "render"]

WIDTH = 240  # of a bar's place, in pixels
REACH = 100.0  # largest change that is drawn in full, in multiples of what is allowed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
    """A change as it is drawn: places between 0 and `WIDTH`, unchanged in the middle.

    Attributes:
        low: Place of the interval's lower end.
        value: Place of the change.
        high: Place of the interval's upper end.
    """

    low: float
    value: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyView:
    """A family as it is shown.

    Attributes:
        found: The family.
        outcomes: Verdicts in words, before and after.
        smallest: Smallest sufficient budgets in words, before and after.
        calls: Model calls in words, before and after.
        cells: Every change, with its bar, or None where there is none.
    """

    found: FamilyChange
    outcomes: tuple[str, str]
    smallest: tuple[str, str]
    calls: tuple[str, str]
    cells: tuple[tuple[CellChange, Bar | None], ...]


def render(found: Comparison) -> str:
    """Writes the page of a comparison; returns the text of one HTML file."""
    views = [_view(one) for one in found.families]
    return page(
        "comparison.html.j2",
        {},
        found=found,
        views=views,
        sentence=_sentence(found),
        middle=WIDTH / 2,
        width=WIDTH,
        margin=_place(1.0) - WIDTH / 2,
    )


def _sentence(found: Comparison) -> str:
    """What a reader should know after ten seconds."""
    worse = [one.title for one in found.families if one.verdict == "worse"]
    better = [one.title for one in found.families if one.verdict == "better"]
    parts = [
        f"{kind}: {', '.join(titles)}"
        for kind, titles in (("worse", worse), ("better", better))
        if titles
    ]
    rest = len(found.families) - len(worse) - len(better)
    if rest:
        parts.append(f"{rest} unchanged or undecided" if parts else "nothing got worse or better")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _view(one: FamilyChange) -> FamilyView:
    old, new = one.words
    first, second = ("–" if budget is None else str(budget) for budget in one.smallest)
    before, after = ("–" if calls is None else f"{calls:,}" for calls in one.calls)
    return FamilyView(
        found=one,
        outcomes=(old, new),
        smallest=(first, second),
        calls=(before, after),
        cells=tuple((cell, _bar(cell)) for cell in one.cells),
    )


def _bar(cell: CellChange) -> Bar | None:
    if cell.change is None or cell.low is None or cell.high is None:
        return None
    low, value, high = (
        _place(end / (cell.allowed or 1.0)) for end in (cell.low, cell.change, cell.high)
    )
    return Bar(low=low, value=value, high=high)


def _place(times: float) -> float:
    """The place of a change, in multiples of what is allowed: linear at first, then by decades."""
    size = math.asinh(min(abs(times), REACH)) / math.asinh(REACH)
    return WIDTH / 2 * (1 + math.copysign(size, times))
