"""Cells of equal numbers share a row of a table, such as those along an axis without effect."""

from __future__ import annotations

from collections.abc import Iterable

from capcheck.results.measurement import Cell

__all__ = ["equal_cells", "listed"]


def equal_cells(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Groups of cells of equal calls, estimates and verdicts, in the order of the first of each."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        same = cell.model_dump_json(include={"model_calls", "estimates", "outcome"})
        groups.setdefault(same, []).append(cell)
    return list(groups.values())


def listed(values: Iterable[int]) -> str:
    """Numbers in rising order, without repeats, separated by commas."""
    return ", ".join(str(value) for value in sorted(set(values)))
