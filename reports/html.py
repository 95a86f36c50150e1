"""The HTML report shows a run in one self-contained file, which `capcheck.reports.page` makes.

The first screen answers which families can, at which budget and at how many model calls, which
cannot and why, and whether the target stands for the data. Below it every family has a folded
section (`capcheck.reports.family`), and the last sections tell what the target is and how the
numbers were made.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, get_args

from capcheck.divergences import DIVERGENCES, Divergence
from capcheck.judging.answer import answer
from capcheck.judging.front import Front, fronts
from capcheck.procedures.probe import Failure
from capcheck.procedures.rows import PAPER, PAPER_LINK, ROW_TITLES, ROWS
from capcheck.reports import decoding
from capcheck.reports.charts.capacity import capacity_chart
from capcheck.reports.charts.chart import Chart
from capcheck.reports.charts.front import front_chart
from capcheck.reports.family import FamilyView, family_views
from capcheck.reports.page import page, pointer
from capcheck.reports.target import TargetView, target_view
from capcheck.results.family import WITHOUT_KL, WITHOUT_KL_MEANING, FamilyResult
from capcheck.results.measurement import Outcome
from capcheck.results.settings import SAMPLES
from capcheck.results.survey import SurveyResult

__all__ = ["charts", "render"]

FRONT = "front"  # name of the chart of the efficiency front
DRAWN = 1500  # most points of a chart that is drawn into the page, for readers without scripts


def render(result: SurveyResult) -> str:
    """Writes the report of a run; returns the text of one HTML file."""
    views, target = family_views(result), target_view(result)
    found = [one for one in fronts(result) if one.points]
    figures = _charts(result, views, target, found)
    divergences = DIVERGENCES[result.target.kind]
    return page(
        "report.html.j2",
        figures,
        record=result.to_dict(),
        drawn=[FRONT] if FRONT in figures and len(figures[FRONT].data["points"]) <= DRAWN else [],
        result=result,
        answer=answer(result),
        groups=_groups(views),
        families=views,
        curves=result.curves,
        paper=PAPER,
        paper_link=PAPER_LINK,
        without_kl=f"{WITHOUT_KL} {WITHOUT_KL_MEANING}",
        broken=_broken(views),
        failures=_failures(result),
        front=_front_rows(result, found[0]) if found else [],
        front_label=divergences[found[0].divergence].label if found else "",
        front_names=[one.divergence for one in found],
        absences=[(one.divergence, _absence(one)) for one in found],
        few=result.settings.at(result.settings.looks - 1).samples < SAMPLES,
        tolerances=[
            (_label(divergences[name]), tolerance)
            for name, tolerance in result.settings.tolerances.items()
        ],
        names=[(name, divergences[name].label) for name in result.settings.tolerances],
        methods=_methods(result),
        unavailable=_unavailable(result),
        heading="h3",
        target=target,
        **decoding.facts(result.decoding, pointer("decoding")),
    )


def charts(result: SurveyResult) -> dict[str, Chart]:
    """All charts of the report of a run, by name."""
    found = [one for one in fronts(result) if one.points]
    return _charts(result, family_views(result), target_view(result), found)


def _charts(
    result: SurveyResult, views: Sequence[FamilyView], target: TargetView, found: Sequence[Front]
) -> dict[str, Chart]:
    figures = dict(target.charts)
    for k, one in enumerate(found):
        # The page's script finds the chart of a chosen divergence by this name.
        figures[f"{FRONT}/{one.divergence}" if k else FRONT] = front_chart(one)
    for view in views:
        figures |= view.charts
    if result.decoding is not None:
        figures |= decoding.charts(result.decoding)
    for k, curve in enumerate(result.curves):
        figures[f"capacity-{k}"] = capacity_chart(curve, result)
    return figures


def _absence(found: Front) -> str:
    """A sentence on the families that a front shows in part or not at all; empty if there are none.

    A cell whose divergence nothing bounds from above has no place on a front.
    """
    said = []
    if found.absent:
        said.append(f"Not bounded, so not drawn: {', '.join(found.absent)}.")
    if found.partly:
        said.append(f"Bounded at some budgets only: {', '.join(found.partly)}.")
    return " ".join(said)


def _label(divergence: Divergence) -> str:
    """The name, unit and tolerance unit of a divergence as text."""
    return f"{divergence.label} ({divergence.unit}; tolerance in {divergence.tolerance_unit})"


def _broken(views: Sequence[FamilyView]) -> list[tuple[str, list[FamilyView]]]:
    """Families that are broken by numerics, by the precision in which they are."""
    named: dict[str, list[FamilyView]] = {}
    for view in views:
        for rounded in view.result.precisions:
            if rounded.holding == "numerics":
                named.setdefault(rounded.precision, []).append(view)
    return list(named.items())


def _groups(views: Sequence[FamilyView]) -> list[tuple[str, list[FamilyView]]]:
    """Families by their row of the paper's table, in its order."""
    groups = [(row, [view for view in views if view.result.row == row]) for row in ROWS]
    return [(ROW_TITLES[row], members) for row, members in groups if members]


