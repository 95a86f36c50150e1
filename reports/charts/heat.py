"""The heat map of a family: how far each budget is from the tolerance.

The colour of a budget is the class of a divergence, or of the worst of them, in multiples of its
tolerance; grey stands for bounds that leave it open. A frame stands around the budgets that are
representable, which is the tolerance contour, and a mark tells the verdict to those who do not see
colours.
"""

from __future__ import annotations

import math
from typing import Any

from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Estimate
from capcheck.judging.resolution import available
from capcheck.reports.charts.chart import Chart, Spec
from capcheck.reports.charts.scale import in_tolerances
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell, Outcome
from capcheck.results.survey import SurveyResult

__all__ = ["CLASSES", "heat_chart"]

CLASSES: tuple[tuple[float, str, str], ...] = (
    (0.3, "at most 0.3", "var(--blue)"),
    (1.0, "at most 1", "var(--sky)"),
    (10.0, "at most 10", "var(--amber)"),
    (math.inf, "above 10", "var(--orange)"),
)
"""Upper end, name and colour of each class of multiples of the tolerance."""
UNKNOWN = ("bounded only", "var(--unknown)")
WORST = "worst"  # stands for the divergence of the largest multiple
LABELLED = 200  # most budgets whose marks are drawn


def heat_chart(found: FamilyResult, result: SurveyResult) -> Chart:
    """The heat map of a family over length and steps."""
    names = [WORST, *result.settings.tolerances]
    rows = [_row(cell, name, result) for name in names for cell in found.cells]
    lengths = sorted({cell.budget.length for cell in found.cells}, reverse=True)
    steps = sorted({cell.budget.steps for cell in found.cells})
    return Chart(
        spec=_spec(lengths, steps, marks=len(found.cells) <= LABELLED),
        data={"budgets": rows},
        description=f"Verdict and largest divergence of {found.title} at each length and number of "
        "steps.",
        default=WORST,
    )


def _row(cell: Cell, name: str, result: SurveyResult) -> dict[str, Any]:
    divergences, tolerances = DIVERGENCES[result.target.kind], result.settings.tolerances
    names = [one for one in available(cell) if name in (WORST, one)]
    known = {one: _known(cell.estimates[one], tolerances[one]) for one in names}
    sure = {one: value for one, value in known.items() if value is not None}
    worst = max(sure, key=lambda one: sure[one], default=None)
    if worst is None or (sure[worst] <= 1 and len(sure) < len(names)):
        worst = next((one for one in names if one not in sure), None)
    return {
        "divergence": name,
        "label": "" if worst is None else divergences[worst].label,
        "length": cell.budget.length,
        "steps": cell.budget.steps,
        "class": _class(sure[worst]) if worst in sure else UNKNOWN[0],
        "estimate": "" if worst is None else str(cell.estimates[worst]),
        "calls": cell.model_calls,
        "mark": cell.outcome.mark,
        "verdict": cell.outcome.value.replace("_", " "),
    }


def _known(estimate: Estimate, tolerance: float) -> float | None:
    """The multiple of the tolerance that an estimate shows, or None if its bounds leave it open.

    A lower bound above the tolerance, and an upper bound below it, stand for the divergence.
    """
    low, value, high = (
        in_tolerances(end, estimate, tolerance)
        for end in (estimate.low, estimate.value, estimate.high)
    )
    if not estimate.kind.endswith(("bound", "bounds")):
        return value
    if estimate.kind != "upper bound" and low > 1:
        return low
    return high if estimate.kind != "lower bound" and high <= 1 else None


def _class(worst: float) -> str:
    return next((name for end, name, _ in CLASSES if worst <= end), UNKNOWN[0])


def _spec(lengths: list[int], steps: list[int], *, marks: bool) -> Spec:
    x = {"field": "steps", "type": "ordinal", "sort": steps, "axis": {"labelAngle": 0}}
    y = {"field": "length", "type": "ordinal", "sort": lengths}
    names = [*(name for _, name, _ in CLASSES), UNKNOWN[0]]
    colours = [*(colour for *_, colour in CLASSES), UNKNOWN[1]]
    tooltip = [
        {"field": name, "title": title}
        for name, title in (
            ("length", "length"),
            ("steps", "steps"),
            ("calls", "model calls"),
            ("label", "divergence"),
            ("estimate", "estimate"),
            ("verdict", "verdict"),
        )
    ]
    cells: Spec = {
        "data": {"name": "budgets"},
        "mark": {"type": "rect", "stroke": "var(--page)", "strokeWidth": 1},
        "encoding": {
            "x": x,
            "y": y,
            "color": {
                "field": "class",
                "type": "nominal",
                "scale": {"domain": names, "range": colours},
                "legend": {"columns": 2, "symbolType": "square"},
            },
            "tooltip": tooltip,
        },
    }
    contour: Spec = {
        "data": {"name": "budgets"},
        "transform": [{"filter": f"datum.mark == '{Outcome.REPRESENTABLE.mark}'"}],
        "mark": {"type": "rect", "filled": False, "stroke": "var(--ink)", "strokeWidth": 2},
        "encoding": {"x": x, "y": y},
    }
    signs: Spec = {
        "data": {"name": "budgets"},
        "mark": {"type": "text", "fontSize": 13, "fontWeight": "bold", "color": "var(--page)"},
        "encoding": {
            "x": x,
            "y": y,
            "text": {"field": "mark"},
            "color": {
                "condition": {
                    "test": "datum.class == 'at most 1' || datum.class == 'at most 10' "
                    f"|| datum.class == '{UNKNOWN[0]}'",
                    "value": "var(--ink)",
                },
                "value": "var(--page)",
            },
        },
    }
    return {
        "height": max(80, min(34 * len(lengths), 300)),
        "layer": [cells, contour, *([signs] if marks else [])],
    }
