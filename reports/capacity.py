"""The chart of a capacity curve: divergences against the size of the network."""

from __future__ import annotations

import plotly.graph_objects as go

from capcheck.divergences import DIVERGENCES
from capcheck.reports.multiples import DASHED, divergence_axis, ratio, scaled, tolerance_of
from capcheck.reports.style import COLOURS, LAYOUT
from capcheck.results.survey import CapacityCurve, SurveyResult

__all__ = ["curve_chart"]


def curve_chart(curve: CapacityCurve, result: SurveyResult) -> go.Figure:
    """The divergences of a family against the number of parameters of its network."""
    figure = go.Figure()
    for name, tolerance in result.settings.tolerances.items():
        divergence = DIVERGENCES[result.target.kind][name]
        points = [(p, p.totals[name]) for p in curve.points if name in p.totals]
        if not points:
            continue
        any_of_it = next(
            f
            for f in result.families
            if f.family == curve.family
            and f.facts
            and f.cells[-1].estimates[name].value is not None
        )
        bound = tolerance_of(any_of_it, name, tolerance)
        middle, low, high = (
            [scaled(ratio(getattr(part, end), bound)) for _, part in points]
            for end in ("value", "low", "high")
        )
        figure.add_trace(
            go.Scatter(
                x=[point.parameters for point, _ in points],
                y=middle,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [b - a for a, b in zip(middle, high, strict=True)],
                    "arrayminus": [b - a for a, b in zip(low, middle, strict=True)],
                },
                customdata=[f"{point.network}: {part}" for point, part in points],
                hovertemplate=f"{divergence.label}, %{{customdata}}<extra></extra>",
                name=divergence.label,
                mode="lines+markers",
                line={"color": COLOURS[name]},
            )
        )
    figure.add_hline(y=scaled(1), line=DASHED)
    figure.update_xaxes(title_text="parameters", type="log")
    figure.update_yaxes(title_text="multiples of the tolerance", **divergence_axis())
    return figure.update_layout(**LAYOUT)
