"""The HTML report: one file, complete in itself, from a saved run.

It carries its styles, one copy of the chart library and one block of data; a content security
policy forbids it to fetch anything. Every text from outside is escaped by the template engine.
"""

from __future__ import annotations

import json
from typing import Any

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from capcheck.divergences import DIVERGENCES
from capcheck.probe import ROW_TITLES
from capcheck.reports.charts import (
    calls_chart,
    divergence_label,
    family_chart,
    samples_chart,
)
from capcheck.results import Cell, FamilyResult, SurveyResult
from capcheck.sequences import Kind

TEXTS = 10  # samples of text in a group
WORDS = {
    "representable": "can",
    "not_representable": "cannot",
    "inconclusive": "undecided",
}


def render(result: SurveyResult) -> str:
    """The report of a run, as the text of one HTML file."""
    figures: dict[str, go.Figure] = {}
    measured = [found for found in result.families if found.cells]
    if measured:
        figures["calls"] = calls_chart(result)
    for found in measured:
        figures[f"chart-{found.family}"] = family_chart(found, result)
        if result.target.provenance.vocabulary is None:
            figures[f"samples-{found.family}"] = samples_chart(
                _sample_groups(found, result), result.target
            )
    divergences = DIVERGENCES[result.target.kind]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("capcheck.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        result=result,
        families=[_family(found, result) for found in result.families],
        tolerances=[
            (divergence_label(divergences[name]), tolerance)
            for name, tolerance in result.settings.tolerances.items()
        ],
        names=[(name, divergences[name].label) for name in result.settings.tolerances],
        unavailable=_unavailable(measured, result.target.kind),
        plotly=get_plotlyjs(),
        figures=_script_safe({name: json.loads(f.to_json()) for name, f in figures.items()}),
    )


def _family(found: FamilyResult, result: SurveyResult) -> dict[str, Any]:
    smallest = found.smallest_budget
    return {
        "result": found,
        "verdict": WORDS[found.outcome.value] if not found.error else "not measured",
        "row": ROW_TITLES[found.row],
        "loop": _loop(found),
        "calls": found.cell(smallest).model_calls if smallest else None,
        "texts": _texts(found, result),
        "options": ", ".join(f"{k} = {v}" for k, v in found.options.items() if v is not None),
    }


def _loop(found: FamilyResult) -> str:
    if found.loop_order is None or found.loop_order == "none":
        return found.loop_order or "not measured"
    return ROW_TITLES[found.loop_order]


def _sample_groups(found: FamilyResult, result: SurveyResult) -> list[tuple[str, Any]]:
    """Target samples, and those of the least, a middle and the largest budget that differ."""
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
    """Samples in the words of the vocabulary, with a title for each group, if there is one."""
    words = result.target.provenance.vocabulary
    if words is None or not found.cells:
        return []
    return [
        (title, ["".join(words[token] for token in row) for row in rows[:TEXTS]])
        for title, rows in _sample_groups(found, result)
    ]


def _unavailable(families: list[FamilyResult], kind: Kind) -> list[tuple[str, str, str]]:
    """Family, divergence and reason of every number that could not be had."""
    return [
        (found.family, DIVERGENCES[kind][name].label, estimate.method)
        for found in families
        for name, estimate in found.cells[-1].estimates.items()
        if estimate.value is None
    ]


def _script_safe(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
