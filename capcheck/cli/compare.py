"""`capcheck compare`: two saved runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from capcheck.cli.console import output
from capcheck.cli.tables import folding
from capcheck.pipeline.compare import MARGIN
from capcheck.pipeline.compare import compare as compared
from capcheck.pipeline.comparison import Comparison, FamilyChange
from capcheck.procedures.registry import report_writer
from capcheck.runs.atomic import write_atomically
from capcheck.runs.store import Store

__all__ = ["compare"]


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--margin",
    type=float,
    default=MARGIN,
    show_default=True,
    help="Let a divergence rise by this share of its tolerance.",
)
@click.option("--json", "as_json", is_flag=True, help="Print only the comparison, as JSON.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page to this file.")
def compare(before: Path, after: Path, margin: float, as_json: bool, html: Path | None) -> None:
    """Compare the saved runs BEFORE and AFTER, and exit with 1 if anything got worse.

    The runs may differ in anything: options of a family, schedule, data, network, version. With
    equal seeds their differences are those of paired draws.
    """
    first, second = (Store.open(folder).result() for folder in (before, after))
    found = compared(first, second, margin=margin)
    if html is not None:
        write_atomically(html, report_writer("comparison")(found))
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, allow_nan=False))
    else:
        _print(output(), found)
    raise SystemExit(1 if found.worse else 0)


def _print(console: Console, found: Comparison) -> None:
    names = found.targets[0] if found.same_target else " and ".join(found.targets)
    kind = "one law" if found.same_target else "two laws"
    draws = "paired draws" if found.paired else "independent draws"
    _line(console, f"target: {names} ({kind}); {draws}, intervals at {found.level:g}")
    table = folding("family", "verdict", "smallest budget", "calls", "result")
    for one in found.families:
        table.add_row(one.title, *_columns(one), one.verdict)
    console.print(table)
    for one in found.families:
        for reason in one.reasons:
            _line(console, f"{one.title}, {one.verdict}: {reason}")
    for titles, which in ((found.only_before, "before"), (found.only_after, "after")):
        if titles:
            _line(console, f"only {which}: {', '.join(titles)}")


def _columns(one: FamilyChange) -> list[str]:
    """Verdicts, budgets and calls, before and after where they differ."""
    pairs = [
        list(one.words),
        ["-" if budget is None else str(budget) for budget in one.smallest],
        ["-" if calls is None else str(calls) for calls in one.calls],
    ]
    return [a if a == b else f"{a} → {b}" for a, b in pairs]


def _line(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
