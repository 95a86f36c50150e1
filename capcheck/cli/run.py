"""`capcheck run`: makes the checks of a spec, and says which are as expected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from capcheck.cli.console import output
from capcheck.cli.options import MACHINE
from capcheck.cli.parameters import GroupedCommand, grouped, with_options
from capcheck.cli.progress import live_progress
from capcheck.cli.tables import folding
from capcheck.cli.values import written
from capcheck.pipeline.run_spec import SpecRun
from capcheck.pipeline.spec import read_spec
from capcheck.pipeline.spec_report import CheckReport, FailOn, SpecReport
from capcheck.pipeline.written import as_junit, as_markdown
from capcheck.runs.atomic import write_atomically

__all__ = ["SPEC", "run"]

SPEC = "capacity.toml"
MARKS = {"passed": "passed", "failed": "FAILED", "undecided": "undecided", "error": "ERROR"}
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(cls=GroupedCommand)
@click.argument("spec", type=click.Path(path_type=Path), default=SPEC)
@grouped(
    "checks",
    "--only",
    metavar="NAME",
    multiple=True,
    help="Make this check of the spec; may be repeated.  [default: all]",
)
@grouped(
    "checks",
    "--fail-on",
    type=click.Choice(["not_representable", "inconclusive"]),
    multiple=True,
    default=("not_representable", "inconclusive"),
    show_default=True,
    help="Fail for checks that do not hold, for those that stay undecided, or for both.",
)
@grouped(
    "checks",
    "--allow",
    "allowed",
    metavar="NAME",
    multiple=True,
    help="Allow this package.module:function, which the spec names as a network or a sampler.",
)
@grouped(
    "output",
    "--out",
    type=click.Path(path_type=Path),
    help="Keep the runs in this folder; what is there is not measured again.  [default: runs/SPEC]",
)
@grouped("output", "--json", "as_json", is_flag=True, help="Print only the results, as JSON.")
@grouped("output", "--junit", type=FILE, help="Write the results to this file as JUnit XML.")
@grouped(
    "output",
    "--markdown",
    type=FILE,
    help="Write a table to this file, such as $GITHUB_STEP_SUMMARY.",
)
@with_options(MACHINE)
def run(
    spec: Path,
    only: Sequence[str],
    fail_on: Sequence[FailOn],
    allowed: Sequence[str],
    out: Path | None,
    as_json: bool,
    junit: Path | None,
    markdown: Path | None,
    **machine: Any,
) -> None:
    """Make the checks of a spec, and say which are as expected.

    SPEC is a file such as `capcheck init DATA` writes, by default capacity.toml. Exit codes: 0 all
    checks are as expected, 1 one is not, 2 one could not be made, 3 one stays undecided.
    """
    read = read_spec(spec)
    out = Path("runs") / spec.stem if out is None else out
    job = SpecRun(
        read, folder=spec.parent, out=out, run=machine, allowed=allowed, command=written()
    )
    chosen = job.chosen(only)
    console = Console(stderr=True, emoji=False) if as_json else output()
    reports: list[CheckReport] = []
    for check in chosen:
        with live_progress() as progress:
            reports.append(job.report(check, progress))
        _print_check(console, reports[-1])
        report = SpecReport(spec=spec.name, checks=tuple(reports))
        for path, text in ((junit, as_junit), (markdown, as_markdown)):
            if path is not None:
                write_atomically(path, text(report))
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        _print_table(console, report)
    raise SystemExit(report.exit_code(fail_on))


def _print_check(console: Console, check: CheckReport) -> None:
    """Print what became of a check as soon as it is known."""
    kept = ", as in an earlier run" if check.kept else ""
    _line(console, f"{MARKS[check.status]}: {check.name} ({check.subject}{kept})")
    if check.status != "passed":
        for reason in check.reasons:
            _line(console, f"    {reason}")
        if check.why:
            _line(console, f"    why it matters: {check.why}")


def _print_table(console: Console, report: SpecReport) -> None:
    table = folding("check", "of", "result", "verdict", "smallest budget")
    for check in report.checks:
        row = (check.name, check.subject, MARKS[check.status], check.outcome, check.smallest)
        table.add_row(*row)
    console.print(table)
    for check in report.checks:
        if check.run is not None:
            _line(console, f"{check.name}: capcheck show {check.run}")


def _line(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
