"""The page of samplers: what was found about each, how to see it again, and the errors.

The page has no script. Its list shows every sampler and every kind of finding; the details of a
sampler are folded, and open where the page is of one sampler only.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from capcheck.reports.page import page
from capcheck.reports.reproduction import command, script
from capcheck.reports.sampler_chart import BOX, HEIGHT, WIDTH, Panel, panels
from capcheck.reports.sampler_grid import Entry, by_target, enough, grid, last_entry
from capcheck.samplers.battery import TARGETS, TOKEN_TARGETS
from capcheck.samplers.check_sampler import SAMPLES
from capcheck.samplers.findings import Finding, FindingKind, SamplerResult
from capcheck.samplers.survey import SamplerSurvey

__all__ = ["KINDS", "FindingView", "SamplerView", "render", "render_samplers"]

KINDS: dict[FindingKind, str] = {
    "raises": "the code raised an exception, or returned numbers that are not finite",
    "fewer_steps": "the network was asked at fewer levels than steps were asked for",
    "repeated_level": "two steps in a row asked at the same level",
    "prior_mismatch": "the starting noise is not what the network was trained on at the first "
    "level",
    "leftover_noise": "the samples of a single data point scatter",
    "biased_rule": "the samples of a single data point miss it, or the error on a target stays "
    "the same however many steps there are",
    "worse_with_more_steps": "more steps made a sufficient number of steps insufficient",
    "no_convergence": "the largest numbers of steps do not suffice, and the error grows",
    "ignores_generator": "random numbers are drawn without the generator that was given",
}
"""The meaning of each kind of finding, in the order of the list."""

WORD = r"[A-Z]*[^A-Z:._]*[:._]*"  # a part of a name, after which a line may end
NOUNS = {"diffusers": "scheduler", "azula": "sampler"}
"""The noun for the samplers of a library."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindingView:
    """A finding as it is shown.

    Attributes:
        found: The finding.
        anchor: Name of its place in the page.
        columns: Numbers of steps of its table.
        rows: Names and numbers of its table, a number for each column.
        facts: Names and texts of further evidence.
        command: Command that shows it again, or None.
        script: Script that shows it without capcheck, or None.
    """

    found: Finding
    anchor: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    facts: tuple[tuple[str, str], ...]
    command: str | None
    script: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerView:
    """A sampler as it is shown.

    Attributes:
        result: Its result.
        anchor: Name of its place in the page.
        words: Parts of its name, between which a line may end.
        findings: Its findings.
        first: The first finding of each kind that was found.
        smallest: Smallest sufficient number of steps on each target of the page, as text.
        last: Its worst cell at the largest number of steps; None if nothing was measured.
        steps: Numbers of steps of the grid.
        rows: Targets and entries of the grid.
        panels: Panels of its chart.
    """

    result: SamplerResult
    anchor: str
    words: tuple[str, ...]
    findings: tuple[FindingView, ...]
    first: dict[FindingKind, FindingView]
    smallest: tuple[str, ...]
    last: Entry | None
    steps: tuple[int, ...]
    rows: tuple[tuple[str, list[Entry | None]], ...]
    panels: tuple[Panel, ...]


def render(survey: SamplerSurvey) -> str:
    """Writes the page of a survey of samplers; returns the text of one HTML file."""
    return render_samplers(survey.samplers, survey.refused, samples=survey.samples)


def render_samplers(
    results: Sequence[SamplerResult],
    refused: Mapping[str, str] | None = None,
    *,
    samples: int = SAMPLES,
) -> str:
    """Writes the page of samplers; returns the text of one HTML file.

    Args:
        results: Results of `capcheck.check_sampler`; those of most findings are shown first.
        refused: Reason, in one sentence, by the name of each sampler that was not checked.
        samples: Number of draws where the law of the samples is not known, at least 200.
    """
    order = sorted(results, key=lambda result: (-len(result.findings), result.name))
    measured = dict.fromkeys(t for result in order for t in by_target(result.cells))
    known = [target for target in (*TARGETS, *TOKEN_TARGETS) if target in measured]
    targets = [*known, *(target for target in measured if target not in known)]
    reasons = dict(sorted((refused or {}).items()))
    single = len(order) == 1 and not reasons
    place, _ = _library(order, reasons)
    prefix = f"{place.partition(' ')[0]}:" if place and not single else ""
    return page(
        "samplers.html.j2",
        {},
        views=[_view(result, i, prefix, targets, samples) for i, result in enumerate(order)],
        refused=reasons,
        lead=_lead(order, reasons),
        single=single,
        whose=order[0].name if single else place,
        kinds=KINDS,
        targets=targets,
        versions=_shared([result.versions for result in order]),
        config=_shared([result.config for result in order]),
        seeds=sorted({result.seed for result in order}),
        samples=samples,
        box=BOX,
        width=WIDTH,
        height=HEIGHT,
    )


