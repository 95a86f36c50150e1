"""Reads the pages of reports as a browser does: the charts' data, tables, and text."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

__all__ = ["chart_of", "charts", "outside_scripts", "record", "rows_of", "table", "told"]


def outside_scripts(page: str) -> str:
    """The page without its scripts and drawings, which hold no text of the run's own making."""
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.S)


def told(page: str) -> str:
    """The text of a page, with white space as single spaces."""
    return " ".join(re.sub(r"<.*?>", " ", outside_scripts(page)).split())


def charts(page: str) -> dict[str, Any]:
    """All charts of a page by name, each with its specifications and the rows of its data."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data = json.loads(found.group(1))
    return {
        name: {
            "spec": data["specs"][chart["spec"]],
            "linear": None if chart["linear"] is None else data["specs"][chart["linear"]],
            "default": chart["default"],
            "data": {
                key: [_row(table, row) for row in table["rows"]]
                for key, table in chart["data"].items()
            },
        }
        for name, chart in data["charts"].items()
    }


def _row(table: Any, row: list[Any]) -> dict[str, Any]:
    named = dict(zip(table["names"], row, strict=True))
    return named | {
        name: None if named[name] is None else words[named[name]]
        for name, words in table["words"].items()
    }


def chart_of(page: str, name: str) -> dict[str, Any]:
    """A chart of a page that also has a place for it."""
    assert f'data-chart="{name}"' in page
    found: dict[str, Any] = charts(page)[name]
    return found


def record(page: str) -> Any:
    """The result that a page holds."""
    found = re.search(r'id="result-data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(gzip.decompress(base64.b64decode(found.group(1))))


def rows_of(text: str) -> list[list[str]]:
    """Texts of the cells of every table row of some HTML."""
    lines = re.findall(r"<tr.*?</tr>", text, re.S)
    cells = [re.findall(r"<t[dh][ >].*?</t[dh]>", line, re.S) for line in lines]
    return [[" ".join(re.sub(r"<.*?>", " ", cell).split()) for cell in line] for line in cells]


def table(page: str, heading: str) -> list[list[str]]:
    """Texts of the cells of the first table below a heading, row by row."""
    section = page[page.index(f">{heading}</h2>") :]
    return rows_of(section[: section.index("</table>")])
