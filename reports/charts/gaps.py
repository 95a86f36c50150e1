"""The chart of the gap: the parts of each divergence as stacked bars, budget by budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from capcheck.divergences import DIVERGENCES
from capcheck.judging.sentences import grouped_gaps
from capcheck.reports.charts.chart import Chart, Spec
from capcheck.reports.charts.scale import in_tolerances, rule, said
from capcheck.results.family import FamilyResult
from capcheck.results.gap import Gap, PartName
from capcheck.results.survey import SurveyResult

__all__ = ["PART_COLOURS", "gap_chart"]

PART_COLOURS: dict[PartName, str] = {
    "structural": "var(--grey)",
    "network": "var(--blue)",
    "objective": "var(--purple)",
    "numerics": "var(--orange)",
}


def gap_chart(found: FamilyResult, name: str, result: SurveyResult) -> Chart:
    """The parts of one divergence of a family.

    Args:
        found: The family; at least one of its gaps of this divergence has parts.
        name: The divergence.
        result: The run.
    """
    own = [gap for gap in found.gaps if gap.parts and gap.divergence == name]
    bars, totals = [], []
    places = []
    for lengths, steps, gap in grouped_gaps(own):
        budget = f"{lengths} / {steps}"
        places.append(budget)
        bars += list(_rows(gap, budget, found, name, result))
        totals += list(_rows(gap, budget, found, name, result, ("total",)))
    present = [part for part in PART_COLOURS if any(row["part"] == part for row in bars)]
    return Chart(
        spec=_spec(places, present),
        data={"bars": bars, "totals": totals},
        description=f"Parts of {DIVERGENCES[result.target.kind][name].label} of {found.title} at "
        "each budget, in multiples of the tolerance.",
    )


def _rows(
    gap: Gap,
    budget: str,
    found: FamilyResult,
    name: str,
    result: SurveyResult,
    parts: tuple[PartName, ...] = tuple(PART_COLOURS),
) -> Iterator[dict[str, Any]]:
    estimate = next(
        cell.estimates[name] for cell in found.cells if cell.estimates[name].value is not None
    )
    for part in parts:
        of_it = gap.part(part)
        if of_it is None or not math.isfinite(of_it.value):
            continue
        value, low, high = (
            in_tolerances(end, estimate, result.settings.tolerances[name])
            for end in (of_it.value, of_it.low, of_it.high)
        )
        if all(map(math.isfinite, (value, low, high))):
            yield {
                "budget": budget,
                "part": part,
                "value": value,
                "low": low,
                "high": high,
                "text": f"{of_it}: {said(value)} × tolerance",
            }


def _spec(places: list[str], parts: list[PartName]) -> Spec:
    x = {
        "field": "budget",
        "type": "ordinal",
        "sort": places,
        "title": "length / steps",
        "axis": {"labelAngle": -30 if len(places) > 3 else 0, "labelLimit": 90},
    }
    y = {"type": "quantitative", "title": "× tolerance"}
    colour = {
        "field": "part",
        "type": "nominal",
        "scale": {"domain": parts, "range": [PART_COLOURS[part] for part in parts]},
        "legend": {"columns": 2},
    }
    tooltip = [{"field": "budget", "title": "length / steps"}, {"field": "part"}, {"field": "text"}]
    total = {"x": x, "tooltip": tooltip}
    return {
        "height": 220,
        "layer": [
            {
                "data": {"name": "bars"},
                "mark": {"type": "bar"},
                "encoding": {"x": x, "y": {"field": "value", **y}, "color": colour}
                | {"tooltip": tooltip},
            },
            {
                "data": {"name": "totals"},
                "mark": {"type": "rule", "color": "var(--ink)"},
                "encoding": total | {"y": {"field": "low", **y}, "y2": {"field": "high"}},
            },
            {
                "data": {"name": "totals"},
                "mark": {"type": "point", "shape": "diamond", "filled": True, "opacity": 1}
                | {"color": "var(--ink)", "size": 60},
                "encoding": total | {"y": {"field": "value", **y}},
            },
            rule(),
        ],
    }
