"""`capcheck report`: writes the page of a saved run; `deliver` prints the result of any command."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from capcheck import api
from capcheck.cli.terminal import print_check, print_survey
from capcheck.results.survey import CheckResult, SurveyResult
from capcheck.runs.store import Store

__all__ = ["deliver", "report"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the report to this file.  [default: FOLDER/report.html]",
)
def report(folder: Path, out: Path | None) -> None:
    """Write the HTML report of a saved run."""
    path = api.report(Store.open(folder).result(), out or folder / "report.html")
    _print_path(Console(emoji=False), path)


def deliver(
    result: CheckResult | SurveyResult, out: Path | None, as_json: bool, *, quick: bool = False
) -> None:
    """Print a result, and write its report to the run's folder.

    Args:
        result: Result of a check or a survey.
        out: Folder of the run, or None to write no report.
        as_json: Whether to print the result schema in place of tables.
        quick: Whether the run was made with --quick.
    """
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    elif isinstance(result, CheckResult):
        print_check(result)
    else:
        print_survey(result, quick=quick)
    if out is not None:
        _print_path(Console(stderr=as_json, emoji=False), api.report(result, out / "report.html"))


def _print_path(console: Console, path: Path) -> None:
    console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)
