"""The charts of a report as files: one picture for each, for slides and papers.

A chart leaves the page with the colours of a light background and a width of 720 pixels. Pictures
of samples and tables stay in the page.
"""

from __future__ import annotations

import re

from capcheck.reports.charts.chart import Chart, png, svg
from capcheck.reports.decoding import charts as decoding_charts
from capcheck.reports.html import charts as survey_charts
from capcheck.results.decoding import DecodingPlan
from capcheck.results.survey import SurveyResult

__all__ = ["render_png", "render_svg"]


def render_svg(result: SurveyResult | DecodingPlan) -> dict[str, bytes]:
    """Draws every chart of a result; returns SVG by file name."""
    return {f"{name}.svg": svg(chart).encode() for name, chart in _charts(result).items()}


def render_png(result: SurveyResult | DecodingPlan) -> dict[str, bytes]:
    """Draws every chart of a result; returns PNG by file name, in twice the pixels of a screen."""
    return {f"{name}.png": png(chart) for name, chart in _charts(result).items()}


def _charts(result: SurveyResult | DecodingPlan) -> dict[str, Chart]:
    if isinstance(result, DecodingPlan):
        return decoding_charts(result)
    found = survey_charts(result)
    return {re.sub(r"-family-|/", "-", name): chart for name, chart in found.items()}
