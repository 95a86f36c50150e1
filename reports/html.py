"""The HTML report shows a run in one self-contained file, which `capcheck.reports.page` makes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, get_args

from capcheck.core.sequences import Kind
from capcheck.divergences import DIVERGENCES, Divergence
from capcheck.judging.front import Front, front
from capcheck.judging.qualities import quality_table
from capcheck.judging.sentences import (
    blame_sentence,
    gaps_by_precision,
    grouped_gaps,
    missing_parts_sentence,
    network_sentence,
    part_text,
    parts_used,
    precision_lines,
    sensitivity_sentence,
    speculation_sentences,
)
from capcheck.networks.kinds import FittedNetwork
from capcheck.procedures.probe import Failure
from capcheck.procedures.rows import ROW_TITLES, ROWS
from capcheck.reports import decoding
from capcheck.reports.budgets import family_chart
from capcheck.reports.capacity import curve_chart
from capcheck.reports.front import front_chart
from capcheck.reports.gaps import gap_chart
from capcheck.reports.page import Chart, page
from capcheck.reports.samples import samples_chart
from capcheck.reports.style import without_template
from capcheck.results.family import WITHOUT_KL, WITHOUT_KL_MEANING, FamilyResult
from capcheck.results.measurement import Cell, Outcome
from capcheck.results.settings import SAMPLES
from capcheck.results.survey import SurveyResult

__all__ = ["TEXTS", "WORDS", "render"]

TEXTS = 10  # most text samples that are shown of one budget, or of the target
WORDS = {
    "representable": "can",
    "not_representable": "cannot",
    "inconclusive": "undecided",
}


def render(result: SurveyResult) -> str:
    """Writes the report of a run; returns the text of one HTML file."""
    measured = [found for found in result.families if found.cells]
    fronts = front(result)
    with without_template():
        figures = _figures(measured, fronts, result)
    divergences = DIVERGENCES[result.target.kind]
    families = [_family(found, result) for found in result.families]
    return page(
        "report.html.j2",
        figures,
        result=result,
        families=families,
        groups=_groups(families),
        summary=_summary([f for f in families if f["result"].network == "oracle"]),
        fitted=_summary([f for f in families if f["result"].network != "oracle"]),
        curves=result.curves,
        without_kl=f"{WITHOUT_KL} {WITHOUT_KL_MEANING}",
        broken=_broken(families),
        failures=_failures(result),
        front=_front(fronts),
        front_label=divergences[fronts.divergence].label,
        front_absent=fronts.absent,
        few=result.settings.at(result.settings.looks - 1).samples < SAMPLES,
        tolerances=[
            (_label(divergences[name]), tolerance)
            for name, tolerance in result.settings.tolerances.items()
        ],
        names=[(name, divergences[name].label) for name in result.settings.tolerances],
        unavailable=_unavailable(measured, result.target.kind),
        heading="h3",
        **decoding.facts(result.decoding),
    )


def _figures(
    measured: Sequence[FamilyResult], fronts: Front, result: SurveyResult
) -> dict[str, Chart]:
    """All charts of the page, by the names of their places in it."""
    figures: dict[str, Chart] = {}
    if fronts.points:
        figures["front"] = front_chart(fronts, result)
    for found in measured:
        name = _anchor(found, result)
        figures[f"chart-{name}"] = family_chart(found, result)
        if result.target.provenance.vocabulary is None:
            figures[f"samples-{name}"] = samples_chart(_sample_groups(found, result), result.target)
        if any(gap.parts for gap in found.gaps):
            figures[f"gaps-{name}"] = gap_chart(found, result)
    if result.decoding is not None:
        figures |= decoding.charts(result.decoding)
    for curve in result.curves:
        figures[f"curve-{curve.family}"] = curve_chart(curve, result)
    return figures


def _family(found: FamilyResult, result: SurveyResult) -> dict[str, Any]:
    smallest, used = found.smallest_budget, parts_used(found)
    return {
        "result": found,
        "end_to_end": isinstance(found.plan.network, FittedNetwork)
        and found.plan.network.objective == "end_to_end",
        "anchor": _anchor(found, result),
        "qualities": quality_table(found),
        "drafts": speculation_sentences(found),
        "network": network_sentence(found.facts) if found.facts is not None else None,
        "blame": blame_sentence(found),
        "gaps": [
            (
                "" if precision == "-" else precision,
                [
                    (lengths, steps, gap, [part_text(gap, name, precision) for name in used])
                    for lengths, steps, gap in grouped_gaps(gaps)
                ],
            )
            for precision, gaps in gaps_by_precision(found)
        ],
        "parts": used,
        "without_parts": missing_parts_sentence(found),
        "precisions": precision_lines(found),
        "sensitivities": [(one, sensitivity_sentence(one)) for one in found.sensitivities],
        "verdict": WORDS[found.outcome.value] if not found.error else "not measured",
        "mark": f" {WITHOUT_KL}" if found.without_kl else "",
        "row": ROW_TITLES[found.row],
        "measured": None if found.measured_row is None else ROW_TITLES[found.measured_row],
        "calls": found.cell(smallest).model_calls if smallest else None,
        "texts": _texts(found, result),
        "options": ", ".join(f"{k} = {v}" for k, v in found.plan.options.items() if v is not None),
    }


def _label(divergence: Divergence) -> str:
    """The name, unit and tolerance unit of a divergence as text."""
    return f"{divergence.label} ({divergence.unit}; tolerance in {divergence.tolerance_unit})"


def _broken(families: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Families that are broken by numerics, by the precision in which they are."""
    named: dict[str, list[dict[str, Any]]] = {}
    for family in families:
        for rounded in family["result"].precisions:
            if rounded.holding == "numerics":
                named.setdefault(rounded.precision, []).append(family)
    return list(named.items())


