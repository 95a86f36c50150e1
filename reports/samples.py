"""Pictures of draws: rows of pixels, or points in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from capcheck.reports.style import LAYOUT
from capcheck.results.settings import TargetSummary
from capcheck.targets.provenance import Picture

__all__ = ["SHADES", "samples_chart"]

SHADES = 99  # darkest shade of grey, so that a pixel takes at most two digits


def samples_chart(groups: Sequence[tuple[str, Any]], target: TargetSummary) -> go.Figure:
    """Samples of each group side by side, as images or as scatter plots of two coordinates.

    Args:
        groups: Title and samples, (rows, N, d) or (rows, N) nested lists; the target comes first.
        target: The target, which says whether samples are images.
    """
    figure = make_subplots(
        cols=len(groups), subplot_titles=[title for title, _ in groups], horizontal_spacing=0.03
    )
    as_images = target.provenance.picture is not None or target.kind == "categorical"
    for column, (_, rows) in enumerate(groups, start=1):
        trace = _mosaic(rows, target) if as_images else _scatter(rows)
        figure.add_trace(trace, row=1, col=column)
        if as_images:
            anchor = "x" if column == 1 else f"x{column}"
            figure.update_xaxes(visible=False, constrain="domain", row=1, col=column)
            figure.update_yaxes(
                visible=False, scaleanchor=anchor, autorange="reversed", row=1, col=column
            )
    if not as_images:
        first, second = _ranges(groups[0][1])
        figure.update_xaxes(title_text="first coordinate", range=first)
        figure.update_yaxes(range=second)
        figure.update_yaxes(title_text="second coordinate", row=1, col=1)
    layout = LAYOUT | {
        "height": 300,
        "showlegend": False,
        "margin": {"l": 50, "r": 8, "t": 30, "b": 40},
    }
    return figure.update_layout(**layout)


def _mosaic(rows: Any, target: TargetSummary) -> go.Heatmap:
    """36 samples in one heatmap: six by six images, or one line per sequence without a grid."""
    picture = target.provenance.picture
    if picture is not None:
        images = [_pixels(tokens, picture) for tokens in rows[:36]]
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
    return go.Heatmap(
        z=canvas,
        colorscale="Greys" if picture is not None or target.dim <= 2 else "Viridis",
        zmin=low,
        zmax=high,
        showscale=False,
        hoverinfo="skip",
    )


def _pixels(tokens: Any, picture: Picture) -> list[int]:
    """The shades of an image as whole numbers, since pixels dominate the size of a large page."""
    low, high = min(picture.offset), max(picture.offset)
    unit = 1.25 * (high - low) / SHADES or 1.0  # single images exceed the range of their mean
    flat = [number for token in tokens for number in token]
    pixels = (
        offset + sum(x * axis[place] for x, axis in zip(flat, picture.basis, strict=True))
        for place, offset in enumerate(picture.offset)
    )
    return [round(max(0, min((pixel - low) / unit, SHADES))) for pixel in pixels]


def _scatter(rows: Any) -> go.Scatter:
    points = [_coordinates(tokens) for tokens in rows]
    return go.Scatter(
        x=[point[0] for point in points],
        y=[point[1] for point in points],
        mode="markers",
        marker={"size": 5, "opacity": 0.6, "color": "#2455a4"},
        hoverinfo="skip",
    )


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
