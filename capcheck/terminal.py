"""What the command line shows: tables on standard output, progress on standard error."""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)
from rich.table import Column, Table

from capcheck.budget import Budget
from capcheck.divergences import DIVERGENCES
from capcheck.engine import Progress
from capcheck.front import Front, Point, front
from capcheck.probe import ROW_TITLES, ROWS, AnyProbe, Row
from capcheck.results import Cell, CheckResult, FamilyResult, Outcome, SurveyResult
from capcheck.targets.specs import BUILT_IN, parameters

_COLOURS = {
    Outcome.REPRESENTABLE: "green",
    Outcome.NOT_REPRESENTABLE: "red",
    Outcome.INCONCLUSIVE: "yellow",
}
_Member = TypeVar("_Member", type[AnyProbe], FamilyResult)
_BEYOND = "+"  # behind the name of a family that the paper's table does not have
_NAMED = 4  # families named in a row of the front


@contextmanager
def live_progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, plain lines in a pipe; both on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda p: bar.update(
            task, completed=p.done, total=p.total, description=escape(p.running)
        )


def _plain_lines(console: Console) -> Callable[[Progress], None]:
    start = time.monotonic()
    last = -1

    def show(progress: Progress) -> None:
        nonlocal last
        if progress.done == last:
            return
        last = progress.done
        elapsed = time.monotonic() - start
        left = elapsed / progress.done * (progress.total - progress.done) if progress.done else 0
        tail = f", about {left:.0f} s left" if progress.done else ""
        line = f"[{progress.done}/{progress.total}] {progress.running}{tail}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return show


def targets_table() -> Table:
    """The built-in targets with what each takes."""
    table = Table("target", "law", "parameters")
    for name in BUILT_IN:
        lines = [
            f"{key}={_spelled(default)}  [dim]{text}[/dim]"
            for key, (default, text) in parameters(name).items()
        ]
        law = (BUILT_IN[name].__doc__ or "").splitlines()[0]
        table.add_row(f"[bold]{name}[/bold]", escape(law), "\n".join(lines), end_section=True)
    return table


def _spelled(default: Any) -> str:
    if default is None:
        return "none"
    return ("yes" if default else "no") if isinstance(default, bool) else str(default)


def families_table(probes: Sequence[type[AnyProbe]]) -> Table:
    """Name, tokens and first line of every family, in the paper's groups."""
    table = Table("family", "tokens", "what it does", caption=_caption(probes))
    for row, members in _grouped(probes):
        table.add_row(_heading(row))
        for probe in members:
            summary = escape((probe.__doc__ or "").strip().splitlines()[0])
            table.add_row(_named(probe.family, probe), ", ".join(sorted(probe.kinds)), summary)
        table.add_section()
    return table


def family_card(probe: AnyProbe) -> RenderableType:
    """All there is to know of a family before it runs: its docstring, its options, its suspects."""
    title, facts = _docstring(sys.modules[type(probe).__module__].__doc__ or "")
    place = ROW_TITLES[probe.row]
    if not probe.in_paper:
        place = f"not in its table; the procedure belongs under {place}"
    grid = Table.grid(Column(style="bold", no_wrap=True), Column(), padding=(0, 2, 0, 0))
    grid.add_row("Tokens", " and ".join(sorted(probe.kinds)))
    grid.add_row("Paper", place)
    for label, text in facts:
        grid.add_row(label, escape(text))
    causes = [f"{s.failure}: cured with {s.cure}" for s in probe.suspects()]
    grid.add_row("Suspects", escape("\n".join(causes)) or "none, with the default options")
    options: dict[str, FieldInfo] = getattr(probe, "__pydantic_fields__", {})
    parts: list[RenderableType] = [f"[bold]{probe.family}[/bold]  {escape(title)}", "", grid]
    if options:
        parts += ["", _options_table(probe, options)]
    return Group(*parts)


def _docstring(text: str) -> tuple[str, list[tuple[str, str]]]:
    """First line and the `Label: text` entries of a module docstring, wrapped lines joined."""
    first, _, rest = text.strip().partition("\n")
    entries: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, rest.splitlines())):
        label, colon, tail = line.partition(": ")
        if colon and re.fullmatch(r"[A-Z][a-z]+( [a-z]+)?", label):
            entries.append((label, tail))
        elif entries:
            entries[-1] = entries[-1][0], f"{entries[-1][1]} {line}"
        else:
            entries.append(("", line))
    return first, entries


def _options_table(probe: AnyProbe, options: Mapping[str, FieldInfo]) -> Table:
    table = Table("--option", "values", "default", "what it is")
    for name, field in options.items():
        default = getattr(probe, name)
        table.add_row(
            name,
            escape(option_values(field)),
            "none" if default is None else _spelled(default),
            escape(field.description or ""),
        )
    return table


