"""The chart of the gap: the parts of each divergence, budget by budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from capcheck.divergences import DIVERGENCES
from capcheck.judging.sentences import grouped_gaps
from capcheck.reports.multiples import DASHED, tolerance_of
from capcheck.reports.style import LAYOUT
from capcheck.results.family import FamilyResult
from capcheck.results.gap import Part, PartName
from capcheck.results.survey import SurveyResult

__all__ = ["PART_COLOURS", "gap_chart"]

PART_COLOURS: dict[PartName, str] = {
    "structural": "#6b6b6b",
    "network": "#2455a4",
    "objective": "#7a3f91",
    "numerics": "#b4531f",
}


def gap_chart(found: FamilyResult, result: SurveyResult) -> go.Figure:
    """The parts of each divergence as stacked bars, budget by budget."""
    gaps = [gap for gap in found.gaps if gap.parts]
    names = [name for name in result.settings.tolerances if any(g.divergence == name for g in gaps)]
    labels = [DIVERGENCES[result.target.kind][name].label for name in names]
    figure = make_subplots(cols=len(names), subplot_titles=labels, horizontal_spacing=0.07)
    for column, name in enumerate(names, start=1):
        own = list(grouped_gaps([gap for gap in gaps if gap.divergence == name]))
        bound = tolerance_of(found, name, result.settings.tolerances[name]) or 1.0
        places = [f"{lengths} / {steps}" for lengths, steps, _ in own]
        for part, colour in PART_COLOURS.items():
            parts = [
                (place, gap.part(part)) for place, (_, _, gap) in zip(places, own, strict=True)
            ]
            shown = [(place, p) for place, p in parts if p is not None and math.isfinite(p.value)]
            if not shown:
                continue
            figure.add_trace(
                go.Bar(
                    x=[place for place, _ in shown],
                    y=[p.value / bound for _, p in shown],
                    customdata=[f"{p}" for _, p in shown],
                    hovertemplate=f"{part} %{{customdata}}<extra></extra>",
                    name=part,
                    legendgroup=part,
                    showlegend=column == 1,
                    marker={"color": colour},
                ),
                row=1,
                col=column,
            )
        totals = [
            (place, p)
            for place, (_, _, gap) in zip(places, own, strict=True)
            if (p := gap.part("total")) is not None and math.isfinite(p.value)
        ]
        figure.add_trace(_totals(totals, bound, legend=column == 1), row=1, col=column)
        figure.add_hline(y=1, line=DASHED, row=1, col=column)
        figure.update_xaxes(title_text="length / steps", type="category", row=1, col=column)
    figure.update_yaxes(title_text="multiples of the tolerance", row=1, col=1)
    return figure.update_layout(**LAYOUT, barmode="relative")


def _totals(totals: Sequence[tuple[str, Part]], bound: float, *, legend: bool) -> go.Scatter:
    """The totals of the parts, with their intervals."""
    return go.Scatter(
        x=[place for place, _ in totals],
        y=[part.value / bound for _, part in totals],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [(part.high - part.value) / bound for _, part in totals],
            "arrayminus": [(part.value - part.low) / bound for _, part in totals],
        },
        customdata=[f"{part}" for _, part in totals],
        hovertemplate="total %{customdata}<extra></extra>",
        mode="markers",
        name="total",
        legendgroup="total",
        showlegend=legend,
        marker={"color": "#222", "symbol": "diamond", "size": 7},
    )
