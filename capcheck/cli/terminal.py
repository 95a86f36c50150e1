"""Terminal output: prints the result of a survey or a check as tables and sentences."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.table import Table

from capcheck.cli.console import encodes, output
from capcheck.cli.sparkline import BLOCKS
from capcheck.cli.tables import curve_table, gap_table, sensitivity_table, survey_gap_table
from capcheck.cli.verdict_tables import (
    cells_table,
    diagnoses_table,
    draws_table,
    front_table,
    survey_notes,
    survey_table,
)
from capcheck.divergences import DIVERGENCES
from capcheck.judging.answer import answer
from capcheck.judging.equal_cells import listed
from capcheck.judging.front import front
from capcheck.judging.sentences import (
    blame_sentence,
    network_sentence,
    precision_lines,
    sensitivity_sentence,
    speculation_sentences,
    target_sentences,
)
from capcheck.results.family import FamilyResult
from capcheck.results.survey import CheckResult, SurveyResult

__all__ = ["WIDTH", "print_check", "print_survey"]

WIDTH = 100  # columns of the first screen of a survey


def print_survey(result: SurveyResult, *, quick: bool = False) -> None:
    """Print a survey: its answer, the paper's table as measured, the reasons, and the front.

    Args:
        result: Result of a survey.
        quick: Whether the run was made with --quick, which the output then mentions.
    """
    console = output()
    console.print(_wrapped(console, answer(result)), markup=False, highlight=False)
    _print_target(console, result)
    plain = not encodes(console, BLOCKS)
    console.print(survey_table(result, plain=plain))
    for note in survey_notes(result, plain=plain):
        _print_line(console, note)
    for found in result.families:
        _print_sentences(console, found)
    _print_front(console, result)
    _print_table(console, survey_gap_table(result.families, result.settings.grid.largest))
    for found in result.families:
        _print_digits_and_errors(console, found)
        _print_table(console, diagnoses_table(found))
    for curve in result.curves:
        console.print(curve_table(curve))
    if quick:
        networks = any(found.network != "oracle" for found in result.families)
        oracles = "" if networks else "no network was fitted, only oracles measured; "
        _print_line(
            console,
            f"quick: {result.settings.samples} draws per cell at lengths "
            f"{listed(result.settings.grid.lengths)} and steps "
            f"{listed(result.settings.grid.steps)}; {oracles}verdicts hold at their level "
            "all the same, and what is undecided may only need more draws: run it without --quick",
        )


def _wrapped(console: Console, text: str) -> str:
    """A text in lines that are as wide as the survey's table, or narrower on a narrow terminal."""
    return textwrap.fill(text, min(console.width, WIDTH), break_on_hyphens=False)


def _print_front(console: Console, result: SurveyResult) -> None:
    """Print the efficiency front of at least two families, and the families that are not on it."""
    found = front(result)
    if len(result.families) < 2 or not found.best:
        return
    console.print(front_table(found, result))
    if found.absent:
        label = DIVERGENCES[result.target.kind][found.divergence].label
        absent = ", ".join(found.absent)
        _print_line(console, f"not on the front, {label} is not bounded: {absent}")


def _print_table(console: Console, table: Table | None) -> None:
    if table is not None:
        console.print(table)


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
    for line in [*_causes(found), *speculation_sentences(found)]:
        _print_line(console, f"    {line}")


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
            console.print(cells_table(found, names))
            _print_table(console, draws_table(found))
    for name in names:
        divergence = DIVERGENCES[result.target.kind][name]
        tolerance = f"tolerance {result.settings.tolerances[name]:g} ({divergence.tolerance_unit})"
        _print_line(console, f"{name}: {divergence.unit}; {tolerance}")
    for found in ordered:
        _print_conclusion(console, found)
    for found in ordered:
        _print_table(console, gap_table(found))
        _print_digits_and_errors(console, found)
    for curve in result.survey.curves:
        console.print(curve_table(curve))
    _print_table(console, diagnoses_table(result.found))


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
    said = [*_causes(found), *found.notes, *([blame] if blame else [])]
    for line in [*said, *speculation_sentences(found)]:
        _print_line(console, line)
    _print_rates(console, found, "")


def _print_digits_and_errors(console: Console, found: FamilyResult) -> None:
    """Print the effects of lower precisions and of oracle errors, if they were measured."""
    _print_table(console, sensitivity_table(found))
    errors = map(sensitivity_sentence, found.sensitivities)
    for line in [*precision_lines(found), *errors]:
        _print_line(console, f"{found.title}, {line}")


def _causes(found: FamilyResult) -> list[str]:
    """Sentences about the suspected causes of a floor, confirmed or not."""
    return [
        f"{'cause' if cause.removed else 'not the cause alone'}: {cause.failure}; {cause.sentence}"
        for cause in found.causes
    ]


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


def _print_line(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_target(console: Console, result: SurveyResult) -> None:
    first, *others = target_sentences(result.target)
    for line in [f"target: {first}", *(f"        {other}" for other in others)]:
        _print_line(console, line)
