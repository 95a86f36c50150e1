"""The chart of the efficiency front: a divergence against model calls, one line for each family.

The line of a family is the staircase of its cells that no other of its cells beats in both cost and
error; it goes on to the right, as more calls need not be spent. Its name stands at its right end,
moved up or down so that no two names overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from capcheck.judging.front import Front, Point, non_dominated
from capcheck.procedures.rows import ROW_TITLES, ROWS, Row
from capcheck.reports.charts.chart import Chart, Spec
from capcheck.reports.charts.scale import drawn, place, rule, said, top_of, vertical

__all__ = ["GROUPS", "apart", "front_chart"]

GROUPS: dict[Row, tuple[str, str]] = {
    "neither": ("var(--grey)", "circle"),
    "length": ("var(--blue)", "square"),
    "steps": ("var(--orange)", "diamond"),
    "length_outer": ("var(--green)", "triangle-up"),
    "steps_outer": ("var(--purple)", "cross"),
}
"""Colour and mark of each row of the paper's table."""

NAMES = 110  # most width of a name, in pixels
LINE = 13.0  # distance between two names, in pixels
MOST = 1000  # most cells that are all drawn
HEIGHT = 260.0  # smallest height of the chart, in pixels


def front_chart(found: Front) -> Chart:
    """The chart of a front with at least one point."""
    families = list(dict.fromkeys(point.family for point in found.points))
    lines = {family: _line(found, family) for family in families}
    height = max(HEIGHT, LINE * (len(families) + 6))
    top = top_of(point.multiple for point in found.points)
    most = max(point.calls for point in found.points)
    stops = []
    for best in lines.values():
        stops += [*map(_stop, best), _stop(best[-1]) | {"calls": most}]
    return Chart(
        spec=_spec(found, top, most, height, linear=False),
        linear=_spec(found, top, most, height, linear=True),
        data={
            "points": [_point(point) for point in _drawn(found)],
            "lines": stops,
            "names": _names(lines, top, height),
        },
        description="Upper end of a divergence, in multiples of its tolerance, against model "
        "calls, one line for each family.",
    )


def apart(places: Sequence[float], least: float, end: float) -> list[float]:
    """Places moved as little as a single pass can, so that neighbours keep a distance.

    Args:
        places: Places in rising order.
        least: Smallest distance between two places.
        end: Largest place; the first may become negative if there is not enough room.

    Returns:
        The new places, in rising order.
    """
    found: list[float] = []
    for at in places:
        found.append(max(at, found[-1] + least) if found else at)
    limit = end
    for k in range(len(found) - 1, -1, -1):
        found[k] = min(found[k], limit)
        limit = found[k] - least
    return found


def _drawn(found: Front) -> Sequence[Point]:
    """All cells, or of very many the best of each family at each number of calls."""
    if len(found.points) <= MOST:
        return found.points
    best: dict[tuple[str, int], Point] = {}
    for point in found.points:
        key = (point.family, point.calls)
        if key not in best or point.multiple < best[key].multiple:
            best[key] = point
    return list(best.values())


def _line(found: Front, family: str) -> Sequence[Point]:
    """The cells of a family that none of its cells beats; its cheapest cell if all are infinite."""
    own = [point for point in found.points if point.family == family]
    best = non_dominated(own)
    places: dict[tuple[int, float], Point] = {}
    for point in best or [min(own, key=lambda point: point.calls)]:
        places.setdefault((point.calls, point.multiple), point)
    return list(places.values())


def _stop(point: Point) -> dict[str, Any]:
    return {
        "family": point.family,
        "group": ROW_TITLES[point.row],
        "calls": point.calls,
        "multiple": drawn(point.multiple),
    }


def _point(point: Point) -> dict[str, Any]:
    return _stop(point) | {
        "budget": str(point.cell.budget),
        "text": f"{said(point.multiple)} × tolerance",
        "within": point.multiple <= 1,
    }


