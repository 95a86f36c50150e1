"""`capcheck survey`: measures many families on one target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from capcheck.cli.options import BUDGETS, EVIDENCE, NETWORK, OUTPUT, TARGET, fits
from capcheck.cli.parameters import Decorator, GroupedCommand, grouped, with_options
from capcheck.cli.progress import live_progress
from capcheck.cli.report import deliver
from capcheck.cli.values import run_options, target_of, written
from capcheck.cli.work import start
from capcheck.core.errors import CapcheckError
from capcheck.data.files import name_of
from capcheck.procedures.registry import probe_class
from capcheck.results.survey import SurveyResult
from capcheck.runs import planning
from capcheck.runs.options import Progress
from capcheck.targets.target import Target

__all__ = ["QUICK", "SURVEYED", "asked", "survey"]

# Options of --quick: an answer in less than a minute, with more undecided cells. The two ends of an
# axis suffice to tell whether it is used; those of the length depend on the target. No network is
# fitted unless one is named: the few steps that there is time for tell about themselves only.
QUICK: dict[str, Any] = {"samples": 500, "steps": (1, 16)}


# The options that say what is surveyed, which `asked` reads.
SURVEYED: Sequence[Decorator] = (
    grouped(
        "family",
        "--family",
        "names",
        metavar="NAME,...",
        help="Survey these families.  [default: all]",
    ),
    *TARGET,
    *BUDGETS,
    NETWORK,
    *fits(f"{planning.SURVEY_FIT_STEPS}, or {planning.QUICK_FIT_STEPS} with --quick"),
    *EVIDENCE,
    grouped(
        "evidence",
        "--quick",
        is_flag=True,
        help="Use 500 draws per cell, --length 0,N, --steps 1,16 and --network none, unless given.",
    ),
)


@click.command(cls=GroupedCommand)
@with_options(SURVEYED)
@grouped(
    "evidence",
    "--strict",
    is_flag=True,
    help="Exit 1 or 3 unless every family is representable, also with networks of --network.",
)
@with_options(OUTPUT)
def survey(
    names: str | None,
    strict: bool,
    quick: bool,
    network: Sequence[str],
    fit_steps: int | None,
    fit_seconds: float | None,
    as_json: bool,
    start_only: bool,
    **given: Any,
) -> None:
    """Measure every family on one target, and write the report.

    Families whose oracle says little about trained networks are also measured with a fitted
    network. With --network every family is, and with --network none no family is.

    The run is kept in the folder --out, by default runs/NAME for --data NAME (runs/NAME_ARRAY for
    NAME.npz#ARRAY), followed by -quick with --quick. The same command continues a run that was
    interrupted.
    """
    if given["out"] is None and given["data"] is not None:
        given["out"] = Path("runs") / (name_of(given["data"]) + ("-quick" if quick else ""))
    with live_progress() as progress:
        target, keywords = asked(given, names, quick, network, fit_steps, fit_seconds, progress)
        engine = planning.engine_of_survey(target, command=written(), **keywords)
        if start_only:
            start(engine, given["out"])
            return
        result = engine.run(errors_are_results=True)
    deliver(result, given["out"], as_json, quick=quick)
    if any(found.error and found.supported for found in result.families):
        raise SystemExit(CapcheckError.exit_code)
    raise SystemExit(_strictly(result, networks=bool(network)) if strict else 0)


def asked(
    given: dict[str, Any],
    names: str | None,
    quick: bool,
    network: Sequence[str],
    fit_steps: int | None,
    fit_seconds: float | None,
    progress: Callable[[Progress], None],
) -> tuple[Target, dict[str, Any]]:
    """The target and the keywords of `engine_of_survey` that the options `SURVEYED` ask for.

    Args:
        given: Values of the options that are not named here; those of --quick are filled in.
        names: Names of families, separated by commas, or None for all.
        quick: Whether --quick is given.
        network: Names of networks.
        fit_steps: Number of optimiser steps of a fit, or None.
        fit_seconds: Seconds of a fit, or None.
        progress: Function that is told that the target is read, and then how the run goes.

    Raises:
        InputError: A family is unknown, or the target cannot be built.
    """
    chosen = None if names is None else names.split(",")
    for name in chosen or ():
        probe_class(name)  # an unknown name must fail before the data are read
    if quick:
        given |= {name: value for name, value in QUICK.items() if given[name] is None}
    if quick and fit_seconds is None and fit_steps is None:
        network = network or ("none",)
        fit_steps = None if network == ("none",) else planning.QUICK_FIT_STEPS
    progress(Progress(done=0, total=0, running="reading the target"))
    target = target_of(given)
    if quick and given["lengths"] is None:
        given["lengths"] = (0, target.spec.tokens - len(given["given"] or ()))
    return target, {
        "families": chosen,
        "network": "none" if network == ("none",) else network or None,
        "fit_steps": fit_steps,
        "fit_seconds": fit_seconds,
        **run_options(given, progress),
    }


def _strictly(result: SurveyResult, *, networks: bool) -> int:
    """The exit code with --strict.

    It is 1 if a family is not representable, otherwise 3 if a family is inconclusive or a network
    of --network could not be measured, and otherwise 0.
    """
    gated = [found for found in result.families if networks or found.network == "oracle"]
    codes = [found.exit_code for found in gated if not found.error or found.network != "oracle"]
    return 1 if 1 in codes else max(codes, default=3)
