"""Pictures of draws: rows of pixels, or points in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from capcheck.reports.style import LAYOUT
from capcheck.results.settings import TargetSummary
from capcheck.targets.provenance import Picture

__all__ = ["GREYS", "SHADES", "SPACE", "samples_chart"]

GREYS = [[0, "#fff"], [1, "#000"]]  # from the lightest shade to the darkest
SPACE = 0.03  # space between two groups, as a share of the width
SHADES = 99  # darkest shade of grey, so that a pixel takes at most two digits


def samples_chart(groups: Sequence[tuple[str, Any]], target: TargetSummary) -> dict[str, Any]:
    """Samples of each group side by side, as images or as scatter plots of two coordinates.

    The figure is made of plain values, as the chart library checks thousands of pixels one by one.

    Args:
        groups: Title and samples, (rows, N, d) or (rows, N) nested lists; the target comes first.
        target: The target, which says whether samples are images.

    Returns:
        The figure, as data and layout.
    """
    as_images = target.provenance.picture is not None or target.kind == "categorical"
    layout: dict[str, Any] = LAYOUT | {
        "height": 300,
        "showlegend": False,
        "margin": {"l": 50, "r": 8, "t": 30, "b": 40},
        "annotations": [],
    }
    ranges = [] if as_images else _ranges(groups[0][1])
    width = (1 - SPACE * (len(groups) - 1)) / len(groups)
    traces = []
    for column, (title, rows) in enumerate(groups):
        number = str(column + 1) if column else ""
        trace = _mosaic(rows, target) if as_images else _scatter(rows)
        traces.append(trace | {"xaxis": f"x{number}", "yaxis": f"y{number}"})
        left = column * (width + SPACE)
        x: dict[str, Any] = {"anchor": f"y{number}", "domain": [left, left + width]}
        y: dict[str, Any] = {"anchor": f"x{number}", "domain": [0.0, 1.0]}
        if as_images:
            x |= {"visible": False, "constrain": "domain"}
            y |= {"visible": False, "scaleanchor": f"x{number}", "autorange": "reversed"}
        else:
            x |= {"title": {"text": "first coordinate"}, "range": ranges[0]}
            y |= {"range": ranges[1]}
            if column == 0:
                y["title"] = {"text": "second coordinate"}
        layout |= {f"xaxis{number}": x, f"yaxis{number}": y}
        layout["annotations"].append(_title(title, left + width / 2))
    return {"data": traces, "layout": layout}


def _title(text: str, x: float) -> dict[str, Any]:
    """The title of a group, above the middle x of its place, as a share of the width."""
    return {
        "text": text,
        "showarrow": False,
        "font": {"size": 16},
        "x": x,
        "xref": "paper",
        "xanchor": "center",
        "y": 1.0,
        "yref": "paper",
        "yanchor": "bottom",
    }


def _mosaic(rows: Any, target: TargetSummary) -> dict[str, Any]:
    """36 samples in one heatmap: six by six images, or one line per sequence without a grid."""
    picture = target.provenance.picture
    if picture is not None:
        images = _pixels(rows[:36], picture)
        height, width = picture.rows, picture.columns
        low, high = 0.0, float(SHADES)
    else:
        images = rows[:36]
        height, width = target.grid or (1, target.tokens)
        high = max(target.dim - 1, 1)
        low = -0.15 * high  # makes symbol 0 visible on a white page
    across = 6 if height > 1 else 1
    down = 36 // across
    gap = int(height > 1)
    lines, columns = down * (height + gap), across * (width + gap)
    canvas: list[list[float | None]] = [[None] * columns for _ in range(lines)]
    for index, image in enumerate(images):
        top, left = (index // across) * (height + gap), (index % across) * (width + gap)
        for pixel, value in enumerate(image):
            canvas[top + pixel // width][left + pixel % width] = value
    return {
        "type": "heatmap",
        "z": canvas,
        "colorscale": GREYS if picture is not None or target.dim <= 2 else "Viridis",
        "zmin": low,
        "zmax": high,
        "showscale": False,
        "hoverinfo": "skip",
    }


def _pixels(rows: Any, picture: Picture) -> list[list[int]]:
    """The shades of images as whole numbers, since pixels dominate the size of a large page."""
    offset, basis = np.asarray(picture.offset), np.asarray(picture.basis)
    low, high = offset.min(), offset.max()
    unit = 1.25 * (high - low) / SHADES or 1.0  # single images exceed the range of their mean
    flat = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
    shades = np.rint(((offset + flat @ basis - low) / unit).clip(0, SHADES))
    found: list[list[int]] = shades.astype(int).tolist()
    return found


def _scatter(rows: Any) -> dict[str, Any]:
    points = [_coordinates(tokens) for tokens in rows]
    return {
        "type": "scatter",
        "x": [point[0] for point in points],
        "y": [point[1] for point in points],
        "mode": "markers",
        "marker": {"size": 5, "opacity": 0.6, "color": "#2455a4"},
        "hoverinfo": "skip",
    }


def _coordinates(tokens: Any) -> tuple[float, float]:
    flat = [number for token in tokens for number in token]
    return flat[0], flat[1] if len(flat) > 1 else 0.0


def _ranges(rows: Any) -> list[list[float]]:
    """The range [low, high] of each of two coordinates, with a margin of a fifth on each side."""
    ranges = []
    for axis in zip(*(_coordinates(tokens) for tokens in rows), strict=True):
        pad = 0.2 * (max(axis) - min(axis)) + 1e-9
        ranges.append([min(axis) - pad, max(axis) + pad])
    return ranges