def _groups(families: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Families by their row of the paper's table, in its order."""
    groups = [(row, [f for f in families if f["result"].row == row]) for row in ROWS]
    return [(ROW_TITLES[row], members) for row, members in groups if members]


def _anchor(found: FamilyResult, result: SurveyResult) -> str:
    """The name of a result's section: the family, and a number if its network is no oracle."""
    own = [other.network for other in result.families if other.family == found.family]
    return (
        found.family if found.network == "oracle" else f"{found.family}-{own.index(found.network)}"
    )


def _summary(families: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Families by verdict, without the verdicts that no family has."""
    verdicts = [*WORDS.values(), "not measured"]
    named = [(v, [f for f in families if f["verdict"] == v]) for v in verdicts]
    return [(verdict, members) for verdict, members in named if members]


def _failures(result: SurveyResult) -> list[tuple[str, list[FamilyResult]]]:
    """Families whose largest budget is refused, by the class of the cause of their floor."""
    refused = [
        found
        for found in result.families
        if found.network == "oracle"
        and found.cells
        and found.cells[-1].outcome is Outcome.NOT_REPRESENTABLE
    ]
    order: list[str | None] = [*get_args(Failure), None]
    classes = [(name, [found for found in refused if found.failure == name]) for name in order]
    return [(name or "not found", members) for name, members in classes if members]


def _front(found: Front) -> list[dict[str, Any]]:
    """The rows of the table of fronts; cells that tie share a row."""
    rows: list[dict[str, Any]] = []
    for row, best in found.of_groups.items():
        for (calls, multiple), tied in itertools.groupby(best, lambda p: (p.calls, p.multiple)):
            points = list(tied)
            rows.append(
                {
                    "group": ROW_TITLES[row],
                    "calls": calls,
                    "estimate": str(points[0].cell.estimates[found.divergence]),
                    "multiple": f"{multiple:.3g}",
                    "best": points[0] in found.best,
                    "families": [(point.family, str(point.cell.budget)) for point in points],
                }
            )
    return rows


def _sample_groups(found: FamilyResult, result: SurveyResult) -> list[tuple[str, Any]]:
    """Samples of the target and of the smallest, a middle and the largest distinct budget."""
    distinct: list[Cell] = []
    for cell in found.cells:
        if all(cell.examples != other.examples for other in distinct):
            distinct.append(cell)
    chosen = (
        distinct
        if len(distinct) <= 3
        else [distinct[0], distinct[len(distinct) // 2], distinct[-1]]
    )
    groups = [(str(cell.budget), cell.examples) for cell in chosen]
    return [("target", result.target.examples), *groups]


def _texts(found: FamilyResult, result: SurveyResult) -> list[tuple[str, list[str]]]:
    """Samples as text, with a title for each group; empty if the target has no vocabulary."""
    words = result.target.provenance.vocabulary
    if words is None or not found.cells:
        return []
    return [
        (title, ["".join(words[token] for token in row) for row in rows[:TEXTS]])
        for title, rows in _sample_groups(found, result)
    ]


def _unavailable(families: list[FamilyResult], kind: Kind) -> list[tuple[str, str, str]]:
    """Family, divergence and reason of every divergence that is unavailable."""
    return [
        (found.title, DIVERGENCES[kind][name].label, estimate.method)
        for found in families
        for name, estimate in found.cells[-1].estimates.items()
        if estimate.value is None
    ]
