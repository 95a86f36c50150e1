"""The scatter plot: outcome against prediction, in multiples of the tolerance."""

from __future__ import annotations

import math
from typing import Any

from capcheck.reports.charts.chart import Chart, Spec, svg
from prediction.verdict import Record, multiples, upper_end

__all__ = ["picture"]

COLOURS = {
    "parity": ("var(--blue)", "circle"),
    "characters": ("var(--orange)", "square"),
    "plane": ("var(--green)", "triangle-up"),
    "digits": ("var(--purple)", "diamond"),
    "forcing": ("var(--ochre)", "cross"),
    "linear VAE": ("var(--grey)", "triangle-down"),
}
"""Colour and mark of each task."""
LEAST, MOST = 0.02, 1000.0  # ends of both axes, in tolerances; LEAST stands for 0 and below


def picture(results: dict[str, Any]) -> str:
    """The scatter plot as SVG, on a white background."""
    points = [_point(run, results["verdict"]["each"]) for run in results["runs"]]
    chart = Chart(
        spec=_spec(),
        data={
            "points": points,
            "diagonal": [{"x": end, "y": end} for end in (LEAST, MOST)],
            "tolerance": [{"x": 1.0}],
        },
        description="Outcome of training against the predicted floor.",
    )
    return svg(chart, width=560)


def _point(run: Record, each: float) -> dict[str, Any]:
    before, after = multiples(run)
    tolerance = run["prediction"]["tolerance"]
    high = upper_end(run["outcome"], each) / tolerance
    ends = {
        "x_low": run["prediction"]["low"] / tolerance,
        "x_high": run["prediction"]["high"] / tolerance,
        "y_low": 2 * after - high,
        "y_high": high,
    }
    places = {"x": before, "y": after} | ends
    placed = {name: min(max(value, LEAST), MOST) for name, value in places.items()}
    return {"task": run["task"], "name": run["name"]} | placed


def _spec() -> Spec:
    scale = {"type": "log", "domain": [LEAST, MOST], "nice": False}
    ticks = [LEAST, *(10.0**i for i in range(-1, 1 + round(math.log10(MOST))))]
    axis = {
        "values": ticks,
        "labelExpr": f"datum.value <= {LEAST} ? '0' : format(datum.value, '~g')",
    }
    x = {"field": "x", "type": "quantitative", "scale": scale, "axis": axis}
    x["title"] = "floor predicted before training, × tolerance"
    y = x | {"field": "y", "title": "after training, × tolerance"}
    tasks = list(COLOURS)
    colour, shape = (
        {
            "field": "task",
            "type": "nominal",
            "scale": {"domain": tasks, "range": [COLOURS[task][i] for task in tasks]},
        }
        for i in (0, 1)
    )
    data = {"data": {"name": "points"}}
    quiet = {"type": "rule", "color": "var(--quiet)", "strokeDash": [3, 4], "opacity": 0.7}
    return {
        "height": 460,
        "layer": [
            {"data": {"name": "tolerance"}, "mark": quiet, "encoding": {"x": x}},
            {"data": {"name": "tolerance"}, "mark": quiet, "encoding": {"y": y | {"field": "x"}}},
            {
                "data": {"name": "diagonal"},
                "mark": {"type": "line", "color": "var(--quiet)", "strokeWidth": 1},
                "encoding": {"x": x, "y": y},
            },
            data
            | {
                "mark": {"type": "rule", "opacity": 0.7},
                "encoding": {
                    "x": x,
                    "y": y | {"field": "y_low"},
                    "y2": {"field": "y_high"},
                    "color": colour,
                },
            },
            data
            | {
                "mark": {"type": "rule", "opacity": 0.7},
                "encoding": {
                    "x": x | {"field": "x_low"},
                    "x2": {"field": "x_high"},
                    "y": y,
                    "color": colour,
                },
            },
            data
            | {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.85},
                "encoding": {"x": x, "y": y, "color": colour, "shape": shape},
            },
        ],
    }
