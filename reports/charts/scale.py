"""The scale of the charts: multiples of the tolerance.

Divergences are drawn in multiples of their tolerance, so that all of them share one scale and one
line at 1. The scale is symlog, sign(x) log(1 + |x|): linear around the tolerance, where estimates
may be negative, and logarithmic far above it. The linear scale ends at 10 tolerances.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from capcheck.divergences.estimate import Estimate
from capcheck.judging.resolution import multiple, tolerance_in_unit
from capcheck.reports.charts.chart import Spec

__all__ = [
    "LINEAR_TOP",
    "TICKS",
    "TOP",
    "drawn",
    "in_tolerances",
    "place",
    "rule",
    "said",
    "symlog",
    "top_of",
    "vertical",
]

TOP = 1e5  # place of an infinite divergence, in multiples of the tolerance
LINEAR_TOP = 10.0  # upper end of the linear scale, where larger multiples are drawn
BOTTOM = -0.5  # lower end of both scales: an estimate may be below 0
TICKS = (0, 1, 10, 100, 1000, 10_000)
LABELS = f"datum.value >= {TOP} ? 'infinite' : format(datum.value, '~s')"
LINEAR_LABELS = f"datum.value >= {LINEAR_TOP} ? '≥ ' + datum.value : datum.value"


def in_tolerances(value: float | None, estimate: Estimate, tolerance: float) -> float:
    """The multiple of the tolerance that a value in the unit of an estimate is."""
    assert value is not None
    return multiple(value, tolerance_in_unit(estimate, tolerance))


def drawn(value: float) -> float | None:
    """The number that stands for a multiple in the data of a chart; None is not drawn."""
    if math.isnan(value):
        return None
    return float(f"{max(min(value, TOP), -TOP):.6g}")


def said(value: float) -> str:
    """The text of a multiple."""
    return "infinite" if math.isinf(value) else f"{value:.3g}"


def top_of(values: Iterable[float]) -> float:
    """Upper end of the scale for some multiples: a power of ten, or `TOP` with an infinite one."""
    most = max((value for value in values if not math.isnan(value)), default=1.0)
    if most >= TOP / 10:
        return TOP
    return float(10 ** max(1, math.ceil(math.log10(max(most, 1.0)))))


def vertical(top: float, *, linear: bool, title: str | None = "× tolerance") -> Spec:
    """Axis and scale of multiples, as part of a channel of an encoding."""
    if linear:
        scale: Spec = {
            "type": "linear",
            "domain": [BOTTOM, LINEAR_TOP],
            "clamp": True,
            "nice": False,
        }
        axis: Spec = {"values": [0, 1, 2, 4, 6, 8, 10], "labelExpr": LINEAR_LABELS}
    else:
        scale = {"type": "symlog", "domain": [BOTTOM, top]}
        ticks = [tick for tick in (*TICKS, TOP) if tick <= top]
        axis = {"values": ticks, "labelExpr": LABELS, "labelOverlap": False}
    scale |= {"clamp": True, "nice": False}
    return {"type": "quantitative", "scale": scale, "axis": axis, "title": title}


def place(value: float, top: float, height: float, *, linear: bool) -> float:
    """Distance of a multiple from the upper end of a chart, in pixels; the scale of `vertical`."""
    end = LINEAR_TOP if linear else top
    inside = min(max(value, BOTTOM), end)
    at, low, high = (x if linear else symlog(x) for x in (inside, BOTTOM, end))
    return height * (1 - (at - low) / (high - low))


def symlog(value: float) -> float:
    """sign(x) log(1 + |x|), with infinite multiples at `TOP`."""
    inside = max(min(value, TOP), -TOP)
    return math.copysign(math.log1p(abs(inside)), inside)


def rule() -> Spec:
    """The dashed line at the tolerance, as a layer."""
    return {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "strokeDash": [5, 4], "color": "var(--ink)", "opacity": 0.8},
        "encoding": {"y": {"datum": 1}},
    }
