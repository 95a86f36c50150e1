"""`capcheck plan`: tells what a survey would cost before it is made."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from capcheck.cli.console import output
from capcheck.cli.options import MACHINE
from capcheck.cli.parameters import GroupedCommand, grouped, with_options
from capcheck.cli.progress import live_progress
from capcheck.cli.survey import SURVEYED, asked
from capcheck.cli.tables import folding
from capcheck.core.errors import InputError
from capcheck.core.memory import require_memory, size_in_words
from capcheck.core.pace import duration
from capcheck.pipeline.run_spec import SpecRun
from capcheck.pipeline.spec import read_spec
from capcheck.results.cost import UNSEEN, FamilyCost, RunCost
from capcheck.runs import planning
from capcheck.runs.options import placement

__all__ = ["H200", "WORKERS", "plan"]

WORKERS = (1, 2, 8, 64)  # numbers of workers whose time is told
# Rates of an NVIDIA H200 in float32: the matrix products that `tests/gpu/RESULTS.md` measured, its
# memory by the data sheet in float64's bytes, and operations that Python launches.
H200 = (50.6e12, 2 * 4.8e12, 2e5)


@click.command(cls=GroupedCommand)
@click.argument("file", metavar="[SPEC]", type=click.Path(path_type=Path), required=False)
@with_options(SURVEYED)
@grouped(
    "data",
    "--rows",
    type=int,
    help="Tell the cost of as many rows of such data; needs --data and --law rows.",
)
@grouped(
    "networks",
    "--allow",
    "allowed",
    metavar="NAME",
    multiple=True,
    help="Allow this package.module:factory, which the spec names.",
)
@grouped("output", "--json", "as_json", is_flag=True, help="Print only the costs, as JSON.")
@with_options(MACHINE)
def plan(
    file: Path | None,
    names: str | None,
    quick: bool,
    network: Sequence[str],
    fit_steps: int | None,
    fit_seconds: float | None,
    rows: int | None,
    as_json: bool,
    allowed: Sequence[str],
    **given: Any,
) -> None:
    """Tell what a survey, or the checks of a spec, would cost before they are made.

    Takes a file such as `capcheck init` writes, or the options of `capcheck survey`. Every part is
    made for a moment on this machine, with few draws, and its time follows from the numbers of
    turns, rows and steps, as does its memory. Both are right within a factor of about two. A run
    that does not fit into memory is refused.
    """
    if rows is not None and (given["data"] is None or given["law"] != "rows"):
        raise InputError(
            f"--rows needs data and --law rows, whose cost grows with the rows, got --rows {rows} "
            f"and --law {given['law'] or 'auto'}; give both, or leave --rows out."
        )
    if file is not None:
        costs, untold = _of_spec(file, given, allowed)
        if as_json:
            click.echo(json.dumps({name: one.to_json() for name, one in costs.items()}, indent=2))
        else:
            _print_spec(output(), costs)
            for name in untold:
                output().print(
                    f"{name}: the cost of a check of a sampler is not told", markup=False
                )
        _require_room(costs.values(), given["device"])
        return
    began = time.perf_counter()
    given["out"] = None
    with live_progress() as progress:
        target, keywords = asked(given, names, quick, network, fit_steps, fit_seconds, progress)
        start = time.perf_counter() - began
        found = planning.cost_of_survey(target, start=start, rows=rows, **keywords)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print(output(), found)
    _require_room([found], given["device"])


def _require_room(costs: Collection[RunCost], device: str) -> None:
    """Raise InputError if a worker of a run on a CPU would take more memory than there is."""
    if placement(device)[0].type != "cpu":
        return
    cure = "give a smaller --batch, fewer --samples, or fewer tokens"
    needed = max((one.memory for one in costs), default=0.0)
    require_memory(needed, "one worker of this run", cure)


def _of_spec(
    spec: Path, given: dict[str, Any], allowed: Sequence[str]
) -> tuple[dict[str, RunCost], list[str]]:
    """The cost of every check of a spec that has a family, by its name, and the other checks.

    Raises:
        InputError: Options of a survey are given as well, or a check cannot be made.
    """
    if given["data"] is not None or given["spec"] is not None:  # of --target
        raise InputError("give one of a spec and --data or --target, got both.")
    machine = {name: given[name] for name in ("device", "batch", "workers")}
    read = read_spec(spec)
    job = SpecRun(read, folder=spec.parent, out=None, run=machine, allowed=allowed)
    costs = {}
    for check in read.checks:
        if check.family is not None:
            with live_progress() as progress:
                costs[check.name] = job.cost(check, progress)
    return costs, [check.name for check in read.checks if check.family is None]


def _print_spec(console: Console, costs: dict[str, RunCost]) -> None:
    """Print what every check takes, and all of them together."""
    table = folding(
        "check", "family", "cells", "calls", "turns", "seconds", "with causes", "memory"
    )
    table.title = (
        "one worker of this machine: seconds and memory; calls of the model for a sample at the "
        "largest budget"
    )
    table.title_justify = "left"
    for name, found in costs.items():
        for one in found.families:
            seconds = found.start + found.shared + UNSEEN * one.seconds
            causes = seconds + UNSEEN * one.causes
            memory = size_in_words(found.held + one.memory)
            counts = str(one.cells), f"{one.calls:,}", f"{one.turns:,}"
            row = (*counts, _shown(seconds), _shown(causes), memory)
            table.add_row(name, one.title, *(row if not one.reason else ("-",) * len(row)))
    console.print(table)
    for name, found in costs.items():
        for one in found.families:
            if one.reason:
                console.print(f"{name}: {one.reason}", markup=False, highlight=False)
    for workers in (1, 2):
        word = "worker" if workers == 1 else "workers"
        whole = sum(found.seconds(workers) for found in costs.values())
        console.print(f"{workers} {word} of this machine: {duration(whole)}", highlight=False)


def _print(console: Console, found: RunCost) -> None:
    console.print(_table(found))
    for one in found.families:
        if one.reason:
            console.print(f"{one.title}: {one.reason}", markup=False, highlight=False)
    for workers in WORKERS:
        word = "worker" if workers == 1 else "workers"
        time_taken = duration(found.seconds(workers))
        console.print(f"{workers} {word} of this machine: {time_taken}", highlight=False)
    console.print(f"memory of each worker: {size_in_words(found.memory)}", highlight=False)
    flops = sum(one.flops for one in found.families)
    moved = sum(one.moved for one in found.families)
    fewest, most = map(duration, found.on_device(H200))
    console.print(
        f"the runs' arithmetic: {_large(flops)}flop of matrix products, {_large(moved)}B moved; "
        f"on one H200 from {fewest} (products alone) to {most} (nothing stays in a cache), "
        "by its rates and not measured",
        highlight=False,
    )


def _table(found: RunCost) -> Table:
    """Seconds of one worker for every family, by its parts."""
    table = folding(
        *("family", "cells", "calls", "turns", "draws", "log-densities", "estimates", "fit", "all"),
        *("causes", "memory"),
    )
    table.title = (
        "one worker: seconds and memory; calls of the model for a sample at the largest budget; "
        "causes only where every budget is refused"
    )
    table.title_justify = "left"
    for one in found.families:
        if not one.reason:
            memory = size_in_words(found.held + one.memory)
            parts = map(_shown, _parts(one))
            counts = str(one.cells), f"{one.calls:,}", f"{one.turns:,}"
            table.add_row(one.title, *counts, *parts, memory)
    return table


def _parts(one: FamilyCost) -> tuple[float, ...]:
    return one.draws, one.densities, one.estimates, one.fit, one.seconds, one.causes


def _large(number: float) -> str:
    """A number of three digits with the prefix of its unit."""
    for prefix, size in zip("EPTGMk", (1e18, 1e15, 1e12, 1e9, 1e6, 1e3), strict=True):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "


def _shown(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"