def _view(
    result: SamplerResult, i: int, prefix: str, targets: Sequence[str], samples: int
) -> SamplerView:
    findings = [
        _finding(result, found, f"finding-{i}-{j}", samples)
        for j, found in enumerate(result.findings)
    ]
    first: dict[FindingKind, FindingView] = {}
    for one in findings:
        first.setdefault(one.found.kind, one)
    steps, rows = grid(result.cells)
    return SamplerView(
        result=result,
        anchor=f"sampler-{i}",
        words=tuple(re.findall(WORD, result.name.removeprefix(prefix))),
        findings=tuple(findings),
        first=first,
        smallest=tuple(enough(result.cells, target) for target in targets),
        last=last_entry(result.cells),
        steps=tuple(steps),
        rows=tuple(rows),
        panels=tuple(panels(result.cells)),
    )


def _finding(result: SamplerResult, found: Finding, anchor: str, samples: int) -> FindingView:
    own = found.evidence.get("steps")
    steps = own if isinstance(own, list | tuple) else found.steps
    rows, facts = [], []
    for name, value in found.evidence.items():
        label = "error, × tolerance" if name == "error" else name.replace("_", " ")
        if isinstance(value, list | tuple) and len(value) == len(steps):
            rows.append((label, tuple(_text(each) for each in value)))
        else:
            facts.append((label, _text(value)))
    return FindingView(
        found=found,
        anchor=anchor,
        columns=tuple(map(str, steps)),
        rows=tuple(row for row in rows if row[0] != "steps"),
        facts=tuple(facts),
        command=command(result, found, samples=samples),
        script=script(result, found),
    )


def _lead(results: Sequence[SamplerResult], refused: Mapping[str, str]) -> str:
    """The page in one sentence."""
    if len(results) == 1 and not refused:
        (result,) = results
        many = len(result.findings)
        kinds = dict.fromkeys(found.kind.replace("_", " ") for found in result.findings)
        return (
            f"{result.name} has {_counted(many, 'finding')}: {', '.join(kinds)}."
            if many
            else f"Nothing was found in {result.name}."
        )
    place, noun = _library(results, refused)
    silent = sum(result.silent for result in results)
    bad, many = len(results) - silent, len(results) + len(refused)
    checked = f"{len(results)} {'was' if len(results) == 1 else 'were'} checked"
    if results:
        checked += (
            f": {silent} {'is' if silent == 1 else 'are'} silent, "
            f"{bad} {'has' if bad == 1 else 'have'} findings"
        )
    left = f"; {len(refused)} {'was' if len(refused) == 1 else 'were'} refused" if refused else ""
    return f"Of {_counted(many, noun)}{f' of {place}' if place else ''}, {checked}{left}."


def _library(results: Sequence[SamplerResult], refused: Mapping[str, str]) -> tuple[str, str]:
    """The library of all samplers with its version, and the noun for them."""
    names = [*(result.name for result in results), *refused]
    libraries = {name.partition(":")[0] for name in names}
    library = libraries.pop() if len(libraries) == 1 else ""
    if library not in NOUNS:
        return "", "sampler"
    version = next((one.versions[library] for one in results if library in one.versions), "")
    return f"{library} {version}".strip(), NOUNS[library]


def _shared(facts: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """The facts as text, if they are the same for all; None otherwise."""
    if any(other != facts[0] for other in facts[1:]):
        return None
    return {key: str(value) for key, value in facts[0].items()} if facts else {}


def _counted(many: int, noun: str) -> str:
    return f"{many} {noun}{'' if many == 1 else 's'}"


def _text(value: object) -> str:
    """A number of the evidence to three digits, or any other value as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
