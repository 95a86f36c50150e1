"""The chart of a sampler: its error against steps, a small panel for each target.

The scale of errors is that of `capcheck.reports.charts.scale`, the same in all panels of a sampler;
the scale of steps is logarithmic. The panels are drawn by the page's template, without scripts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from capcheck.reports.charts.scale import TICKS, TOP, symlog
from capcheck.reports.sampler_grid import OUTCOMES, by_target, error_of
from capcheck.samplers.findings import Cell

__all__ = ["BOX", "HEIGHT", "WIDTH", "Panel", "panels"]

WIDTH, HEIGHT = 196, 140  # size of a panel, pixels
BOX = (44, 8, 190, 116)  # left, top, right and bottom of the plot inside of a panel, pixels
APART = (22, 12)  # least distances of labels beside and above each other, pixels

SHOWN = TICKS  # errors below 0 are noise of estimates
DISC = "a3 3 0 1 0 6 0a3 3 0 1 0-6 0z"
SHAPES = {"can": DISC, "undecided": DISC, "cannot": "m0-3l6 6m0-6l-6 6"}
"""Marks of the outcomes, from their left end; that of an undecided cell is drawn hollow."""

Scale = Callable[[float], float]
Labels = Sequence[tuple[float, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """The chart of a target, with positions in pixels to the right and downwards.

    Attributes:
        target: Name of the target.
        lines: Points of each line between neighbours, as text of `polyline`.
        marks: Text of the `path` of all marks of a style.
        bars: Text of the `path` of all intervals of estimates.
        raised: Positions of the cells without an error.
        steps: Positions to the right, and labels.
        errors: Positions downwards, and labels.
        tolerance: Position of the tolerance downwards.
    """

    target: str
    lines: tuple[str, ...]
    marks: dict[str, str]
    bars: str
    raised: tuple[tuple[float, float], ...]
    steps: tuple[tuple[float, str], ...]
    errors: tuple[tuple[float, str], ...]
    tolerance: float


def panels(cells: Sequence[Cell]) -> list[Panel]:
    """The panels of a sampler, in the order of its targets; empty if it was not measured.

    Args:
        cells: Cells of a sampler.
    """
    if not cells:
        return []
    x, y = _across(cells), _downwards(cells)
    labels = [(x(k), str(k)) for k in sorted({cell.steps for cell in cells})]
    ticks = [(y(tick), f"{tick:g}") for tick in (1, *SHOWN) if BOX[1] <= y(tick)]
    if any(error_of(cell)[0] == math.inf for cell in cells):
        ticks.insert(1, (y(TOP), "infinite"))
    return [
        _panel(target, of_target, x, y, labels, ticks)
        for target, of_target in by_target(cells).items()
    ]


def _panel(
    target: str, cells: Sequence[Cell], x: Scale, y: Scale, labels: Labels, ticks: Labels
) -> Panel:
    lines: list[list[str]] = [[]]
    marks: dict[str, str] = {}
    bars, raised = "", []
    for cell in cells:
        error, low, high = error_of(cell)
        if error is None or math.isnan(error):
            raised.append((x(cell.steps), BOX[3] - 5))
            lines.append([])
            continue
        to_right, down, style = x(cell.steps), y(error), OUTCOMES[cell.outcome]
        lines[-1].append(f"{to_right:g},{down:g}")
        marks[style] = marks.get(style, "") + f"M{to_right - 3:.1f} {down:g}{SHAPES[style]}"
        if not cell.exact and low is not None and high is not None:
            bars += f"M{to_right:g} {y(high):g}V{y(low):g}"
    return Panel(
        target=target,
        lines=tuple(" ".join(line) for line in lines if len(line) > 1),
        marks=marks,
        bars=bars,
        raised=tuple(raised),
        steps=tuple(_apart(labels, APART[0])),
        errors=tuple(_apart(ticks, APART[1])),
        tolerance=y(1),
    )


def _across(cells: Sequence[Cell]) -> Scale:
    """The position of a number of steps."""
    steps = [cell.steps for cell in cells]
    low, high = math.log(min(steps)), math.log(max(steps))
    left, _, right, _ = BOX
    if low == high:
        return lambda _: (left + right) / 2
    inner = right - left - 16  # points keep 8 pixels from both sides
    return lambda k: round(left + 8 + inner * (math.log(k) - low) / (high - low), 1)


def _downwards(cells: Sequence[Cell]) -> Scale:
    """The position of an error, which stays inside of the plot."""
    ends = [end for cell in cells for end in error_of(cell) if end is not None]
    places = [symlog(end) for end in ends if not math.isnan(end)]
    low = max(min([0.0, *places]), symlog(-2))
    high = max([symlog(3), *places])
    _, top, _, bottom = BOX
    inner = bottom - top - 10  # points keep 5 pixels from both sides

    def position(error: float) -> float:
        share = (max(symlog(error), low) - low) / (high - low)
        return round(bottom - 5 - inner * share, 1)

    return position


def _apart(labels: Labels, least: float) -> list[tuple[float, str]]:
    """The labels that do not overlap those before them."""
    kept: list[tuple[float, str]] = []
    for position, text in labels:
        if all(abs(position - other) >= least for other, _ in kept):
            kept.append((position, text))
    return kept
