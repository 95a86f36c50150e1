"""`capcheck plan-decoding`: tells how many tokens a parallel decoder may place per step."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from capcheck import api
from capcheck.cli.console import output
from capcheck.cli.options import TARGET
from capcheck.cli.parameters import GroupedCommand, WholeNumbers, grouped, with_options
from capcheck.cli.progress import live_progress
from capcheck.cli.tables import folding
from capcheck.cli.values import target_of
from capcheck.results.decoding import DecodingPlan, SchedulePrice
from capcheck.runs.decoding import decoding_plan
from capcheck.runs.options import Progress

__all__ = ["plan_decoding"]


@click.command(name="plan-decoding", cls=GroupedCommand)
@with_options(TARGET)
@grouped(
    "decoding",
    "--calls",
    type=WholeNumbers(),
    help="Price schedules of these numbers of steps.  [default: powers of two]",
)
@grouped(
    "decoding",
    "--tolerance",
    type=float,
    help="Ask for this KL in nats per token at most.  [default: 0.01]",
)
@grouped(
    "decoding",
    "--samples",
    type=int,
    help="Draw this many sequences where the curve has no closed form.  [default: 16384/N]",
)
@grouped("decoding", "--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@grouped(
    "decoding",
    "--level",
    type=float,
    default=0.95,
    show_default=True,
    help="Make intervals hold with this confidence.",
)
@grouped(
    "output",
    "--report",
    "page",
    type=click.Path(path_type=Path),
    help="Write a page with a picture of the curve to this file.",
)
@grouped("output", "--json", "as_json", is_flag=True, help="Print only the plan, as JSON.")
def plan_decoding(
    calls: Sequence[int] | None,
    tolerance: float | None,
    samples: int | None,
    seed: int,
    level: float,
    page: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Tell how many tokens a parallel decoder may place per step.

    A decoder in uniformly random order, such as maskgit or masked_diffusion, loses the dependence
    of the tokens that a step places together. The loss follows from the target alone: no procedure
    is run. Each schedule says how many tokens its steps place, and the best one for a number of
    steps is found.
    """
    with live_progress() as progress:
        progress(Progress(done=0, total=0, running="reading the target"))
        found = decoding_plan(
            target_of(given),
            calls=calls,
            tolerance=tolerance,
            samples=samples,
            seed=seed,
            level=level,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print(output(), found)
    if page is not None:
        api.report(found, page)
        Console(stderr=as_json, emoji=False).print(
            f"report: {page}", markup=False, highlight=False, soft_wrap=True
        )


def _print(console: Console, found: DecodingPlan) -> None:
    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    N = found.tokens
    say(f"target: {found.target}, {N} tokens")
    if found.law != found.target:
        say(f"        {found.law}")
    if found.held_out is not None and found.held_out.dependence is not None:
        for part in found.held_out.dependence.sentence.split(": ", 1):
            say(f"        {part}")
    say(
        f"entropy {found.entropy} nats per sequence; total correlation {found.total_correlation}, "
        f"dual total correlation {found.dual_total_correlation} ({found.method})"
    )
    console.print(_table(found))
    best = found.cheapest
    say(
        f"fewest calls within {found.tolerance:g} nats per token: {best.calls}, at {best.kl}; "
        f"tokens per step {best.steps_text}"
    )
    say(
        "a mean over orders: the sequences that are sampled mix all orders, and their KL is at "
        "most this. Confidence and other orders by value are not covered."
    )


def _table(found: DecodingPlan) -> Table:
    """KL of each rule's schedule, by number of calls."""
    table = folding("calls", "uniform", "cosine", "best", "tokens per step of the best")
    table.title = f"KL in nats per token, random order; * within {found.tolerance:g}"
    table.title_justify = "left"
    for calls, prices in itertools.groupby(found.prices, key=lambda one: one.calls):
        of_calls = list(prices)
        table.add_row(str(calls), *map(_shown, of_calls), of_calls[-1].steps_text)
    return table


def _shown(price: SchedulePrice) -> str:
    return f"{price.kl}{' *' if price.suffices else ''}".replace("[", r"\[")
