"""The chart of a family along one budget axis: every divergence, with the other axis at its most.

Bands are intervals, the dashed line is the tolerance, dotted lines are null floors, and hollow
marks are bounds from one side. Where a rate was fitted, a thin line goes on to the budget that
would suffice if the rate went on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from capcheck.core.budget import Axis
from capcheck.divergences import DIVERGENCES
from capcheck.judging.extrapolation import Extrapolation
from capcheck.judging.scaling import along
from capcheck.reports.charts.chart import Chart, Spec
from capcheck.reports.charts.scale import drawn, in_tolerances, rule, said, top_of, vertical
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell
from capcheck.results.survey import SurveyResult

__all__ = ["DIVERGENCE_COLOURS", "colour_of", "curves_chart"]

DIVERGENCE_COLOURS = {
    "kl": "var(--blue)",
    "wasserstein": "var(--orange)",
    "mmd": "var(--green)",
    "reverse_kl": "var(--purple)",
    "total_variation": "var(--ochre)",
}
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross"]
HEIGHT = 230  # of the chart, in pixels


def curves_chart(
    found: FamilyResult, axis: Axis, result: SurveyResult, beyond: Extrapolation | None = None
) -> Chart:
    """The divergences of a family along one axis.

    Args:
        found: The family, with at least one cell.
        axis: The axis.
        result: The run.
        beyond: The budget that would suffice, or None.
    """
    line = along(found.cells, axis)
    rows = [row for name in result.settings.tolerances for row in _rows(line, axis, name, result)]
    places = [str(getattr(cell.budget, axis)) for cell in line]
    further: list[dict[str, Any]] = []
    if beyond is not None and beyond.axis == axis:
        further = list(_further(line[-1], beyond, result))
        places += [further[-1]["budget"]]
    top = top_of(row["high"] for row in rows if row["high"] is not None)
    names = list(dict.fromkeys(row["label"] for row in rows))
    colour = colour_of(result, names)
    return Chart(
        spec=_spec(axis, places, colour, top, linear=False),
        linear=_spec(axis, places, colour, top, linear=True),
        data={"curve": rows, "further": further},
        description=f"Divergences of {found.title} by {axis}, in multiples of their tolerances.",
        default="all",
    )


def colour_of(result: SurveyResult, labels: Sequence[str] | None = None) -> Spec:
    """The channel that gives every divergence of a run its colour."""
    traits = DIVERGENCES[result.target.kind]
    shown = {
        traits[name].label: DIVERGENCE_COLOURS[name]
        for name in result.settings.tolerances
        if labels is None or traits[name].label in labels
    }
    return {
        "field": "label",
        "type": "nominal",
        "scale": {"domain": list(shown), "range": list(shown.values())},
    }


def _rows(
    line: Sequence[Cell], axis: Axis, name: str, result: SurveyResult
) -> Iterator[dict[str, Any]]:
    tolerance = result.settings.tolerances[name]
    for cell in line:
        estimate = cell.estimates[name]
        if estimate.value is None:
            continue
        floor = None
        if estimate.null is not None and estimate.null_error:
            ceiling = estimate.null + 1.96 * estimate.null_error
            floor = drawn(in_tolerances(ceiling, estimate, tolerance))
        value, low, high = (
            in_tolerances(end, estimate, tolerance)
            for end in (estimate.value, estimate.low, estimate.high)
        )
        yield {
            "divergence": name,
            "label": DIVERGENCES[result.target.kind][name].label,
            "budget": str(getattr(cell.budget, axis)),
            # Between two bounds the divergence may be anywhere: only the band is drawn.
            "value": None if estimate.kind == "two bounds" else drawn(value),
            "low": drawn(low),
            "high": drawn(high),
            "bound": estimate.kind.endswith("bound"),
            "floor": floor,
            "text": f"{said(value)} [{said(low)}, {said(high)}] × tolerance",
            "estimate": str(estimate),
            "kind": estimate.kind,
        }


def _further(last: Cell, beyond: Extrapolation, result: SurveyResult) -> Iterator[dict[str, Any]]:
    """The line from the largest budget to the one that would suffice."""
    name = beyond.divergence
    estimate = last.estimates[name]
    start = in_tolerances(estimate.value, estimate, result.settings.tolerances[name])
    label = DIVERGENCES[result.target.kind][name].label
    ends = (
        (str(getattr(last.budget, beyond.axis)), start, "measured"),
        (f"≈ {beyond.budget:.3g}", 1.0, f"would suffice if the rate went on: {beyond}"),
    )
    for budget, value, text in ends:
        yield {
            "divergence": name,
            "label": label,
            "budget": budget,
            "value": drawn(value),
            "text": text,
        }


def _spec(axis: Axis, places: Sequence[str], colour: Spec, top: float, *, linear: bool) -> Spec:
    x = {
        "field": "budget",
        "type": "ordinal",
        "scale": {"domain": list(places), "type": "point", "padding": 0.3},
        "axis": {"labelAngle": 0, "grid": False},
        "title": axis,
    }
    y = vertical(top, linear=linear)
    band = {"x": x, "y": {"field": "low", **y}, "y2": {"field": "high"}, "color": colour}
    value = {"x": x, "y": {"field": "value", **y}, "color": colour}
    shape = {
        "field": "label",
        "type": "nominal",
        "scale": {"domain": colour["scale"]["domain"], "range": SHAPES},
    }
    tooltip = [
        {"field": "label", "title": "divergence"},
        {"field": "budget", "title": axis},
        {"field": "estimate"},
        {"field": "text", "title": "multiple"},
        {"field": "kind"},
    ]
    return {
        "height": HEIGHT,
        "layer": [
            {
                "data": {"name": "curve"},
                "mark": {"type": "area", "opacity": 0.16},
                "encoding": band,
            },
            {
                "data": {"name": "curve"},
                "mark": {"type": "line", "strokeDash": [1.5, 3], "strokeWidth": 1.5},
                "encoding": value | {"y": {"field": "floor", **y}},
            },
            {
                "data": {"name": "further"},
                "mark": {"type": "line", "strokeWidth": 1, "strokeDash": [8, 3]},
                "encoding": value,
            },
            {
                "data": {"name": "further"},
                "mark": {"type": "point", "size": 50},
                "encoding": value | {"tooltip": [{"field": "budget"}, {"field": "text"}]},
            },
            rule(),
            {"data": {"name": "curve"}, "mark": {"type": "line"}, "encoding": value},
            *(
                {
                    "data": {"name": "curve"},
                    "transform": [{"filter": "datum.bound" if bound else "!datum.bound"}],
                    "mark": {"type": "point", "filled": not bound, "size": 55, "opacity": 1},
                    "encoding": value | {"shape": shape, "tooltip": tooltip},
                }
                for bound in (False, True)
            ),
            {
                "data": {"name": "curve"},
                "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.5},
                "encoding": band | {"tooltip": tooltip},
            },
        ],
    }
