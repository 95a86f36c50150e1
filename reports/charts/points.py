"""Samples as points in the plane: the two leading components of the target's own samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from capcheck.reports.charts.chart import Chart, Spec

__all__ = ["leading_components", "points_chart"]

TARGET = "target"  # name of the target's samples


def points_chart(groups: Sequence[tuple[str, Any]], title: str) -> Chart:
    """Samples of the target and of each group in the plane.

    Args:
        groups: Name and samples, (rows, N, d) nested lists, of each group; the target comes first.
        title: Name of the procedure, for the description.
    """
    plane = leading_components(groups[0][1])
    rows = [
        {"group": name, "x": float(f"{x:.4g}"), "y": float(f"{y:.4g}")}
        for name, samples in groups
        for x, y in plane(samples)
    ]
    return Chart(
        spec=_spec([name for name, _ in groups]),
        data={"points": rows},
        description=f"Samples of the target and of {title}, in the plane of the two leading "
        "components of the target's samples.",
    )


def leading_components(samples: Any) -> Any:
    """A function that projects samples, (rows, N, d), to the two leading components of these."""
    flat = np.asarray(samples, dtype=np.float64).reshape(len(samples), -1)
    mean = flat.mean(0)
    if flat.shape[1] <= 2:
        axes = np.eye(flat.shape[1])
    else:
        axes = np.linalg.svd(flat - mean, full_matrices=False)[2][:2]

    def project(others: Any) -> np.ndarray:
        centred = np.asarray(others, dtype=np.float64).reshape(len(others), -1) - mean
        plane = centred @ axes.T
        return np.pad(plane, ((0, 0), (0, max(0, 2 - plane.shape[1]))))[:, :2]

    return project


def _spec(groups: list[str]) -> Spec:
    return {
        "height": 260,
        "data": {"name": "points"},
        "mark": {"type": "point", "filled": True, "size": 26, "opacity": 0.7},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": "first component"},
            "y": {"field": "y", "type": "quantitative", "title": "second component"},
            "color": {
                "field": "group",
                "type": "nominal",
                "scale": {
                    "domain": groups,
                    "range": ["var(--unknown)", "var(--orange)", "var(--purple)", "var(--blue)"],
                },
                "legend": {"columns": 1},
            },
            "shape": {
                "field": "group",
                "type": "nominal",
                "scale": {
                    "domain": groups,
                    "range": ["circle", "cross", "triangle-up", "diamond"],
                },
            },
        },
    }
