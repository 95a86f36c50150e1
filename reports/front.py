"""The chart of the efficiency front: divergences against model calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from capcheck.divergences import DIVERGENCES
from capcheck.judging.front import Front, Point
from capcheck.procedures.rows import ROW_TITLES, ROWS, Row
from capcheck.reports.multiples import DASHED, divergence_axis, scaled, shown
from capcheck.reports.style import LAYOUT
from capcheck.results.survey import SurveyResult

__all__ = ["GROUPS", "MARKERS", "PLACES", "front_chart"]

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
                y=[scaled(point.multiple) for point in points],
                customdata=[
                    f"{point.family}, {point.cell.budget}: {shown(point.multiple)} x tolerance"
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
    figure.add_hline(y=scaled(1), line=DASHED)
    label = DIVERGENCES[result.target.kind][found.divergence].label
    most = max(1, *(point.calls for point in found.points))
    doublings = [2**i for i in range(most.bit_length())]
    ends = [math.log10(0.6), math.log10(2 * most)]  # leaves room for the names
    figure.update_xaxes(title_text="model calls", type="log", tickvals=doublings, range=ends)
    figure.update_yaxes(title_text=f"{label} at most, x tolerance", **divergence_axis())
    return figure.update_layout(**LAYOUT | {"height": 420})


def _front_line(best: Sequence[Point], row: Row, colour: str, symbol: str) -> go.Scatter:
    """The front of a group as a staircase, since calls between two of its cells gain nothing."""
    places: dict[tuple[int, float], list[Point]] = {}
    for point in best:
        places.setdefault((point.calls, point.multiple), []).append(point)
    names = [_names(tied) for tied in places.values()]
    return go.Scatter(
        x=[calls for calls, _ in places],
        y=[scaled(multiple) for _, multiple in places],
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
