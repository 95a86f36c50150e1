"""The page of a decoding plan: the information curve, its staircases, and prices of schedules."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from capcheck.reports.page import Chart, page
from capcheck.reports.style import LAYOUT, without_template
from capcheck.results.decoding import DecodingPlan, Quantity, SchedulePrice

__all__ = ["STAIRS", "WIDE", "charts", "curve_chart", "facts", "prices_chart", "render"]

STAIRS = 4  # calls of the schedule whose staircase is drawn beside that of the cheapest one
BLUE, ORANGE, GREEN = "#2455a4", "#b4531f", "#3b7d4f"
WIDE = 6  # width of the line of the best schedules, beneath which others would not be seen
RULES = {"best": (BLUE, "square"), "uniform": (ORANGE, "circle"), "cosine": (GREEN, "diamond")}


def render(plan: DecodingPlan) -> str:
    """Writes the page of a plan; returns the text of one HTML file."""
    with without_template():
        figures = charts(plan)
    return page("decoding.html.j2", figures, heading="h2", **facts(plan))


def charts(plan: DecodingPlan) -> dict[str, Chart]:
    """The charts of `schedules.html.j2`, by the names of their places."""
    return {"curve": curve_chart(plan), "prices": prices_chart(plan)}


def facts(plan: DecodingPlan | None) -> dict[str, Any]:
    """The values that `schedules.html.j2` shows, but for the level of its headings."""
    prices = () if plan is None else plan.prices
    rows = [list(of_calls) for _, of_calls in itertools.groupby(prices, lambda one: one.calls)]
    return {"plan": plan, "rows": rows}


def curve_chart(plan: DecodingPlan) -> go.Figure:
    """The curve h(m), with the staircases of two schedules, whose area above it is their loss."""
    figure = go.Figure()
    few = plan.price(min(STAIRS, plan.tokens), "uniform") or plan.prices[0]
    for price, colour in ((few, ORANGE), (plan.cheapest, BLUE)):
        x, y = _staircase(plan, price)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                name=f"{price.rule}, {_calls(price)}: loses {price.kl.value:.3g}",
                mode="lines",
                line={"color": colour, "width": 1.5, "shape": "hv"},
                hovertemplate="%{x} known: %{y:.3g} nats<extra></extra>",
            )
        )
    if not plan.exact:
        _add_band(figure, plan.sizes, plan.curve)
    figure.add_trace(
        go.Scatter(
            x=list(plan.sizes),
            y=[height.value for height in plan.curve],
            name="h(m)",
            mode="lines+markers" if plan.tokens <= 64 else "lines",
            line={"color": "#222", "width": 2},
            marker={"size": 4},
            hovertemplate="%{x} known: %{y:.3g} nats<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="known tokens m")
    figure.update_yaxes(title_text="h(m), nats")
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return figure.update_layout(**{**LAYOUT, "legend": legend, "height": 420})


def prices_chart(plan: DecodingPlan) -> go.Figure:
    """KL per token against model calls, by rule; schedules that lose nothing are left out."""
    figure = go.Figure()
    for rule, (colour, symbol) in RULES.items():
        prices = [one for one in plan.prices if one.rule == rule and one.kl.value > 0]
        above = [one.kl.high - one.kl.value for one in prices]
        figure.add_trace(
            go.Scatter(
                x=[one.calls for one in prices],
                y=[one.kl.value for one in prices],
                error_y={"type": "data", "array": above, "visible": not plan.exact},
                name=rule,
                mode="lines+markers",
                line={"color": colour, "width": WIDE if rule == "best" else 2},
                opacity=0.45 if rule == "best" else 1,
                marker={"symbol": symbol, "size": 7},
                hovertemplate="%{x} calls: %{y:.3g} nats per token<extra></extra>",
            )
        )
    figure.add_hline(y=plan.tolerance, line={"color": "#222", "dash": "dash"})
    figure.update_xaxes(title_text="model calls", type="log", dtick=0.30103)
    figure.update_yaxes(title_text="KL, nats per token", type="log", exponentformat="power")
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return figure.update_layout(**{**LAYOUT, "legend": legend})


def _staircase(plan: DecodingPlan, price: SchedulePrice) -> tuple[list[int], list[float | None]]:
    """Known tokens and the curve's height at the start of every step, with the end of the last."""
    starts = [0, *itertools.accumulate(price.placed)]
    place = {m: k for k, m in enumerate(plan.sizes)}
    heights = [plan.curve[place[m]].value if m in place else None for m in starts[:-1]]
    return starts, [*heights, heights[-1]]


def _add_band(figure: go.Figure, sizes: Sequence[int], curve: Sequence[Quantity]) -> None:
    """The intervals of a measured curve."""
    outline = [*(one.high for one in curve), *(one.low for one in reversed(curve))]
    figure.add_trace(
        go.Scatter(
            x=[*sizes, *reversed(sizes)],
            y=outline,
            fill="toself",
            mode="lines",
            line={"width": 0},
            fillcolor="rgba(34, 34, 34, 0.15)",
            name="interval",
            showlegend=False,
            hoverinfo="skip",
        )
    )


def _calls(price: SchedulePrice) -> str:
    return f"{price.calls} call{'s' if price.calls != 1 else ''}"