def option_values(field: FieldInfo) -> str:
    """What an option of a probe takes, in words: its type, its choices and its range."""
    kinds = [field.annotation]
    if get_origin(field.annotation) is not Literal:
        kinds = list(get_args(field.annotation)) or kinds
    words: dict[Any, str] = {int: "whole number", float: "number", bool: "yes, no"}
    named = [
        ", ".join(map(str, get_args(kind)))
        if get_origin(kind) is Literal
        else words.get(kind, getattr(kind, "__name__", str(kind)))
        for kind in kinds
        if kind is not NoneType
    ]
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]
    text = " ".join([", ".join(named), *limits[:1]]) + "".join(f", {more}" for more in limits[1:])
    return f"{text}, or none" if NoneType in kinds else text


def print_survey(result: SurveyResult, *, quick: bool = False) -> None:
    """The paper's table with what was measured in it, why, and the efficiency front.

    Args:
        result: What to print.
        quick: Whether it was asked to be quick, which its readers should know.
    """
    console = output()
    _print_target(console, result)
    console.print(_survey_table(result))
    for found in result.families:
        _print_sentences(console, found)
    _print_front(console, front(result), result)
    for found in result.families:
        _print_diagnoses(console, found)
    if quick:
        _print_line(
            console,
            f"quick: {result.settings.samples} draws per cell at steps "
            f"{_listed(result.settings.grid.steps)}; verdicts hold at their level all the same, "
            "and what is undecided may only need more draws: run it without --quick",
        )


def _survey_table(result: SurveyResult) -> Table:
    table = Table(
        "family",
        Column("verdict", no_wrap=True),
        "smallest budget",
        "calls",
        "length",
        "steps",
        "measured as",
        caption=_caption(result.families),
    )
    for row, members in _grouped(result.families):
        table.add_row(_heading(row))
        for found in members:
            table.add_row(*_family_row(found))
        table.add_section()
    return table


def _print_sentences(console: Console, found: FamilyResult) -> None:
    """Its reason, and below it where the paper differs and what the floor comes from."""
    _print_line(console, f"{found.family}: {found.reason}")
    if found.disagreement is not None:
        open_question = found.measured_row is None
        lead = "undecided" if open_question else "differs"
        _print_line(console, f"    {lead}: {found.disagreement}")
    for line in _causes(found):
        _print_line(console, f"    {line}")


def _print_front(console: Console, found: Front, result: SurveyResult) -> None:
    """In each group, the cells that no other one of the group beats in both calls and error."""
    if len(result.families) < 2 or not found.best:
        return
    divergence = DIVERGENCES[result.target.kind][found.divergence]
    table = Table(
        "efficiency front", "calls", divergence.label, "at most, x tolerance", "families, at"
    )
    table.caption = "* no cell of any group is both better and cheaper"
    for row, best in found.of_groups.items():
        group = _heading(row)
        for _, tied in itertools.groupby(best, key=lambda p: (p.calls, p.multiple)):
            points = list(tied)
            mark = " *" if points[0] in found.best else ""
            estimate = str(points[0].cell.estimates[found.divergence])
            multiple = f"{points[0].multiple:.3g}{mark}"
            table.add_row(group, str(points[0].calls), escape(estimate), multiple, _placed(points))
            group = ""
        table.add_section()
    console.print(table)
    if found.absent:
        absent = ", ".join(found.absent)
        _print_line(console, f"not on the front, {divergence.label} is not bounded: {absent}")


def _placed(points: Sequence[Point]) -> str:
    """Families that share a place on the front, the first few by name."""
    names = [f"{point.family} ({_budget(point.cell.budget)})" for point in points[:_NAMED]]
    more = len(points) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def print_check(result: CheckResult) -> None:
    """Every cell of a family, then the verdict in words."""
    console = output()
    _print_target(console, result)
    names = list(result.settings.tolerances)
    table = Table("length", "steps", "calls", *names, Column("verdict", no_wrap=True))
    for cells in equal_cells(result.cells):
        table.add_row(
            _listed(cell.budget.length for cell in cells),
            _listed(cell.budget.steps for cell in cells),
            str(cells[0].model_calls),
            *(escape(str(cells[0].estimates[name])) for name in names),
            _coloured(cells[0].outcome),
        )
    console.print(table)
    for name in names:
        divergence = DIVERGENCES[result.target.kind][name]
        tolerance = f"tolerance {result.settings.tolerances[name]:g} ({divergence.tolerance_unit})"
        console.print(f"{name}: {divergence.unit}; {tolerance}", markup=False, highlight=False)
    console.print(
        f"length {result.axes.length}, steps {result.axes.steps}, loop order {result.loop_order}",
        highlight=False,
    )
    verdict = result.outcome.value.replace("_", " ")
    console.print(f"{result.family} is {verdict}: {result.reason}", markup=False, highlight=False)
    for line in [*_causes(result), *result.notes]:
        console.print(line, markup=False, highlight=False)
    _print_rates(console, result, "")
    _print_diagnoses(console, result)


