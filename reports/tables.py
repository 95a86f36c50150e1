"""The tables of a family's section: its budgets, and the parts of its divergences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from capcheck.judging.equal_cells import equal_cells, listed
from capcheck.judging.sentences import gaps_by_precision, grouped_gaps, part_text
from capcheck.reports.page import pointer
from capcheck.results.family import FamilyResult
from capcheck.results.gap import PartName
from capcheck.results.measurement import Cell

__all__ = ["CellGroup", "GapRow", "cell_groups", "gap_rows"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellGroup:
    """Budgets with equal numbers, as one row of a table.

    Attributes:
        lengths: Their lengths, as text.
        steps: Their numbers of steps, as text.
        cell: The first of their cells.
        record: JSON pointer of the cell.
    """

    lengths: str
    steps: str
    cell: Cell
    record: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class GapRow:
    """The parts of a divergence at budgets where they are equal, as one row of a table.

    Attributes:
        precision: The precision, or empty for the run's own.
        lengths: Lengths of the budgets, as text.
        steps: Numbers of steps of the budgets, as text.
        divergence: Name of the divergence.
        reason: A remark on the parts, or empty.
        parts: Text and JSON pointer of each part; the pointer is empty where there is no part.
    """

    precision: str
    lengths: str
    steps: str
    divergence: str
    reason: str
    parts: tuple[tuple[str, str], ...]


def cell_groups(cells: Sequence[Cell], record: str) -> list[CellGroup]:
    """Cells of equal numbers together, in the order of the first of each.

    Args:
        cells: Cells of a family.
        record: JSON pointer of the family.
    """
    return [
        CellGroup(
            lengths=listed(cell.budget.length for cell in own),
            steps=listed(cell.budget.steps for cell in own),
            cell=own[0],
            record=record + pointer("cells", cells.index(own[0])),
        )
        for own in equal_cells(cells)
    ]


def gap_rows(found: FamilyResult, used: Sequence[PartName], record: str) -> Iterator[GapRow]:
    """The parts of all gaps of a family.

    Args:
        found: The family.
        used: Names of the parts that are shown.
        record: JSON pointer of the family.
    """
    places = {id(gap): pointer("gaps", k) for k, gap in enumerate(found.gaps)}
    for p, rounded in enumerate(found.precisions):
        for c, cell in enumerate(rounded.cells):
            for k, gap in enumerate(cell.gaps):
                places[id(gap)] = pointer("precisions", p, "cells", c, "gaps", k)
    for precision, gaps in gaps_by_precision(found):
        for lengths, steps, gap in grouped_gaps(gaps):
            names = [part.name for part in gap.parts]
            texts = [part_text(gap, name, precision) for name in used]
            yield GapRow(
                precision="" if precision == "-" else precision,
                lengths=lengths,
                steps=steps,
                divergence=gap.divergence,
                reason=gap.reason,
                parts=tuple(
                    (text, f"{record}{places[id(gap)]}{pointer('parts', names.index(name))}")
                    if name in names and text
                    else (text, "")
                    for name, text in zip(used, texts, strict=True)
                ),
            )
