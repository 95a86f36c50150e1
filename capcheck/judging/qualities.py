"""What a family's draws of token ids are like at every number of steps, as rows of a table."""

from __future__ import annotations

from capcheck.core.record import Record
from capcheck.diagnostics.figure import Figure
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell

__all__ = ["QualityTable", "quality_table"]


class QualityTable(Record):
    """Figures of a family's draws where all tokens are placed, beside those of the target.

    Attributes:
        steps: Numbers of steps of each column, one or several with equal draws.
        rows: A name, the target's own number, and the draws' numbers with intervals in each column;
            empty where a number does not exist.
        level: Confidence of the intervals.
    """

    steps: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]
    level: float
    places: tuple[int, ...]


def quality_table(found: FamilyResult) -> QualityTable | None:
    """The table of a family, or None if its draws are numbers."""
    columns = _columns(found)
    qualities = [cell.quality for cell, _ in columns if cell.quality is not None]
    if not qualities:
        return None
    figures = [quality.figures() for quality in qualities]
    names = list(dict.fromkeys(name for own in figures for name in own))
    rows = []
    for name in names:
        own = [one.get(name) for one in figures]
        target = next(figure.target for figure in own if figure is not None)
        rows.append((name, _number(target), tuple(map(_text, own))))
    steps = tuple(", ".join(map(str, steps)) for _, steps in columns)
    places = tuple(found.cells.index(cell) for cell, _ in columns)
    return QualityTable(steps=steps, rows=tuple(rows), level=qualities[0].level, places=places)


def _columns(found: FamilyResult) -> list[tuple[Cell, list[int]]]:
    """Cells with different draws, each with the numbers of steps that it stands for."""
    columns: list[tuple[Cell, list[int]]] = []
    for cell in found.cells:
        if cell.quality is None:
            continue
        if columns and columns[-1][0].quality == cell.quality:
            columns[-1][1].append(cell.budget.steps)
        else:
            columns.append((cell, [cell.budget.steps]))
    return columns


def _text(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{_number(figure.value)} [{_number(figure.low)}, {_number(figure.high)}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
