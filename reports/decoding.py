"""The page of a decoding plan: the information curve, its staircases, and prices of schedules."""

from __future__ import annotations

import itertools
from typing import Any

from capcheck.reports.charts.chart import Chart
from capcheck.reports.charts.schedules import information_chart, prices_chart
from capcheck.reports.page import page, pointer
from capcheck.results.decoding import DecodingPlan

__all__ = ["charts", "facts", "render"]


def render(plan: DecodingPlan) -> str:
    """Writes the page of a plan; returns the text of one HTML file."""
    figures = charts(plan)
    return page(
        "decoding.html.j2",
        figures,
        record=plan.to_json(),
        drawn=list(figures),
        heading="h2",
        **facts(plan),
    )


def charts(plan: DecodingPlan) -> dict[str, Chart]:
    """The charts of `schedules.html.j2`, by the names of their places."""
    found = {"information": information_chart(plan)}
    if any(one.kl.value > 0 for one in plan.prices):  # a logarithmic scale has no place for 0
        found["prices"] = prices_chart(plan)
    return found


def facts(plan: DecodingPlan | None, record: str = "") -> dict[str, Any]:
    """The values that `schedules.html.j2` shows, but for the level of its headings.

    Args:
        plan: The plan, or None if there is none.
        record: JSON pointer of the plan in the record of the page.
    """
    prices = () if plan is None else plan.prices
    rows = [list(of_calls) for _, of_calls in itertools.groupby(prices, lambda one: one.calls)]
    places = {
        (one.calls, one.rule): record + pointer("prices", k, "kl") for k, one in enumerate(prices)
    }
    return {"plan": plan, "rows": rows, "places": places}
