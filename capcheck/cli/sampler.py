"""`capcheck sampler`: checks a sampler of another library, or a user's own."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from capcheck.cli.console import output
from capcheck.cli.parameters import DEBUG, GroupedCommand, Pairs, WholeNumbers, grouped
from capcheck.cli.progress import live_progress
from capcheck.cli.tables import folding
from capcheck.cli.values import merged
from capcheck.core.errors import CapcheckError
from capcheck.procedures.registry import report_writer
from capcheck.runs.atomic import write_atomically
from capcheck.samplers.acceptance import check_acceptance
from capcheck.samplers.battery import rates
from capcheck.samplers.check_sampler import SAMPLES, check_sampler
from capcheck.samplers.findings import MARKS, Cell, Finding, SamplerResult
from capcheck.samplers.from_diffusers import schedulers
from capcheck.samplers.from_function import function_named
from capcheck.samplers.subject import FEW_STEPS, STEPS, TOKEN_STEPS
from capcheck.samplers.survey import SamplerSurvey

__all__ = ["sampler"]

ALL = "diffusers:all"
RESULTS, PAGE = "samplers.json", "samplers.html"


@click.command(name="sampler", cls=GroupedCommand)
@click.argument("name")
@grouped(
    "sampler",
    "--config",
    type=Pairs(),
    multiple=True,
    metavar="KEY=VALUE,...",
    help="Set the sampler's own settings, as in timestep_spacing=trailing.",
)
@grouped(
    "sampler",
    "--steps",
    type=WholeNumbers(),
    help="Ask for these numbers of steps.  [default: "
    f"{','.join(map(str, STEPS))}; of token ids {','.join(map(str, TOKEN_STEPS))}; of distilled "
    f"networks {','.join(map(str, FEW_STEPS))}]",
)
@grouped(
    "sampler",
    "--acceptance",
    is_flag=True,
    help="NAME is an acceptance rule of speculative decoding: is it lossless?",
)
@grouped("sampler", "--lint", is_flag=True, help="Look at the structure only, and draw nothing.")
@grouped(
    "sampler",
    "--samples",
    type=int,
    default=SAMPLES,
    show_default=True,
    help="Draw this many samples where their law is not known.",
)
@grouped("sampler", "--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@DEBUG
@grouped("output", "--json", "as_json", is_flag=True, help="Print only the results, as JSON.")
@grouped(
    "output",
    "--out",
    type=click.Path(path_type=Path),
    help="Keep the results, and a page of them, in this folder.",
)
def sampler(
    name: str,
    config: Sequence[dict[str, str]],
    steps: Sequence[int] | None,
    acceptance: bool,
    lint: bool,
    samples: int,
    seed: int,
    as_json: bool,
    out: Path | None,
) -> int:
    """Check a sampler of another library, or your own, with the oracle as its network.

    NAME is diffusers:DDIMScheduler, azula:DDIMSampler, transformers:assisted,
    package.module:function, or diffusers:all. A function is called as sampler(network, noise,
    steps, generator) and returns samples; network(x, t) is the mean of the clean tokens. A decoder
    of token ids is called as decode(model, tokens, steps). The code runs unchanged. With
    --acceptance the function is called as rule(target, draft, token, generator) with the laws
    (n, V) of two models and drafted tokens (n,), and returns tokens. Exit code 1 tells that
    something was found.
    """
    if acceptance:
        if out is not None:
            raise click.UsageError("--out keeps results of samplers; leave out --acceptance.")
        return _acceptance(name, seed, as_json)
    refused: dict[str, str] = {}
    names = [f"diffusers:{one}" for one in schedulers()] if name == ALL else [name]
    settings = {key: _value(text) for key, text in merged("--config", config).items()}
    found: list[SamplerResult] = []
    if out is not None and not os.path.exists(out / RESULTS):
        _keep(out, SamplerSurvey(samplers=(), samples=samples))  # fails before anything is run
    with live_progress() as progress:
        for one in names:
            try:
                result = check_sampler(
                    one,
                    config=settings,
                    steps=steps,
                    lint_only=lint,
                    samples=samples,
                    seed=seed,
                    progress=progress,
                )
            except CapcheckError as error:
                if name != ALL:
                    raise
                click.echo(f"{one}: not checked: {error}", err=as_json)
                refused[one] = str(error)
            else:
                found.append(result)
                if not as_json:
                    _print(output(), result)
            _keep(out, SamplerSurvey(samplers=tuple(found), refused=refused, samples=samples))
    if out is not None and not as_json:
        output().print(f"page: {out / PAGE}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        data = [result.to_json() for result in found]
        click.echo(json.dumps(data if name == ALL else data[0], indent=2))
    return int(any(not result.silent for result in found))


def _keep(folder: Path | None, survey: SamplerSurvey) -> None:
    """Write what was found so far, so that it stays if the command is interrupted."""
    if folder is not None:
        write_atomically(folder / RESULTS, json.dumps(survey.to_json(), indent=2))
        if survey.samplers or survey.refused:
            write_atomically(folder / PAGE, report_writer("samplers")(survey))


def _acceptance(name: str, seed: int, as_json: bool) -> int:
    found = check_acceptance(function_named(name), seed=seed)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
        return int(not found.lossless)
    table = folding("tokens", "laws", "drafts kept", "distance, at least", "impossible tokens")
    for cell in found.cells:
        distance = f"{cell.distance:.3g}" if cell.distance else "-"
        impossible = str(cell.impossible or "-")
        table.add_row(str(cell.vocabulary), cell.laws, f"{cell.accepted:.3f}", distance, impossible)
    output().print(table)
    output().print(f"{name} is {found.sentence}", markup=False, highlight=False)
    return int(not found.lossless)


def _value(text: str) -> Any:
    """A setting: yes, no or none, JSON, or the text itself."""
    words = {"yes": True, "true": True, "no": False, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _print(console: Console, result: SamplerResult) -> None:
    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    settings = ", ".join(f"{key}={value}" for key, value in result.config.items())
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    say(f"{result.name}{f' ({settings})' if settings else ''}; {versions}")
    if result.cells:
        steps = sorted({cell.steps for cell in result.cells})
        powers = rates(result.cells)
        table = folding("target", *(str(k) for k in steps), *(["falls like"] if powers else []))
        table.title = "error in multiples of the tolerance, by steps"
        table.title_justify = "left"
        for name, cells in itertools.groupby(result.cells, key=lambda cell: cell.target):
            fall = f"steps^{-powers[name]:.2g}" if name in powers else "-"
            table.add_row(name, *map(_shown, cells), *([fall] if powers else []))
        console.print(table)
        say("✓ within tolerance, ✗ not, ? undecided, ! raises; * estimated from draws")
        if powers:
            say("falls like: a solver of order 1 has steps^-2, of order 2 steps^-4")
    for finding in result.findings:
        where = f" on target {finding.target}" if finding.target else ""
        steps_text = ", ".join(map(str, finding.steps))
        say(f"{finding.kind}{where}, at {steps_text} steps: {finding.sentence}{_again(finding)}")
    if result.silent:
        say(result.conclusion)


def _again(finding: Finding) -> str:
    if finding.confirmed is None:
        return ""
    other = "target" if finding.target else "data point"
    return f" ({'' if finding.confirmed else 'not '}seen again with another seed and {other})"


def _shown(cell: Cell) -> str:
    number = "" if cell.error is None else f" {cell.error:.2g}"
    return f"{MARKS[cell.outcome]}{number}{'' if cell.exact or not number else '*'}"
