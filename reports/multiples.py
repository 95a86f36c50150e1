"""The scale of the charts: multiples of the tolerance.

Divergences are drawn in multiples of their tolerance, so that all of them share one scale and one
line at 1. The scale is asinh: linear around the tolerance, where estimates may be negative, and
logarithmic far above it.
"""

from __future__ import annotations

import math
from typing import Any

from capcheck.judging.resolution import tolerance_in_unit
from capcheck.results.family import FamilyResult

__all__ = ["DASHED", "TICKS", "TOP", "divergence_axis", "ratio", "scaled", "shown", "tolerance_of"]

TICKS = (-1, 0, 1, 10, 100, 1000, 10_000)
TOP = 1e5  # position of an infinite divergence, in multiples of the tolerance
DASHED = {"color": "#222", "dash": "dash"}  # style of the line at the tolerance


def tolerance_of(found: FamilyResult, name: str, tolerance: float) -> float:
    """The tolerance of a divergence in its unit, from a cell where the divergence is available."""
    estimates = (cell.estimates[name] for cell in found.cells)
    available = next(estimate for estimate in estimates if estimate.value is not None)
    return tolerance_in_unit(available, tolerance)


def divergence_axis() -> dict[str, Any]:
    """The ticks of the asinh axis, as arguments of plotly's `update_yaxes`."""
    labels = [f"{tick:g}" for tick in TICKS]
    return {
        "tickvals": [scaled(tick) for tick in (*TICKS, TOP)],
        "ticktext": [*labels, "infinite"],
        "zeroline": True,
    }


def ratio(value: float | None, bound: float) -> float:
    """The multiple of a tolerance that a value is, both in the unit of the divergence."""
    assert value is not None
    # A law of one sequence has no spread, so that any distance exceeds the tolerance.
    if bound == 0:
        return math.copysign(math.inf, value) if value else 0.0
    return value / bound


def scaled(multiple: float) -> float:
    """The position of a multiple on the asinh axis; NaN stays NaN and is not drawn."""
    if math.isnan(multiple):
        return math.nan
    return math.asinh(max(min(multiple, TOP), -TOP))


def shown(multiple: float) -> str:
    """The text of a multiple."""
    return "infinite" if math.isinf(multiple) else f"{multiple:.3g}"
