"""Terminal output: prints the result of a survey or a check as tables and sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from capcheck.cli.catalogue import caption, grouped, heading, named, without_kl
from capcheck.cli.tables import curve_table, folding, gap_table, sensitivity_table, survey_gap_table
from capcheck.core.budget import Budget
from capcheck.divergences import DIVERGENCES
from capcheck.judging.front import Front, Point, front
from capcheck.judging.sentences import (
    blame_sentence,
    network_sentence,
    precision_lines,
    sensitivity_sentence,
)
from capcheck.procedures.probe import ROW_TITLES
from capcheck.results.family import WITHOUT_KL, FamilyResult
from capcheck.results.measurement import Cell, Outcome
from capcheck.results.survey import CheckResult, SurveyResult

__all__ = ["equal_cells", "output", "print_check", "print_survey"]

_COLOURS = {
    Outcome.REPRESENTABLE: "green",
    Outcome.NOT_REPRESENTABLE: "red",
    Outcome.INCONCLUSIVE: "yellow",
}
_NAMED = 4  # largest number of families that a row of the efficiency front names


def print_survey(result: SurveyResult, *, quick: bool = False) -> None:
    """Print a survey: the paper's table as measured, the reasons, and the efficiency front.

    Args:
        result: Result of a survey.
        quick: Whether the run was made with --quick, which the output then mentions.
    """
    console = output()
    _print_target(console, result)
    console.print(_survey_table(result))
    for found in result.families:
        _print_sentences(console, found)
    _print_front(console, front(result), result)
    parts = survey_gap_table(result.families, result.settings.grid.largest)
    if parts is not None:
        console.print(parts)
    for found in result.families:
        _print_digits_and_errors(console, found)
        _print_diagnoses(console, found)
    for curve in result.curves:
        console.print(curve_table(curve))
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
        caption="; ".join(filter(None, [caption(result.families), without_kl(result.families)])),
    )
    for row, members in grouped(result.families):
        table.add_row(heading(row))
        for found in members:
            table.add_row(*_family_row(found))
        table.add_section()
    return table


def _print_sentences(console: Console, found: FamilyResult) -> None:
    """Print the reason for a verdict, a difference from the paper, and the causes of a floor."""
    _print_line(console, f"{found.title}: {found.reason}")
    if found.facts is not None:
        _print_line(console, f"    {network_sentence(found.facts)}")
    if found.network != "oracle" and (blame := blame_sentence(found)) is not None:
        _print_line(console, f"    {blame}")
    if found.disagreement is not None:
        open_question = found.measured_row is None
        lead = "undecided" if open_question else "differs"
        _print_line(console, f"    {lead}: {found.disagreement}")
    for line in _causes(found):
        _print_line(console, f"    {line}")


def _print_front(console: Console, found: Front, result: SurveyResult) -> None:
    """Print the efficiency front: cells that no cell of their group beats in calls and error."""
    if len(result.families) < 2 or not found.best:
        return
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
    console.print(table)
    if found.absent:
        absent = ", ".join(found.absent)
        _print_line(console, f"not on the front, {divergence.label} is not bounded: {absent}")


def _placed(points: Sequence[Point]) -> str:
    """The families that share a place on the efficiency front, the first few by name."""
    names = [f"{point.family} ({_budget(point.cell.budget)})" for point in points[:_NAMED]]
    more = len(points) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def print_check(result: CheckResult) -> None:
    """Print a check: every cell of the family, then the verdict in words."""
    console = output()
    _print_target(console, result.survey)
    names = list(result.settings.tolerances)
    ordered = (*result.beside, result.found)
    for found in ordered:
        if result.beside:
            standing = "with the oracle" if found.network == "oracle" else f"with {found.network}"
            facts = f", {network_sentence(found.facts)}" if found.facts is not None else ""
            _print_line(console, f"{standing}{facts}")
        if found.cells:
            console.print(_cells_table(found, names))
    for name in names:
        divergence = DIVERGENCES[result.target.kind][name]
        tolerance = f"tolerance {result.settings.tolerances[name]:g} ({divergence.tolerance_unit})"
        _print_line(console, f"{name}: {divergence.unit}; {tolerance}")
    for found in ordered:
        _print_conclusion(console, found)
    for found in ordered:
        if (parts := gap_table(found)) is not None:
            console.print(parts)
        _print_digits_and_errors(console, found)
    for curve in result.survey.curves:
        console.print(curve_table(curve))
    _print_diagnoses(console, result.found)


def _cells_table(found: FamilyResult, names: Sequence[str]) -> Table:
    table = folding("length", "steps", "calls", *names)
    table.add_column("verdict", no_wrap=True)
    for cells in equal_cells(found.cells):
        table.add_row(
            _listed(cell.budget.length for cell in cells),
            _listed(cell.budget.steps for cell in cells),
            str(cells[0].model_calls),
            *(escape(str(cells[0].estimates[name])) for name in names),
            _coloured(cells[0].outcome),
        )
    return table


def _print_conclusion(console: Console, found: FamilyResult) -> None:
    """Print a verdict in words, the causes of a floor, notes, and the blame for a failure."""
    if not found.cells:
        _print_line(console, f"{found.title} was not measured: {found.reason}")
        return
    axes = f"length {found.axes.length}, steps {found.axes.steps}, loop order {found.loop_order}"
    _print_line(console, axes)
    verdict = found.outcome.value.replace("_", " ")
    _print_line(console, f"{found.title} is {verdict}: {found.reason}")
    blame = blame_sentence(found)
    for line in [*_causes(found), *found.notes, *([blame] if blame else [])]:
        _print_line(console, line)
    _print_rates(console, found, "")


def _print_digits_and_errors(console: Console, found: FamilyResult) -> None:
    """Print the effects of lower precisions and of oracle errors, if they were measured."""
    if (table := sensitivity_table(found)) is not None:
        console.print(table)
    errors = map(sensitivity_sentence, found.sensitivities)
    for line in [*precision_lines(found), *errors]:
        _print_line(console, f"{found.title}, {line}")


def _causes(found: FamilyResult) -> list[str]:
    """Sentences about the suspected causes of a floor, confirmed or not."""
    return [
        f"{'cause' if cause.removed else 'not the cause alone'}: {cause.failure}; {cause.sentence}"
        for cause in found.causes
    ]


def equal_cells(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Group cells with equal measurements; cells along an axis without effect form one group."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        same = cell.model_dump_json(include={"model_calls", "estimates", "outcome"})
        groups.setdefault(same, []).append(cell)
    return list(groups.values())


def output() -> Console:
    """A console on standard output; in a pipe it is wide enough for every table."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=140, emoji=False)


