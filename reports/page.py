"""A page is one self-contained HTML file with charts.

The file contains its styles, one copy of the chart library and one block of data; a content
security policy forbids it to load anything else. The template engine escapes every text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from capcheck.reports.style import template

__all__ = ["Chart", "page"]

Chart: TypeAlias = go.Figure | dict[str, Any]
"""A figure of the chart library, or its plain values."""


def page(name: str, figures: Mapping[str, Chart], **facts: Any) -> str:
    """The text of a page.

    Args:
        name: File name of its template.
        figures: The charts, by the names of their places in the page.
        facts: Further values that the template shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("capcheck.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["stacked"] = _stacked
    return environment.get_template(name).render(
        plotly=get_plotlyjs(), data=_script_safe(_data(figures)), figures=list(figures), **facts
    )


def _stacked(number: object) -> Markup:
    """A number with its interval below it instead of beside it, to save width."""
    value, bracket, rest = str(number).partition(" [")
    if not bracket:
        return escape(value)
    return Markup('{}<br><span class="quiet">[{}</span>').format(value, rest)


def _data(figures: Mapping[str, Chart]) -> dict[str, Any]:
    """The figures as JSON values, with their common template stored once."""
    data = {
        name: figure if isinstance(figure, dict) else json.loads(figure.to_json())
        for name, figure in figures.items()
    }
    return {"template": template(), "figures": data}


def _script_safe(data: Any) -> str:
    """JSON text that cannot close the script element that contains it."""
    return (
        json.dumps(data, separators=(",", ":"))
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
    )
