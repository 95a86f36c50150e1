"""The style of the charts: what all of them share, and the colours of divergences."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go
import plotly.io

__all__ = ["COLOURS", "LAYOUT", "template", "without_template"]

COLOURS = {
    "kl": "#2455a4",
    "wasserstein": "#b4531f",
    "mmd": "#3b7d4f",
    "reverse_kl": "#7a3f91",
    "total_variation": "#8c6d1f",
}
LAYOUT = {
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
    "margin": {"l": 60, "r": 16, "t": 40, "b": 50},
    "legend": {"orientation": "h", "y": -0.28},
    "height": 340,
}


@contextlib.contextmanager
def without_template() -> Iterator[None]:
    """Make figures without the chart library's template, which a page needs once only.

    A template is copied and checked again at every change of a figure's layout, which takes half of
    the time of a report.
    """
    before = plotly.io.templates.default
    plotly.io.templates.default = None
    try:
        yield
    finally:
        plotly.io.templates.default = before


def template() -> dict[str, Any]:
    """The template of all figures, as JSON values."""
    figure = go.Figure(layout={"template": "plotly_white"})
    found: dict[str, Any] = json.loads(figure.to_json())["layout"]["template"]
    return found
