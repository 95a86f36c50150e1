"""A page is one self-contained HTML file with charts.

The file contains its styles, one copy of the chart library and one block of data. A content
security policy forbids it to load anything, and to run any script but the page's own two, which it
knows by their digests. The template engine escapes every text, and characters that reverse or hide
text are written as their escapes, so that a page says what its source says.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup, escape

from capcheck.reports.charts.chart import BASE, CONFIG, DARK, LIGHT, Chart, Rows, svg

NARROW = 170  # width of the plot of a chart that is drawn into the page, in pixels

__all__ = ["inert", "linked", "page", "pointer"]


def page(
    name: str,
    charts: Mapping[str, Chart],
    *,
    record: Mapping[str, Any] | None = None,
    drawn: Sequence[str] = (),
    **facts: Any,
) -> str:
    """The text of a page.

    Args:
        name: File name of its template.
        charts: The charts, by the names of their places in the page.
        record: The result as JSON values, which the page shows and offers for download.
        drawn: Names of the charts that are drawn into the page, so that they can be seen without
            scripts.
        facts: Further values that the template shows.
    """
    scripts = [_library(), _script("report.js")] if charts or record else []
    return (
        _environment()
        .get_template(name)
        .render(
            policy=_policy(scripts),
            scripts=[Markup(script) for script in scripts],
            data=Markup(_script_safe(_data(charts))),
            record=None if record is None else _packed(record),
            charts=charts,
            drawings={one: Markup(_drawing(charts[one])) for one in drawn},
            light=LIGHT,
            dark=DARK,
            **facts,
        )
    )


def pointer(*parts: str | int) -> str:
    """The JSON pointer (RFC 6901) of a place in the record."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def linked(text: object, place: str) -> Markup:
    """A number that leads to its record, with its interval below it to save width.

    Args:
        text: The number as it is shown.
        place: JSON pointer of its record.
    """
    value, bracket, rest = str(text).partition(" [")
    shown = escape(value)
    if bracket:
        shown = Markup('{}<br><span class="quiet">[{}</span>').format(value, rest)
    return Markup('<a class="n" data-record="{}" href="#record">{}</a>').format(place, shown)


def inert(value: Any) -> Any:
    """A text with the escapes of Python for characters that are not printable, or other values."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in value)
    return value


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("capcheck.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=inert,
    )
    environment.filters["linked"] = linked
    environment.filters["sentence"] = _sentence
    environment.globals["pointer"] = pointer
    return environment


def _sentence(text: str) -> str:
    """A clause with a capital at its start and a full stop at its end."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


@functools.cache
def _library() -> str:
    """The chart library: Vega, Vega-Lite and Vega-Embed, whose `vegaEmbed` draws a chart."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # The bundle declares names of one letter, which must not meet those of the page's script.
    return "(() => {" + str(bundle).replace("</script", "<\\/script") + "})();"


@functools.cache
def _script(name: str) -> str:
    """The text of a script of the project."""
    return (importlib.resources.files("capcheck.reports") / "templates" / name).read_text("utf-8")


def _policy(scripts: Sequence[str]) -> Markup:
    """The content security policy: inline styles, and scripts of known digests."""
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'"
        for one in scripts
    ]
    allowed = " ".join(digests) or "'none'"
    return Markup(
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    )


def _data(charts: Mapping[str, Chart]) -> dict[str, Any]:
    """The charts as JSON values, with equal specifications stored once and data by columns."""
    specs: dict[str, int] = {}

    def number(spec: Mapping[str, Any] | None) -> int | None:
        return None if spec is None else specs.setdefault(json.dumps(spec), len(specs))

    found = {
        name: {
            "spec": number(chart.spec),
            "linear": number(chart.linear),
            "default": chart.default,
            "data": {key: _columns(rows) for key, rows in chart.data.items()},
        }
        for name, chart in charts.items()
    }
    return {
        "base": BASE | {"config": CONFIG},
        "specs": [json.loads(spec) for spec in specs],
        "charts": found,
    }


def _columns(rows: Rows) -> dict[str, Any]:
    """Rows as lists of values, one for each row, with missing values as null.

    Texts are stored once: a column of texts holds their places in a list of its own.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    words: dict[str, dict[str, int]] = {
        name: {} for name in names if any(isinstance(row.get(name), str) for row in rows)
    }

    def stored(row: Mapping[str, Any], name: str) -> Any:
        value = row.get(name)
        if name not in words or value is None:
            return value
        return words[name].setdefault(str(inert(value)), len(words[name]))

    stored_rows = [[stored(row, name) for name in names] for row in rows]
    texts = {name: list(known) for name, known in words.items()}
    return {"names": names, "words": texts, "rows": stored_rows}


def _packed(record: Mapping[str, Any]) -> str:
    """The record as compressed JSON in base64, as it is large and most readers never open it."""
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _drawing(chart: Chart) -> str:
    """A chart as SVG that takes the width of its place and the colours of the page."""
    drawing = svg(chart, NARROW)
    for name, colour in LIGHT.items():
        drawing = drawing.replace(f'"{colour}"', f'"var(--{name})"')
    return drawing


def _script_safe(data: Any) -> str:
    """JSON text that cannot close the script element that contains it."""
    return (
        json.dumps(data, separators=(",", ":"), allow_nan=False)
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
    )