def _causes(found: FamilyResult) -> list[str]:
    """What its floor comes from, and what it does not come from."""
    return [
        f"{'cause' if cause.removed else 'not the cause alone'}: {cause.failure}; {cause.sentence}"
        for cause in found.causes
    ]


def equal_cells(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells grouped by what they measured; an axis that does nothing fills one group."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        same = cell.model_dump_json(include={"model_calls", "estimates", "outcome"})
        groups.setdefault(same, []).append(cell)
    return list(groups.values())


def output() -> Console:
    """Standard output; in a pipe, wide enough that no table wraps."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _print_rates(console: Console, found: FamilyResult, lead: str) -> None:
    """One line with the rates that there are."""
    rates = [
        f"{rate.divergence} like {rate.axis}^-{rate}"
        for rate in found.rates
        if rate.value is not None
    ]
    if rates:
        line = f"{lead}rates: {', '.join(rates)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_diagnoses(console: Console, found: FamilyResult) -> None:
    """A table of the diagnoses, if any were asked for."""
    if not found.diagnoses:
        return
    table = Table("diagnosis, no verdict", "value", "interval", "null", "p", "rows")
    for test in found.diagnoses:
        if test.value is None:
            table.add_row(test.label, "unavailable", escape(test.method), "-", "-", "-")
            continue
        ends = escape(f"[{test.low:.3g}, {test.high:.3g}]")
        null, p = f"{test.null:.3g}", f"{test.p_value:.2g}"
        table.add_row(test.label, f"{test.value:.3g}", ends, null, p, str(test.samples))
    table.title, table.title_justify = f"{found.family}, {found.cells[-1].budget}", "left"
    console.print(table)


def _family_row(found: FamilyResult) -> list[str]:
    name = _named(found.family, found)
    if found.error:
        return [name, "not measured"]
    budget, calls = "-", "-"
    if found.smallest_budget is not None:
        budget = _budget(found.smallest_budget)
        calls = str(found.cell(found.smallest_budget).model_calls)
    axes = found.axes
    return [
        name, _coloured(found.outcome), budget, calls, axes.length, axes.steps, _measured(found)
    ]  # fmt: skip


def _measured(found: FamilyResult) -> str:
    """The measured group, marked where it is not the paper's."""
    if found.measured_row is None:
        return "[yellow]? undecided[/yellow]"
    title = ROW_TITLES[found.measured_row]
    return f"= {title}" if found.disagreement is None else f"[red]≠ {title}[/red]"


def _grouped(members: Iterable[_Member]) -> list[tuple[Row, list[_Member]]]:
    """Members by their row of the paper's table, in its order; rows without any are left out."""
    members = list(members)
    groups = [(row, [member for member in members if member.row == row]) for row in ROWS]
    return [(row, group) for row, group in groups if group]


def _heading(row: Row) -> str:
    return f"[bold]{ROW_TITLES[row]}[/bold]"


def _named(family: str, member: type[AnyProbe] | FamilyResult) -> str:
    return f"  {family}" if member.in_paper else f"  {family} {_BEYOND}"


def _caption(members: Iterable[type[AnyProbe] | FamilyResult]) -> str | None:
    beyond = any(not member.in_paper for member in members)
    return f"{_BEYOND} not in the paper's table" if beyond else None


def _print_line(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_target(console: Console, result: SurveyResult | CheckResult) -> None:
    target, provenance = result.target, result.target.provenance
    lines = [f"target: {target.name}, {target.size}"]
    if provenance.source:
        lines.append(f"        {provenance.preparation}; {provenance.description}")
    held = provenance.held_out
    if held is not None:
        lines.append(
            f"        held-out log-likelihood of your rows {held.log_likelihood:.2f} nats "
            f"({held.baseline_name} {held.baseline:.2f}, "
            f"rows it was built from {held.in_sample:.2f})"
        )
        if held.memorises:
            lines.append(
                "        warning: one Gaussian predicts your unseen rows better than this target, "
                "which memorises its rows"
            )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))


def _budget(budget: Budget) -> str:
    return f"length {budget.length}, steps {budget.steps}"


def _coloured(outcome: Outcome) -> str:
    colour = _COLOURS[outcome]
    return f"[{colour}]{outcome.value.replace('_', ' ')}[/{colour}]"