def _print_rates(console: Console, found: FamilyResult, lead: str) -> None:
    """Print one line with the rates of decrease, if any were fitted."""
    rates = [
        f"{rate.divergence} like {rate.axis}^-{rate}"
        for rate in found.rates
        if rate.value is not None and rate.value > 0
    ]
    if rates:
        line = f"{lead}rates: {', '.join(rates)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_diagnoses(console: Console, found: FamilyResult) -> None:
    """Print a table of the diagnoses, if any were made."""
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
    table.title, table.title_justify = f"{found.title}, {found.cells[-1].budget}", "left"
    console.print(table)


def _family_row(found: FamilyResult) -> list[str]:
    name = named(found.family, found) if found.network == "oracle" else f"    {found.network}"
    if found.error:
        return [name, "not measured"]
    budget, calls = "-", "-"
    if found.smallest_budget is not None:
        budget = _budget(found.smallest_budget)
        calls = str(found.cell(found.smallest_budget).model_calls)
    axes = found.axes
    verdict = _coloured(found.outcome) + (f" {WITHOUT_KL}" if found.without_kl else "")
    return [name, verdict, budget, calls, axes.length, axes.steps, _measured(found)]


def _measured(found: FamilyResult) -> str:
    """The measured group of a family, marked if it differs from the paper's."""
    if found.measured_row is None:
        return "[yellow]? undecided[/yellow]"
    title = ROW_TITLES[found.measured_row]
    return f"= {title}" if found.disagreement is None else f"[red]≠ {title}[/red]"


def _print_line(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_target(console: Console, result: SurveyResult) -> None:
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
