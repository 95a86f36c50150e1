"""A chart is a specification in Vega-Lite and the rows of data that it shows.

A specification names its data set; the rows come beside it, so that charts of many families share
one specification. Colours are variables of the page's style (`var(--blue)`), so that a chart
follows the page into the dark and into print; one that leaves the page gets those of a light page.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import vl_convert

__all__ = ["BASE", "CONFIG", "DARK", "LIGHT", "WIDTH", "Chart", "Rows", "Spec", "png", "svg"]

Spec: TypeAlias = dict[str, Any]
"""A specification in Vega-Lite, as JSON values."""
Rows: TypeAlias = Sequence[Mapping[str, Any]]
"""Rows of a data set, all with the same columns."""

WIDTH = 720  # of the plot of a chart that leaves the page, in pixels
# Okabe and Ito's colours, which the colour-blind tell apart, darker or lighter where text needs it.
LIGHT = {
    "page": "#ffffff",
    "panel": "#f6f7f9",
    "ink": "#1c2026",
    "quiet": "#565d66",
    "line": "#d9dde2",
    "blue": "#0a62a9",
    "sky": "#8cc1ec",
    "orange": "#b04a00",
    "amber": "#f0b36b",
    "green": "#00745a",
    "purple": "#a03d79",
    "ochre": "#856200",
    "grey": "#6b7280",
    "unknown": "#b9bec6",
}
DARK = {
    "page": "#14171b",
    "panel": "#1d2127",
    "ink": "#e8eaed",
    "quiet": "#a9b0ba",
    "line": "#3a4049",
    "blue": "#6cb6f5",
    "sky": "#2d5f8c",
    "orange": "#ff9a57",
    "amber": "#a0601f",
    "green": "#45c9a3",
    "purple": "#e59ac9",
    "ochre": "#e0c060",
    "grey": "#a0a7b1",
    "unknown": "#5a616b",
}
BASE: Spec = {
    "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
    "width": "container",  # of the place in the page
}
"""The part of a specification that all charts of a page share."""
CONFIG: Spec = {
    # A chart is described as a whole, by its place in the page.
    "aria": False,
    "mark": {"aria": False},
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "aria": False,
        "labelColor": "var(--quiet)",
        "titleColor": "var(--quiet)",
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "gridColor": "var(--line)",
        "gridOpacity": 0.6,
        "labelOverlap": "greedy",
    },
    "legend": {
        "aria": False,
        "labelColor": "var(--quiet)",
        "titleColor": "var(--quiet)",
        "titleFontWeight": "normal",
        "orient": "top",
        "title": None,
        "labelFontSize": 12,
        "labelLimit": 300,
        "symbolSize": 80,
        "symbolOpacity": 1,
    },
    "text": {"color": "var(--ink)"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its data.

    Attributes:
        spec: The chart with a scale that is logarithmic far from 0, if it has such a scale.
        linear: The same chart with a linear scale, or None if it has one scale only.
        data: Rows of each data set that the specification names.
        description: What the chart shows, in one sentence, for those who do not see it.
        default: The divergence that is shown first, `all`, or empty if there is no choice. Rows of
            a chart with a choice name their divergence in the column `divergence`.
    """

    spec: Spec
    linear: Spec | None = None
    data: Mapping[str, Rows]
    description: str
    default: str = ""

    def alone(self, width: int = WIDTH) -> Spec:
        """The chart without a page: with its data, for a light background and a width in pixels."""
        data = {
            name: [
                row
                for row in rows
                if self.default in ("", "all")
                or row.get("divergence", self.default) == self.default
            ]
            for name, rows in self.data.items()
        }
        config = CONFIG | {"background": LIGHT["page"]}
        whole = BASE | self.spec | {"datasets": data, "config": config, "width": width}
        coloured = re.sub(r"var\(--(\w+)\)", lambda name: LIGHT[name.group(1)], json.dumps(whole))
        found: Spec = json.loads(coloured)
        return found


def svg(chart: Chart, width: int = WIDTH) -> str:
    """The chart as SVG, its plot of a width in pixels."""
    return str(vl_convert.vegalite_to_svg(chart.alone(width)))


def png(chart: Chart) -> bytes:
    """The chart as PNG, in twice the pixels that it has on a screen."""
    return bytes(vl_convert.vegalite_to_png(chart.alone(), scale=2))
