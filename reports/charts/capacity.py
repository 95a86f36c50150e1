"""The chart of a capacity curve: the divergences of a family against the size of its network."""

from __future__ import annotations

from typing import Any

from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Estimate
from capcheck.reports.charts.chart import Chart, Spec
from capcheck.reports.charts.curves import colour_of
from capcheck.reports.charts.scale import drawn, in_tolerances, rule, said, top_of, vertical
from capcheck.results.survey import CapacityCurve, SurveyResult

__all__ = ["capacity_chart"]


def capacity_chart(curve: CapacityCurve, result: SurveyResult) -> Chart:
    """The divergences of a family against the number of parameters of its network."""
    rows: list[dict[str, Any]] = []
    for name, tolerance in result.settings.tolerances.items():
        points = [(point, point.totals[name]) for point in curve.points if name in point.totals]
        if not points:
            continue
        unit = _unit(curve, name, result)
        for point, part in points:
            value, low, high = (
                in_tolerances(end, unit, tolerance) for end in (part.value, part.low, part.high)
            )
            rows.append(
                {
                    "divergence": name,
                    "label": DIVERGENCES[result.target.kind][name].label,
                    "parameters": point.parameters,
                    "network": point.network,
                    "value": drawn(value),
                    "low": drawn(low),
                    "high": drawn(high),
                    "text": f"{part}: {said(value)} × tolerance",
                }
            )
    colour = colour_of(result, [row["label"] for row in rows])
    top = top_of(row["high"] for row in rows if row["high"] is not None)
    return Chart(
        spec=_spec(colour, top, linear=False),
        linear=_spec(colour, top, linear=True),
        data={"sizes": rows},
        description=f"Divergences of {curve.family} by number of parameters, in multiples of their "
        "tolerances.",
        default="all",
    )


def _unit(curve: CapacityCurve, name: str, result: SurveyResult) -> Estimate:
    """An estimate of a divergence of this family, which tells its unit."""
    return next(
        cell.estimates[name]
        for found in result.families
        if found.family == curve.family
        for cell in found.cells
        if cell.estimates[name].value is not None
    )


def _spec(colour: Spec, top: float, *, linear: bool) -> Spec:
    x = {
        "field": "parameters",
        "type": "quantitative",
        "scale": {"type": "log", "nice": True},
        "axis": {"grid": False, "format": "~s"},
        "title": "parameters",
    }
    y = vertical(top, linear=linear)
    value = {"x": x, "y": {"field": "value", **y}, "color": colour}
    tooltip = [{"field": "network"}, {"field": "label", "title": "divergence"}, {"field": "text"}]
    return {
        "height": 260,
        "data": {"name": "sizes"},
        "layer": [
            {
                "mark": {"type": "rule"},
                "encoding": {"x": x, "y": {"field": "low", **y}, "y2": {"field": "high"}}
                | {"color": colour},
            },
            rule(),
            {"mark": {"type": "line"}, "encoding": value},
            {
                "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1},
                "encoding": value | {"tooltip": tooltip},
            },
        ],
    }