def _failures(result: SurveyResult) -> list[tuple[str, list[FamilyResult]]]:
    """Families whose largest budget is refused, by the class of the cause of their floor."""
    refused = [
        found
        for found in result.families
        if found.network == "oracle"
        and found.cells
        and found.cells[-1].outcome is Outcome.NOT_REPRESENTABLE
    ]
    order: list[str | None] = [*get_args(Failure), None]
    classes = [(name, [found for found in refused if found.failure == name]) for name in order]
    return [(name or "not found", members) for name, members in classes if members]


def _front_rows(result: SurveyResult, found: Front) -> list[dict[str, Any]]:
    """The rows of the table of fronts; cells that tie share a row."""
    places = {
        (family.title, cell.budget): pointer("families", i, "cells", j, "estimates")
        for i, family in enumerate(result.families)
        for j, cell in enumerate(family.cells)
    }
    rows: list[dict[str, Any]] = []
    for row, best in found.of_groups.items():
        for (calls, multiple), tied in itertools.groupby(best, lambda p: (p.calls, p.multiple)):
            points = list(tied)
            place = places[points[0].family, points[0].cell.budget]
            rows.append(
                {
                    "group": ROW_TITLES[row],
                    "calls": calls,
                    "estimate": str(points[0].cell.estimates[found.divergence]),
                    "record": place + pointer(found.divergence),
                    "multiple": f"{multiple:.3g}",
                    "best": points[0] in found.best,
                    "families": [(point.family, str(point.cell.budget)) for point in points],
                }
            )
    return rows


def _methods(result: SurveyResult) -> list[tuple[str, list[str]]]:
    """Each kind of estimate of each divergence with its methods, in the order of the settings."""
    divergences = DIVERGENCES[result.target.kind]
    found: dict[str, dict[str, None]] = {}
    cells = [cell for family in result.families for cell in family.cells]
    for name in result.settings.tolerances:
        for estimate in (cell.estimates[name] for cell in cells):
            if estimate.value is not None:
                rows = f" ({estimate.samples:,} rows per set)" if estimate.samples else ""
                kind = f"{divergences[name].label}, {estimate.kind}"
                found.setdefault(kind, {})[f"{estimate.method}{rows}"] = None
    return [(kind, list(methods)) for kind, methods in found.items()]


def _unavailable(result: SurveyResult) -> list[tuple[str, list[str]]]:
    """Divergence and reason of what is unavailable at the largest budget, with the families."""
    divergences = DIVERGENCES[result.target.kind]
    found: dict[str, list[str]] = {}
    for family in result.families:
        for name, estimate in family.cells[-1].estimates.items() if family.cells else ():
            if estimate.value is None:
                clause = f"{divergences[name].label}: {estimate.method}"
                found.setdefault(clause, []).append(family.title)
    return list(found.items())
