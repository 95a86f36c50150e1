"""`capcheck report`: writes the page of a saved run; `deliver` prints the result of any command."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from capcheck import api
from capcheck.cli.terminal import print_check, print_survey
from capcheck.pipeline.markdown import markdown_summary
from capcheck.results.survey import CheckResult, SurveyResult
from capcheck.runs.atomic import write_atomically
from capcheck.runs.store import Store

__all__ = ["deliver", "report"]

STANDARD_OUTPUT = Path("-")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the HTML report to this file.  [default: FOLDER/report.html, if no other option]",
)
@click.option(
    "--markdown",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write a summary for pull requests to this file, or to standard output if it is -.",
)
@click.option(
    "--svg",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write every chart to this folder as SVG.",
)
@click.option(
    "--png",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write every chart to this folder as PNG.",
)
def report(
    folder: Path, out: Path | None, markdown: Path | None, svg: Path | None, png: Path | None
) -> None:
    """Write the HTML report of a saved run, a summary of it in Markdown, or its charts."""
    result = Store.open(folder).result()
    console = Console(stderr=markdown == STANDARD_OUTPUT, emoji=False)
    if markdown == STANDARD_OUTPUT:
        click.echo(markdown_summary(result), nl=False)
    elif markdown is not None:
        _print_path(console, write_atomically(markdown, markdown_summary(result)))
    for kind, charts in (("svg", svg), ("png", png)):
        if charts is not None:
            _print_path(console, api.report(result, charts, kind=kind), "charts")
    if out is not None or (markdown, svg, png) == (None, None, None):
        _print_path(console, api.report(result, out or folder / "report.html"))


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


def _print_path(console: Console, path: Path, name: str = "report") -> None:
    console.print(f"{name}: {path}", markup=False, highlight=False, soft_wrap=True)
