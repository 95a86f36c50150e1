"""`capcheck show`: prints a saved run."""

from __future__ import annotations

from pathlib import Path

import click

from capcheck.cli.report import deliver
from capcheck.results.survey import CheckResult
from capcheck.runs.store import Store

__all__ = ["show"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print only the result schema, as JSON.")
def show(folder: Path, as_json: bool) -> None:
    """Print a saved run, also one that is not whole yet, judged anew from its cells."""
    found = Store.open(folder).result()
    one = len({result.family for result in found.families}) == 1
    deliver(CheckResult.of(found) if one else found, None, as_json)
