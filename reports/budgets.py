"""The chart of a family: its divergences along each budget axis."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from capcheck.core.budget import AXES, Axis
from capcheck.divergences import DIVERGENCES, Divergence
from capcheck.divergences.estimate import Estimate
from capcheck.judging.resolution import tolerance_in_unit
from capcheck.judging.scaling import along
from capcheck.reports.multiples import DASHED, divergence_axis, ratio, scaled, shown
from capcheck.reports.style import COLOURS, LAYOUT
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell
from capcheck.results.survey import SurveyResult

__all__ = ["family_chart"]


def family_chart(found: FamilyResult, result: SurveyResult) -> go.Figure:
    """The divergences along each budget axis, with the other axis at its largest budget."""
    figure = make_subplots(
        cols=2, shared_yaxes=True, subplot_titles=[_axis_title(found, axis) for axis in AXES]
    )
    for column, axis in enumerate(AXES, start=1):
        line = along(found.cells, axis)
        budgets = [getattr(cell.budget, axis) for cell in line]
        places = [str(budget) for budget in budgets]
        for name, tolerance in result.settings.tolerances.items():
            divergence = DIVERGENCES[result.target.kind][name]
            _add_estimates(figure, column, places, line, divergence, tolerance)
        figure.add_hline(y=scaled(1), line=DASHED, row=1, col=column)
        figure.update_xaxes(title_text=axis, type="category", row=1, col=column)
    figure.update_yaxes(**divergence_axis())
    figure.update_yaxes(title_text="multiples of the tolerance", row=1, col=1)
    return figure.update_layout(**LAYOUT)


def _add_estimates(
    figure: go.Figure,
    column: int,
    places: Sequence[str],
    line: Sequence[Cell],
    divergence: Divergence,
    tolerance: float,
) -> None:
    name, label = divergence.name, divergence.label
    present = [
        (place, cell.estimates[name], tolerance_in_unit(cell.estimates[name], tolerance))
        for place, cell in zip(places, line, strict=True)
        if cell.estimates[name].value is not None
    ]
    if not present:
        return
    x = [place for place, _, _ in present]
    value = [ratio(estimate.value, bound) for _, estimate, bound in present]
    low = [ratio(estimate.low, bound) for _, estimate, bound in present]
    high = [ratio(estimate.high, bound) for _, estimate, bound in present]
    colour = COLOURS[name]
    figure.add_trace(
        go.Scatter(
            x=x + x[::-1],
            y=[scaled(v) for v in high + low[::-1]],
            mode="lines",
            fill="toself",
            fillcolor=colour,
            opacity=0.18,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        ),
        row=1,
        col=column,
    )
    hover = [
        f"{shown(v)} [{shown(a)}, {shown(b)}] x tolerance; {estimate.kind}"
        for v, a, b, (_, estimate, _) in zip(value, low, high, present, strict=True)
    ]
    figure.add_trace(
        go.Scatter(
            x=x,
            y=[scaled(v) for v in value],
            customdata=hover,
            hovertemplate=f"{label} at %{{x}}: %{{customdata}}<extra></extra>",
            name=label,
            legendgroup=name,
            showlegend=column == 1,
            mode="lines+markers",
            line={"color": colour},
        ),
        row=1,
        col=column,
    )
    _add_null_floor(
        figure, column, x, [estimate for _, estimate, _ in present], divergence, present[0][2]
    )


def _add_null_floor(
    figure: go.Figure,
    column: int,
    x: Sequence[str],
    estimates: Sequence[Estimate],
    divergence: Divergence,
    bound: float,
) -> None:
    """A dotted line at the upper end of the estimator's null floor, in the divergence's colour."""
    measured = [e for e in estimates if e.null is not None and e.null_error]
    if not measured:
        return
    null, error = measured[0].null or 0.0, measured[0].null_error or 0.0
    ceiling = scaled(ratio(null + 1.96 * error, bound))
    figure.add_trace(
        go.Scatter(
            x=list(x),
            y=[ceiling] * len(x),
            mode="lines",
            line={"color": COLOURS[divergence.name], "dash": "dot", "width": 1.5},
            name=f"{divergence.label} null floor",
            hovertemplate=f"{divergence.label} of the target itself stays below<extra></extra>",
            showlegend=column == 1,
        ),
        row=1,
        col=column,
    )


def _axis_title(found: FamilyResult, axis: Axis) -> str:
    return f"{axis}: {getattr(found.axes, axis)}"
