"""What the command line shows: tables on standard output, progress on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
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
from capcheck.probe import ROW_TITLES, AnyProbe
from capcheck.results import Cell, CheckResult, FamilyResult, Outcome, SurveyResult
from capcheck.targets.specs import BUILT_IN, parameters

_COLOURS = {
    Outcome.REPRESENTABLE: "green",
    Outcome.NOT_REPRESENTABLE: "red",
    Outcome.INCONCLUSIVE: "yellow",
}


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
    return ("yes" if default else "no") if isinstance(default, bool) else str(default)


def families_table(probes: Sequence[type[AnyProbe]]) -> Table:
    """Name, group, tokens and first line of every family."""
    table = Table("family", "scales in (paper)", "tokens", "what it does")
    for probe in probes:
        summary = (probe.__doc__ or "").strip().splitlines()[0]
        table.add_row(probe.family, ROW_TITLES[probe.row], ", ".join(sorted(probe.kinds)), summary)
    return table


def print_survey(result: SurveyResult) -> None:
    """The verdict of every family, in a table."""
    console = output()
    _print_target(console, result)
    table = Table(
        "family",
        Column("verdict", no_wrap=True),
        "smallest budget",
        "calls",
        "length",
        "steps",
        "loop order",
    )
    for found in result.families:
        table.add_row(*_family_row(found))
    console.print(table)
    for found in result.families:
        console.print(f"{found.family}: {found.reason}", markup=False, highlight=False)
        for note in found.notes:
            console.print(f"{found.family}: {note}", markup=False, highlight=False)


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
    for note in result.notes:
        console.print(note, markup=False, highlight=False)


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


def _family_row(found: FamilyResult) -> list[str]:
    budget, calls = "-", "-"
    if found.smallest_budget is not None:
        budget = _budget(found.smallest_budget)
        calls = str(found.cell(found.smallest_budget).model_calls)
    verdict = "not measured" if found.error else _coloured(found.outcome)
    axes = found.axes
    return [found.family, verdict, budget, calls, axes.length, axes.steps, found.loop_order or "-"]


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