def _names(lines: dict[str, Sequence[Point]], top: float, height: float) -> list[dict[str, Any]]:
    """Names at the right ends of the lines, with their places on both scales."""
    places: dict[str, dict[str, float]] = {family: {} for family in lines}
    for column, linear in (("log", False), ("linear", True)):
        ends = {
            family: place(line[-1].multiple, top, height, linear=linear)
            for family, line in lines.items()
        }
        order = sorted(ends, key=lambda family: (ends[family], family))
        moved = apart([ends[family] for family in order], LINE, height)
        for family, at in zip(order, moved, strict=True):
            places[family][column] = round(at, 1)
            places[family][f"{column}_end"] = round(ends[family], 1)
    return [
        {
            "family": family,
            "group": ROW_TITLES[line[-1].row],
            **places[family],
        }
        for family, line in lines.items()
    ]


def _spec(found: Front, top: float, most: int, height: float, *, linear: bool) -> Spec:
    present = [row for row in ROWS if any(p.row == row for p in found.points)]
    titles = [ROW_TITLES[row] for row in present]
    colour = {
        "field": "group",
        "type": "nominal",
        "scale": {"domain": titles, "range": [GROUPS[row][0] for row in present]},
        "legend": {"columns": 1, "rowPadding": 3},
    }
    shape = {
        "field": "group",
        "type": "nominal",
        "scale": {"domain": titles, "range": [GROUPS[row][1] for row in present]},
    }
    doublings = [2**i for i in range(max(1, math.ceil(math.log2(max(most, 2)))) + 1)]
    x = {
        "field": "calls",
        "type": "quantitative",
        "scale": {"type": "log", "base": 2, "domain": [1, max(most, 2)], "nice": False},
        "axis": {"values": doublings, "grid": False, "format": "~s"},
        "title": "model calls",
    }
    y = {"field": "multiple", **vertical(top, linear=linear, title="at most, × tolerance")}
    return {
        "height": height,
        "layer": [
            {
                "data": {"name": "lines"},
                "mark": {"type": "line", "interpolate": "step-after", "opacity": 0.75},
                "encoding": {"x": x, "y": y, "color": colour, "detail": {"field": "family"}},
            },
            rule(),
            *(_marks(x, y, colour, shape, within=within) for within in (False, True)),
            *_name_layers(colour, "linear" if linear else "log"),
        ],
    }


def _marks(x: Spec, y: Spec, colour: Spec, shape: Spec, *, within: bool) -> Spec:
    """The cells within the tolerance as full marks, or the others as hollow ones."""
    return {
        "data": {"name": "points"},
        "transform": [{"filter": "datum.within" if within else "!datum.within"}],
        "mark": {"type": "point", "size": 55, "opacity": 0.9, "filled": within},
        "encoding": {
            "x": x,
            "y": y,
            "color": colour,
            "shape": shape,
            "tooltip": [
                {"field": "family"},
                {"field": "budget"},
                {"field": "calls", "title": "model calls"},
                {"field": "text", "title": "at most"},
            ],
        },
    }


def _name_layers(colour: Spec, column: str) -> list[Spec]:
    """The names, and short lines from the ends of the lines to them."""
    at = {"field": column, "type": "quantitative", "scale": None, "axis": None}
    end = {"field": f"{column}_end", "type": "quantitative", "scale": None, "axis": None}
    return [
        {
            "data": {"name": "names"},
            "mark": {"type": "rule", "opacity": 0.5},
            "encoding": {
                "x": {"value": {"expr": "width"}},
                "x2": {"value": {"expr": "width + 14"}},
                "y": end,
                "y2": at,
                "color": colour,
            },
        },
        {
            "data": {"name": "names"},
            "mark": {"type": "text", "align": "left", "baseline": "middle"}
            | {"fontSize": 11, "limit": NAMES},
            "encoding": {
                "x": {"value": {"expr": "width + 17"}},
                "y": at,
                "text": {"field": "family"},
                "color": colour,
            },
        },
    ]
