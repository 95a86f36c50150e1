"""The grid of a sampler: its error on each target, at each number of steps.

The error of a cell is the largest of its divergences, each in multiples of its tolerance. A mark
tells the verdict without colour.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from capcheck.results.measurement import Outcome
from capcheck.samplers.findings import MARKS, Cell, Interval

__all__ = [
    "OUTCOMES",
    "Entry",
    "by_target",
    "enough",
    "error_of",
    "grid",
    "last_entry",
    "number",
]

OUTCOMES = {outcome.value: outcome.word for outcome in Outcome} | {"raises": "cannot"}
"""The class of style of each outcome."""

SMALL = 0.01  # least error, in tolerances, whose digits are shown
LARGE = 9999.5  # largest error, in tolerances, that is shown without a power of ten


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A cell of the grid as it is shown.

    Attributes:
        mark: One of the marks of outcomes.
        style: One of the values of `OUTCOMES`.
        error: Text of the error; empty if there is none.
        numbers: Every divergence, or the exception, as text.
    """

    mark: str
    style: str
    error: str
    numbers: str


def error_of(cell: Cell) -> Interval:
    """The largest divergence, with its interval; NaN if one is broken, None if none is there."""
    values = [one for one in cell.divergences.values() if one[0] is not None]
    broken = next((one for one in values if math.isnan(one[0] or 0)), None)
    return broken or max(values, key=lambda one: one[0] or 0, default=(None, None, None))


def number(multiple: float) -> str:
    """The text of a multiple of the tolerance, in at most eight characters."""
    if math.isnan(multiple):
        return "broken"
    if math.isinf(multiple):
        return "infinite"
    if abs(multiple) < SMALL:
        return f"<{SMALL:g}"
    if abs(multiple) > LARGE:
        digits, _, power = f"{multiple:.0e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{multiple:.2g}" if abs(multiple) < 99.5 else f"{multiple:.0f}"


def by_target(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of each target, in rising numbers of steps."""
    found: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.steps):
        found.setdefault(cell.target, []).append(cell)
    return {target: found[target] for target in dict.fromkeys(cell.target for cell in cells)}


def grid(cells: Sequence[Cell]) -> tuple[list[int], list[tuple[str, list[Entry | None]]]]:
    """The numbers of steps, and each target with its entries; None where nothing was measured."""
    steps = sorted({cell.steps for cell in cells})
    rows = []
    for target, of_target in by_target(cells).items():
        at = {cell.steps: cell for cell in of_target}
        rows.append((target, [_entry(at[k]) if k in at else None for k in steps]))
    return steps, rows


def enough(cells: Sequence[Cell], target: str) -> str:
    """The smallest number of steps within the tolerance on a target, as text; ? if undecided."""
    own = [cell for cell in cells if cell.target == target]
    within = [cell.steps for cell in own if cell.outcome == "representable"]
    if within or not own:
        return str(min(within)) if within else "–"
    return "?" if any(cell.outcome == "inconclusive" for cell in own) else "none"


def last_entry(cells: Sequence[Cell]) -> Entry | None:
    """The worst cell at the largest number of steps; None if there are no cells."""
    most = max((cell.steps for cell in cells), default=0)
    order = ["representable", "inconclusive", "not_representable", "raises"]

    def badness(cell: Cell) -> tuple[int, float]:
        error = error_of(cell)[0]
        return order.index(cell.outcome), math.inf if error is None else error

    last = [cell for cell in cells if cell.steps == most]
    return _entry(max(last, key=badness)) if last else None


def _entry(cell: Cell) -> Entry:
    error = error_of(cell)[0]
    numbers = [
        f"{name} {number(value)}" for name, (value, _, _) in cell.divergences.items()
        if value is not None
    ]  # fmt: skip
    return Entry(
        mark=MARKS[cell.outcome],
        style=OUTCOMES[cell.outcome],
        error="" if error is None else f"{number(error)}{'' if cell.exact else '*'}",
        numbers=", ".join(numbers) or cell.reason,
    )
