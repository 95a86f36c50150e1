"""Tables about networks: parts of divergences, capacity curves and sensitivities."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Column, Table

from capcheck.core.budget import Budget
from capcheck.judging.sentences import (
    PARTS,
    gaps_by_precision,
    grouped_gaps,
    missing_parts_sentence,
    part_text,
    parts_used,
)
from capcheck.results.family import FamilyResult, Sensitivity
from capcheck.results.survey import CapacityCurve

__all__ = ["curve_table", "folding", "gap_table", "sensitivity_table", "survey_gap_table"]


def gap_table(found: FamilyResult) -> Table | None:
    """A table of the parts of every divergence in every cell, or None if there are no parts.

    Cells with equal parts share a row.
    """
    used = parts_used(found)
    if not used:
        return None
    with_digits = bool(found.precisions)
    head = ["precision"] if with_digits else []
    table = folding(*head, "length", "steps", "divergence", *used)
    table.title, table.title_justify = f"{found.title}: whose part is it?", "left"
    for precision, own in gaps_by_precision(found):
        for lengths, steps, gap in grouped_gaps(own):
            cells = [precision] if with_digits else []
            parts = (part_text(gap, name, precision) for name in used)
            table.add_row(*cells, lengths, steps, gap.divergence, *map(escape, parts))
        table.add_section()
    note = "total: of draws that the parts share; a cell's own estimate may differ within intervals"
    table.caption = "; ".join(filter(None, [note, missing_parts_sentence(found)]))
    table.caption_justify = "left"
    return table


def folding(*columns: str) -> Table:
    """A table whose cells wrap on a narrow terminal, so that no digit is cut off."""
    return Table(*(Column(name, overflow="fold") for name in columns))


def survey_gap_table(families: Sequence[FamilyResult], budget: Budget) -> Table | None:
    """A table of the parts of each family's divergences at a budget, or None if there are none."""
    rows = [
        (found.title if precision == "-" else f"{found.title}, {precision}", gap)
        for found in families
        for precision, gaps in gaps_by_precision(found)
        for gap in gaps
        if gap.budget == budget and gap.parts
    ]
    used = [name for name in PARTS if any(gap.part(name) for _, gap in rows)]
    if not rows:
        return None
    table = folding("family", "divergence", *used)
    table.title, table.title_justify = f"at {budget}: whose part is it?", "left"
    for title, of_one in itertools.groupby(rows, key=lambda row: row[0]):
        for i, (_, gap) in enumerate(of_one):
            parts = (escape(part_text(gap, name, "-")) for name in used)
            table.add_row(title if i == 0 else "", gap.divergence, *parts)
        table.add_section()
    return table


def sensitivity_table(found: FamilyResult) -> Table | None:
    """A table of the cost of oracle errors by kind and size, or None if none was measured."""
    if not any(one.cells for one in found.sensitivities):
        return None
    names = list(found.cells[-1].estimates)
    table = folding("error", "size", *names, "verdict", "slope per size")
    budget = found.sensitivities[0].budget
    table.title = f"{found.title}, {budget}: how good must the network be?"
    table.title_justify = "left"
    for one in found.sensitivities:
        for i, cell in enumerate(one.cells):
            first = i == 0
            table.add_row(
                one.perturbation if first else "",
                f"{cell.size:g}",
                *(escape(str(cell.estimates[name])) for name in names),
                cell.outcome.value.replace("_", " "),
                escape(_slopes(one)) if first else "",
            )
        table.add_section()
    return table


def _slopes(one: Sensitivity) -> str:
    return ", ".join(f"{name} {part}" for name, part in one.slopes.items())


def curve_table(curve: CapacityCurve) -> Table:
    """A table of divergences against the number of parameters of a network."""
    table = folding(
        "network", "parameters", "validation", "verdict", "divergence", "total", "change"
    )
    table.title = f"{curve.family}, {curve.budget}: which size suffices?"
    table.title_justify = "left"
    for point in curve.points:
        validation = "-" if point.fit is None else f"{point.fit.validation:.3g}"
        verdict = point.outcome.value.replace("_", " ")
        facts = [point.network, f"{point.parameters:,}", validation, verdict]
        for i, (name, total) in enumerate(point.totals.items()):
            change = point.changes.get(name)
            own = facts if i == 0 else [""] * len(facts)
            numbers = [escape(str(total)), "-" if change is None else escape(str(change))]
            table.add_row(*own, name, *numbers)
        table.add_section()
    smallest = curve.smallest or "none of them suffices"
    table.caption_justify = "left"
    table.caption = (
        f"smallest that suffices here: {smallest}; validation: held-out loss above the oracle's; "
        "change: from the next smaller network, on the same random numbers"
    )
    return table
