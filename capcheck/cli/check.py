"""`capcheck check`: measures one family on one target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from capcheck.cli.options import BUDGETS, EVIDENCE, NETWORK, OUTPUT, TARGET, fits
from capcheck.cli.parameters import GroupedCommand, Pairs, grouped, with_options
from capcheck.cli.progress import live_progress
from capcheck.cli.report import deliver
from capcheck.cli.values import merged, run_options, target_of, written
from capcheck.cli.work import start
from capcheck.procedures.registry import probe_class
from capcheck.results.survey import CheckResult
from capcheck.runs import planning
from capcheck.runs.options import Progress

__all__ = ["check"]


@click.command(cls=GroupedCommand)
@grouped("family", "--family", required=True, help="Check this family; see `capcheck families`.")
@grouped(
    "family",
    "--option",
    "options",
    type=Pairs(),
    multiple=True,
    help="Set options of the family, as in solver=heun; see `capcheck families NAME`.",
)
@with_options(TARGET)
@with_options(BUDGETS)
@NETWORK
@grouped(
    "networks",
    "--objective",
    type=click.Choice(["oracle", "end_to_end", "none"]),
    help="Fit networks to the oracle's answers (oracle), to the target through the procedure at "
    "one budget (end_to_end), or not at all (none: your weights as they are).  [default: oracle]",
)
@with_options(fits(f"{planning.FIT_STEPS}"))
@with_options(EVIDENCE)
@with_options(OUTPUT)
def check(
    family: str,
    options: Sequence[dict[str, str]],
    network: Sequence[str],
    objective: Any,
    fit_steps: int | None,
    fit_seconds: float | None,
    as_json: bool,
    start_only: bool,
    **given: Any,
) -> None:
    """Check whether one family can produce a target, and at which budget."""
    probe_class(family)  # an unknown name must fail before the data are read
    with live_progress() as progress:
        progress(Progress(done=0, total=0, running="reading the target"))
        target = target_of(given)
        engine = planning.engine_of_check(
            family,
            target,
            options=merged("--option", options),
            network=network,
            objective=objective,
            fit_steps=fit_steps,
            fit_seconds=fit_seconds,
            command=written(),
            **run_options(given, progress),
        )
        if start_only:
            start(engine, given["out"])
            return
        result = CheckResult.of(engine.run(errors_are_results=False))
    deliver(result, given["out"], as_json)
    raise SystemExit(result.exit_code)
