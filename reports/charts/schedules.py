"""The charts of a decoding plan: the information curve with staircases, and prices of schedules."""

from __future__ import annotations

import itertools
from typing import Any

from capcheck.reports.charts.chart import Chart, Spec
from capcheck.results.decoding import DecodingPlan, SchedulePrice

__all__ = ["STAIRS", "information_chart", "prices_chart"]

STAIRS = 4  # calls of the schedule whose staircase is drawn beside that of the cheapest one
RULES = {
    "best": ("var(--blue)", "square"),
    "uniform": ("var(--orange)", "circle"),
    "cosine": ("var(--green)", "diamond"),
}
CURVE = "h(m)"


def information_chart(plan: DecodingPlan) -> Chart:
    """The curve h(m), with the staircases of two schedules, whose area above it is their loss."""
    few = plan.price(min(STAIRS, plan.tokens), "uniform") or plan.prices[0]
    stairs: list[dict[str, Any]] = []
    names = []
    for price in (few, plan.cheapest):
        name = f"{price.rule}, {_calls(price)}: loses {price.kl.value:.3g} nats per token"
        names.append(name)
        stairs += [
            {"known": m, "nats": height, "name": name}
            for m, height in _staircase(plan, price)
            if height is not None
        ]
    curve = [
        {"known": m, "nats": one.value, "low": one.low, "high": one.high, "name": CURVE}
        for m, one in zip(plan.sizes, plan.curve, strict=True)
    ]
    return Chart(
        spec=_information_spec(names, band=not plan.exact, marks=plan.tokens <= 64),
        data={"stairs": stairs, "curve": curve},
        description="Entropy of a token given m others at random, and the staircases of two "
        "schedules.",
    )


def prices_chart(plan: DecodingPlan) -> Chart:
    """KL per token against model calls, by rule; schedules that lose nothing are left out."""
    rows = [
        {
            "calls": one.calls,
            "rule": one.rule,
            "nats": one.kl.value,
            "high": one.kl.high,
            "text": f"{one.kl} nats per token",
        }
        for one in plan.prices
        if one.kl.value > 0
    ]
    return Chart(
        spec=_prices_spec(plan),
        data={"prices": rows},
        description="What a schedule loses against its number of model calls, by rule.",
    )


def _staircase(plan: DecodingPlan, price: SchedulePrice) -> list[tuple[int, float | None]]:
    """Known tokens and the curve's height at the start of every step, with the end of the last."""
    starts = [0, *itertools.accumulate(price.placed)]
    place = {m: k for k, m in enumerate(plan.sizes)}
    heights = [plan.curve[place[m]].value if m in place else None for m in starts[:-1]]
    return list(zip(starts, [*heights, heights[-1]], strict=True))


def _calls(price: SchedulePrice) -> str:
    return f"{price.calls} call{'s' if price.calls != 1 else ''}"


def _information_spec(names: list[str], *, band: bool, marks: bool) -> Spec:
    x = {"field": "known", "type": "quantitative", "title": "known tokens m"}
    y = {"field": "nats", "type": "quantitative", "title": "h(m), nats", "scale": {"zero": False}}
    colour = {
        "field": "name",
        "type": "nominal",
        "scale": {
            "domain": [CURVE, *names],
            "range": ["var(--ink)", "var(--orange)", "var(--blue)"],
        },
        "legend": {"columns": 1},
    }
    tooltip = [
        {"field": "known", "title": "known tokens"},
        {"field": "nats", "title": "nats", "format": ".3g"},
    ]
    area = {
        "data": {"name": "curve"},
        "mark": {"type": "area", "opacity": 0.15, "color": "var(--ink)"},
        "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}},
    }
    return {
        "height": 320,
        "layer": [
            *([area] if band else []),
            {
                "data": {"name": "stairs"},
                "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5},
                "encoding": {"x": x, "y": y, "color": colour},
            },
            {
                "data": {"name": "curve"},
                "mark": {"type": "line", "point": {"size": 20} if marks else False},
                "encoding": {"x": x, "y": y, "color": colour, "tooltip": tooltip},
            },
        ],
    }


def _prices_spec(plan: DecodingPlan) -> Spec:
    calls = sorted({one.calls for one in plan.prices})
    x = {
        "field": "calls",
        "type": "quantitative",
        "scale": {"type": "log", "base": 2},
        "axis": {"values": calls, "format": "~s", "grid": False},
        "title": "model calls",
    }
    y = {
        "field": "nats",
        "type": "quantitative",
        "scale": {"type": "log"},
        "axis": {"format": "~e", "tickCount": 6},
        "title": "KL, nats per token",
    }
    colour = {
        "field": "rule",
        "type": "nominal",
        "scale": {"domain": list(RULES), "range": [colour for colour, _ in RULES.values()]},
    }
    shape = {
        "field": "rule",
        "type": "nominal",
        "scale": {"domain": list(RULES), "range": [mark for _, mark in RULES.values()]},
    }
    value = {"x": x, "y": y, "color": colour}
    error: Spec = {
        "mark": {"type": "rule"},
        "encoding": {"x": x, "y": y, "y2": {"field": "high"}, "color": colour},
    }
    best: Spec = {
        "transform": [{"filter": "datum.rule == 'best'"}],
        "mark": {"type": "line", "strokeWidth": 6, "opacity": 0.4},
        "encoding": value,
    }
    return {
        "height": 280,
        "data": {"name": "prices"},
        "layer": [
            best,
            *([] if plan.exact else [error]),
            {"mark": {"type": "line"}, "encoding": value},
            {
                "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
                "encoding": value
                | {"shape": shape, "tooltip": [{"field": "calls"}, {"field": "text"}]},
            },
            {
                "data": {"values": [{}]},
                "mark": {"type": "rule", "strokeDash": [5, 4], "color": "var(--ink)"},
                "encoding": {"y": {"datum": plan.tolerance}},
            },
        ],
    }
