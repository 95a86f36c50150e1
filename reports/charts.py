"""Charts of a result as plotly figures.

Divergences are drawn in multiples of their tolerance, so that all of them share one scale and one
line at 1. The scale is asinh: linear around the tolerance, where estimates may be negative, and
logarithmic far above it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from capcheck.core.budget import AXES, Axis
from capcheck.divergences import DIVERGENCES, Divergence
from capcheck.divergences.estimate import Estimate
from capcheck.judging.front import Front, Point
from capcheck.judging.scaling import along
from capcheck.judging.sentences import grouped_gaps
from capcheck.judging.verdict import tolerance_in_unit
from capcheck.procedures.probe import ROW_TITLES, ROWS, Row
from capcheck.results.family import FamilyResult
from capcheck.results.gap import Part, PartName
from capcheck.results.measurement import Cell
from capcheck.results.survey import CapacityCurve, SurveyResult

__all__ = [
    "COLOURS",
    "GROUPS",
    "LAYOUT",
    "MARKERS",
    "PART_COLOURS",
    "PLACES",
    "TICKS",
    "TOP",
    "curve_chart",
    "divergence_label",
    "family_chart",
    "front_chart",
    "gap_chart",
]

COLOURS = {
    "kl": "#2455a4",
    "wasserstein": "#b4531f",
    "mmd": "#3b7d4f",
    "reverse_kl": "#7a3f91",
    "total_variation": "#8c6d1f",
}
# Colours of the rows of the paper's table, in their order.
GROUPS = ("#6b6b6b", "#2455a4", "#b4531f", "#3b7d4f", "#7a3f91")
# Positions of the names on each front, so that names of neighbouring fronts do not overlap.
PLACES: dict[Row, str] = {
    "neither": "bottom right",
    "length": "bottom right",
    "steps": "top right",
    "length_outer": "top right",
    "steps_outer": "bottom left",
}
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross")
PART_COLOURS: dict[PartName, str] = {
    "structural": "#6b6b6b",
    "network": "#2455a4",
    "objective": "#7a3f91",
    "numerics": "#b4531f",
}
TICKS = (-1, 0, 1, 10, 100, 1000, 10_000)
TOP = 1e5  # position of an infinite divergence, in multiples of the tolerance
LAYOUT = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
    "margin": {"l": 60, "r": 16, "t": 40, "b": 50},
    "legend": {"orientation": "h", "y": -0.28},
    "height": 340,
}


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
        figure.add_hline(y=_scaled(1), line={"color": "#222", "dash": "dash"}, row=1, col=column)
        figure.update_xaxes(title_text=axis, type="category", row=1, col=column)
    figure.update_yaxes(**_divergence_axis())
    figure.update_yaxes(title_text="multiples of the tolerance", row=1, col=1)
    return figure.update_layout(**LAYOUT)


def front_chart(found: Front, result: SurveyResult) -> go.Figure:
    """The upper end of a divergence against model calls: all cells, and the front of each group.

    Args:
        found: The efficiency front.
        result: The result that the front was computed from.
    """
    figure = go.Figure()
    for row, colour, symbol in zip(ROWS, GROUPS, MARKERS, strict=True):
        best = found.of_groups.get(row, ())
        points = [point for point in found.points if point.row == row]
        if not points:
            continue
        figure.add_trace(
            go.Scatter(
                x=[point.calls for point in points],
                y=[_scaled(point.multiple) for point in points],
                customdata=[
                    f"{point.family}, {point.cell.budget}: {_shown(point.multiple)} x tolerance"
                    for point in points
                ],
                hovertemplate="%{customdata}, %{x} calls<extra></extra>",
                legendgroup=row,
                showlegend=False,
                mode="markers",
                opacity=0.35,
                marker={"symbol": symbol, "size": 7, "color": colour},
            )
        )
        figure.add_trace(_front_line(best, row, colour, symbol))
    figure.add_hline(y=_scaled(1), line={"color": "#222", "dash": "dash"})
    label = DIVERGENCES[result.target.kind][found.divergence].label
    most = max(1, *(point.calls for point in found.points))
    doublings = [2**i for i in range(most.bit_length())]
    ends = [math.log10(0.6), math.log10(2 * most)]  # leaves room for the names
    figure.update_xaxes(title_text="model calls", type="log", tickvals=doublings, range=ends)
    figure.update_yaxes(title_text=f"{label} at most, x tolerance", **_divergence_axis())
    return figure.update_layout(**LAYOUT | {"height": 420})


def _front_line(best: Sequence[Point], row: Row, colour: str, symbol: str) -> go.Scatter:
    """The front of a group as a staircase, since calls between two of its cells gain nothing."""
    places: dict[tuple[int, float], list[Point]] = {}
    for point in best:
        places.setdefault((point.calls, point.multiple), []).append(point)
    names = [_names(tied) for tied in places.values()]
    return go.Scatter(
        x=[calls for calls, _ in places],
        y=[_scaled(multiple) for _, multiple in places],
        # A name is shown only where the front passes to another family.
        text=["" if i and name == names[i - 1] else name for i, name in enumerate(names)],
        textposition=PLACES[row],
        cliponaxis=False,
        textfont={"size": 11, "color": colour},
        customdata=[
            f"{name} at {tied[0].cell.budget}"
            for name, tied in zip(names, places.values(), strict=True)
        ],
        hovertemplate="front: %{customdata}, %{x} calls<extra></extra>",
        name=ROW_TITLES[row],
        legendgroup=row,
        mode="lines+markers+text",
        line={"color": colour, "shape": "hv"},
        marker={"symbol": symbol, "size": 9},
    )


def _names(tied: Sequence[Point]) -> str:
    more = f" and {len(tied) - 1} more" if len(tied) > 1 else ""
    return f"{tied[0].family}{more}"


def gap_chart(found: FamilyResult, result: SurveyResult) -> go.Figure:
    """The parts of each divergence as stacked bars, budget by budget."""
    gaps = [gap for gap in found.gaps if gap.parts]
    names = [name for name in result.settings.tolerances if any(g.divergence == name for g in gaps)]
    labels = [DIVERGENCES[result.target.kind][name].label for name in names]
    figure = make_subplots(cols=len(names), subplot_titles=labels, horizontal_spacing=0.07)
    for column, name in enumerate(names, start=1):
        own = list(grouped_gaps([gap for gap in gaps if gap.divergence == name]))
        bound = _bound(found, name, result.settings.tolerances[name]) or 1.0
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
        figure.add_hline(y=1, line={"color": "#222", "dash": "dash"}, row=1, col=column)
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


def _bound(found: FamilyResult, name: str, tolerance: float) -> float:
    """The tolerance of a divergence in its unit, from a cell where the divergence is available."""
    estimates = (cell.estimates[name] for cell in found.cells)
    available = next(estimate for estimate in estimates if estimate.value is not None)
    return tolerance_in_unit(available, tolerance)


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
        bound = _bound(any_of_it, name, tolerance)
        middle, low, high = (
            [_scaled(_ratio(getattr(part, end), bound)) for _, part in points]
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
    figure.add_hline(y=_scaled(1), line={"color": "#222", "dash": "dash"})
    figure.update_xaxes(title_text="parameters", type="log")
    figure.update_yaxes(title_text="multiples of the tolerance", **_divergence_axis())
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
    value = [_ratio(estimate.value, bound) for _, estimate, bound in present]
    low = [_ratio(estimate.low, bound) for _, estimate, bound in present]
    high = [_ratio(estimate.high, bound) for _, estimate, bound in present]
    colour = COLOURS[name]
    figure.add_trace(
        go.Scatter(
            x=x + x[::-1],
            y=[_scaled(v) for v in high + low[::-1]],
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
        f"{_shown(v)} [{_shown(a)}, {_shown(b)}] x tolerance; {estimate.kind}"
        for v, a, b, (_, estimate, _) in zip(value, low, high, present, strict=True)
    ]
    figure.add_trace(
        go.Scatter(
            x=x,
            y=[_scaled(v) for v in value],
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
    ceiling = _scaled(_ratio(null + 1.96 * error, bound))
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


def _divergence_axis() -> dict[str, Any]:
    labels = [f"{tick:g}" for tick in TICKS]
    return {
        "tickvals": [_scaled(tick) for tick in (*TICKS, TOP)],
        "ticktext": [*labels, "infinite"],
        "zeroline": True,
    }


def _ratio(value: float | None, bound: float) -> float:
    assert value is not None
    if (
        bound == 0
    ):  # a law of one sequence has no spread, so that any distance exceeds the tolerance
        return math.copysign(math.inf, value) if value else 0.0
    return value / bound


def _scaled(multiple: float) -> float:
    """The position of a multiple on the asinh axis; NaN stays NaN and is not drawn."""
    if math.isnan(multiple):
        return math.nan
    return math.asinh(max(min(multiple, TOP), -TOP))


def _shown(multiple: float) -> str:
    return "infinite" if math.isinf(multiple) else f"{multiple:.3g}"


def divergence_label(divergence: Divergence) -> str:
    """The name, unit and tolerance unit of a divergence as text."""
    return f"{divergence.label} ({divergence.unit}; tolerance in {divergence.tolerance_unit})"
