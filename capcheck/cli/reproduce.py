"""`capcheck reproduce`: published numbers beside those that capcheck computes."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from capcheck.cli.console import output
from capcheck.published import SOURCES, Claim, reproduce_each
from capcheck.published.page import MARKS, interval, page, published, reasons, summary
from capcheck.runs.atomic import write_atomically

__all__ = ["reproduce"]

WIDTH = 88  # columns of the tables, unless the terminal has fewer
SIGNS = "= a closed form, ≥ a bound, ± agreement in place of digits; ≠ explained below its table"
PLACE = 14  # most columns of places in a source


@click.command()
@click.argument("sources", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="List the sources, and compute nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print only the numbers, as JSON.")
@click.option(
    "--markdown",
    metavar="FILE",
    help="Write the handbook's page of these numbers to this file, or to standard output (-).",
)
def reproduce(sources: Sequence[str], listing: bool, as_json: bool, markdown: str | None) -> None:
    """Recompute published numbers, and set them beside the printed ones.

    Without SOURCES all sources are recomputed, in about a minute. A number is matched if it rounds
    to the printed digits, explained if the reason of a difference is known, and contradicted
    otherwise. The exit code is 1 if a number is contradicted, and 3 if a source needs a package
    that is missing.
    """
    if as_json and markdown == "-":
        raise click.UsageError("--json and --markdown - both print to standard output; choose one.")
    if listing:
        _list()
        return
    quiet, claims = as_json or markdown == "-", list[Claim]()
    console = output()
    console.width = min(console.width, WIDTH)
    for one in reproduce_each(sources or None):
        claims += one.claims
        click.echo(f"{one.sentence} ({one.seconds:.1f} s)", err=True)
        if not quiet:
            _print(console, one.claims)
    if as_json:
        click.echo(json.dumps([_data(claim) for claim in claims], indent=2, ensure_ascii=False))
    elif not quiet:
        click.echo(f"{summary(claims)}\n{SIGNS}")
    if markdown == "-":
        click.echo(page(claims), nl=False)
    elif markdown is not None:
        write_atomically(Path(markdown), page(claims))
    found = {claim.status for claim in claims}
    raise SystemExit(1 if "contradicted" in found else 3 if "unavailable" in found else 0)


def _list() -> None:
    for source in SOURCES.values():
        lines = (source.name, source.title, *source.links, source.about)
        click.echo("\n    ".join(lines))
        if source.missing:
            click.echo(f"    {source.missing}")


def _data(claim: Claim) -> dict[str, Any]:
    """A claim as JSON holds it."""
    return {**dataclasses.asdict(claim), "status": claim.status}


def _print(console: Console, claims: Sequence[Claim]) -> None:
    """A table of the claims of one source, and the reasons of differences."""
    source = SOURCES[claims[0].source]
    title = f"[bold]{escape(source.title)}[/bold]"
    console.print("\n".join((title, *source.links)), highlight=False)
    table = Table(
        Column("", no_wrap=True),
        Column("where", max_width=PLACE, overflow="fold"),
        Column("quantity", overflow="fold"),
        Column("published", justify="right", overflow="fold"),
        Column("capcheck", justify="right", overflow="fold"),
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for _, of_place in itertools.groupby(claims, key=lambda claim: claim.place):
        for i, claim in enumerate(of_place):
            place, mark = claim.place if i == 0 else "", MARKS[claim.status]
            cells = (mark, place, claim.quantity, published(claim), interval(claim))
            table.add_row(*map(escape, cells))
    console.print(table, highlight=False)
    for quantity, reason in dict.fromkeys(reasons(claims)):
        console.print(f"{quantity}: {reason}.", markup=False, highlight=False)
