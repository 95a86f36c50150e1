"""Tables of verdicts: of a survey, of the cells of a family, of the front, and of diagnoses."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from capcheck.cli.catalogue import without_kl
from capcheck.cli.paper_table import caption, grouped, heading, named
from capcheck.cli.sparkline import ASCII, BLOCKS, COLOURS, FAR, sparkline
from capcheck.cli.tables import folding
from capcheck.core.budget import Budget
from capcheck.divergences import DIVERGENCES
from capcheck.judging.equal_cells import equal_cells, listed
from capcheck.judging.front import Front, Point
from capcheck.judging.profile import decided_by, profile
from capcheck.judging.qualities import quality_table
from capcheck.results.family import WITHOUT_KL, AxisUse, FamilyResult
from capcheck.results.measurement import Outcome
from capcheck.results.survey import SurveyResult

__all__ = [
    "cells_table",
    "diagnoses_table",
    "draws_table",
    "front_table",
    "survey_notes",
    "survey_table",
]

_DIFFERS = "≠"  # mark of a family whose measured group is another one
_PLAIN = {_DIFFERS: "!=", WITHOUT_KL: "*"}  # marks of ASCII characters
_NAMED = 4  # largest number of families that a row of the efficiency front names


def survey_table(result: SurveyResult, *, plain: bool = False) -> Table:
    """A table of the families in the paper's groups, which fits into 100 columns.

    Args:
        result: Result of a survey.
        plain: Whether marks and profiles are of ASCII characters only.
    """
    table = Table(
        Column("family", overflow="fold"),
        Column("verdict", no_wrap=True),
        Column("budget", no_wrap=True),
        Column("calls", no_wrap=True, justify="right"),
        "length",
        "steps",
        Column("profile", no_wrap=True),
        "by",
        box=SIMPLE,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for row, members in grouped(result.families):
        table.add_row(heading(row))
        for found in members:
            table.add_row(*_family_row(found, result, plain))
    return table


def survey_notes(result: SurveyResult, *, plain: bool = False) -> list[str]:
    """The meaning of the columns and marks of `survey_table`."""
    blocks = ASCII if plain else BLOCKS
    known = filter(None, [caption(result.families), without_kl(result.families)])
    return [
        "budget: smallest that suffices, length x steps; by: divergence that decides",
        f"profile: that divergence by rising model calls, {blocks[0]} within its tolerance to "
        f"{blocks[-1]} {FAR:g} times and more",
        *(
            [f"{_mark(_DIFFERS, plain)} measured axes are not those of its group"]
            if any(map(_differs, result.families))
            else []
        ),
        *(f"{_mark(note[0], plain)}{note[1:]}" for note in known),
    ]


def cells_table(found: FamilyResult, names: Sequence[str]) -> Table:
    """A table of the estimates and verdict of every cell of a family."""
    table = folding("length", "steps", "calls", *names)
    table.add_column("verdict", no_wrap=True)
    for cells in equal_cells(found.cells):
        table.add_row(
            listed(cell.budget.length for cell in cells),
            listed(cell.budget.steps for cell in cells),
            str(cells[0].model_calls),
            *(escape(str(cells[0].estimates[name])) for name in names),
            _coloured(cells[0].outcome),
        )
    return table


def front_table(found: Front, result: SurveyResult) -> Table:
    """A table of the cells that no cell of their group beats in calls and error."""
    divergence = DIVERGENCES[result.target.kind][found.divergence]
    table = Table(
        "efficiency front", "calls", divergence.label, "at most, x tolerance", "families, at"
    )
    table.caption = "* no cell of any group is both better and cheaper"
    for row, best in found.of_groups.items():
        group = heading(row)
        for _, tied in itertools.groupby(best, key=lambda p: (p.calls, p.multiple)):
            points = list(tied)
            mark = " *" if points[0] in found.best else ""
            estimate = str(points[0].cell.estimates[found.divergence])
            multiple = f"{points[0].multiple:.3g}{mark}"
            table.add_row(group, str(points[0].calls), escape(estimate), multiple, _placed(points))
            group = ""
        table.add_section()
    return table


def _placed(points: Sequence[Point]) -> str:
    """The families that share a place on the efficiency front, the first few by name."""
    names = [f"{point.family} ({_budget(point.cell.budget)})" for point in points[:_NAMED]]
    more = len(points) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def diagnoses_table(found: FamilyResult) -> Table | None:
    """A table of the diagnoses of a family, or None if none was made."""
    if not found.diagnoses:
        return None
    table = Table("diagnosis, no verdict", "value", "interval", "null", "p", "rows")
    for test in found.diagnoses:
        if test.value is None:
            table.add_row(test.label, "unavailable", escape(test.method), "-", "-", "-")
            continue
        ends = escape(f"[{test.low:.3g}, {test.high:.3g}]")
        null, p = f"{test.null:.3g}", f"{test.p_value:.2g}"
        table.add_row(test.label, f"{test.value:.3g}", ends, null, p, str(test.samples))
    table.title, table.title_justify = f"{found.title}, {found.cells[-1].budget}", "left"
    return table


def draws_table(found: FamilyResult) -> Table | None:
    """A table of what a family's draws of token ids are like, or None of numbers."""
    qualities = quality_table(found)
    if qualities is None:
        return None
    table = folding("figure, no verdict", "target", *(f"steps {one}" for one in qualities.steps))
    for name, target, values in qualities.rows:
        table.add_row(name, target, *map(escape, values))
    table.title, table.title_justify = f"{found.title}: what its draws are like", "left"
    return table


def _family_row(found: FamilyResult, result: SurveyResult, plain: bool) -> list[str | Text]:
    tolerances = result.settings.tolerances
    name = named(found.family, found) if found.network == "oracle" else f"    {found.network}"
    by, points = decided_by(found, tolerances), profile(found, tolerances)
    shape = sparkline(points, blocks=ASCII if plain else BLOCKS)
    if found.error:
        said = f"[dim]{'lacks cells' if found.cells else 'not measured'}[/dim]"
        return [escape(name), said, *[""] * 4, shape, by] if found.cells else [escape(name), said]
    budget, calls = "-", "-"
    if found.smallest_budget is not None:
        budget = f"{found.smallest_budget.length} x {found.smallest_budget.steps}"
        calls = str(found.cell(found.smallest_budget).model_calls)
    mark = f" [red]{_mark(_DIFFERS, plain)}[/red]" if _differs(found) else ""
    without = f" {_mark(WITHOUT_KL, plain)}" if found.without_kl else ""
    verdict = _coloured(found.outcome) + without
    axes = (_use(found.axes.length), _use(found.axes.steps))
    return [escape(name) + mark, verdict, budget, calls, *axes, shape, by]


def _use(use: AxisUse) -> str:
    return "[yellow]?[/yellow]" if use == "undecided" else use


def _differs(found: FamilyResult) -> bool:
    """Whether a family is measured to belong to another group than its own."""
    return found.measured_row is not None and found.disagreement is not None


def _mark(mark: str, plain: bool) -> str:
    return _PLAIN.get(mark, mark) if plain else mark


def _budget(budget: Budget) -> str:
    return f"length {budget.length}, steps {budget.steps}"


def _coloured(outcome: Outcome) -> str:
    colour = COLOURS[outcome]
    return f"[{colour}]{outcome.value.replace('_', ' ')}[/{colour}]"
