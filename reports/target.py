"""The section on the target: does the law stand for the data, and what do both look like?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from capcheck.reports.charts.chart import Chart
from capcheck.reports.charts.points import points_chart
from capcheck.reports.samples import Mosaic, are_images, mosaic
from capcheck.reports.texts import Text, text_of
from capcheck.results.survey import SurveyResult
from capcheck.targets.provenance import LawScore

__all__ = ["CHART", "WHOLE", "TargetView", "target_view"]

CHART = "target-samples"  # name of the chart of rows and samples
WHOLE = 0.9  # share of the dependence from which on a law stands for the data


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetView:
    """The target as it is shown.

    Attributes:
        short: Whether the law stands for the data, in a few words.
        good: Whether it does; None if it cannot be told, or if there is no data.
        follows: What follows for the verdicts, in a sentence.
        scores: The laws that were tried, the best first.
        mosaics: Pictures of rows of the data and of samples of the law.
        texts: Rows of the data and samples of the law as text.
        charts: The chart of both as points, if they are no images and no text.
    """

    short: str
    good: bool | None
    follows: str
    scores: tuple[LawScore, ...]
    mosaics: tuple[Mosaic, ...]
    texts: tuple[Text, ...]
    charts: dict[str, Chart]


def target_view(result: SurveyResult) -> TargetView:
    """The view of the target of a run."""
    target, held = result.target, result.target.provenance.held_out
    short, good, follows = _judged(result)
    rows, samples = target.provenance.data_rows, target.examples
    groups: list[tuple[str, Any]] = [("samples of the law", samples)]
    if len(rows):
        groups.append(("rows of your data", rows))
    words = target.provenance.vocabulary
    pictured = words is None and are_images(target)
    plane = words is None and not pictured and len(rows) > 0
    scores = () if held is None else _distinct(held.candidates)
    return TargetView(
        short=short,
        good=good,
        follows=follows,
        scores=tuple(sorted(scores, key=lambda one: -(one.log_likelihood or -float("inf")))),
        mosaics=tuple(mosaic(title, own, target) for title, own in groups) if pictured else (),
        texts=() if words is None else tuple(text_of(t, own, None, words) for t, own in groups),
        charts={CHART: points_chart(groups, "the data")} if plane else {},
    )


def _distinct(scores: Sequence[LawScore]) -> list[LawScore]:
    """The scores without those of baselines that are the chosen law itself."""
    chosen = [one.log_likelihood for one in scores if one.chosen]
    return [one for one in scores if not (one.baseline and one.log_likelihood in chosen)]


def _judged(result: SurveyResult) -> tuple[str, bool | None, str]:
    """Whether the law stands for the data in a few words, and what follows for the verdicts."""
    provenance = result.target.provenance
    held = provenance.held_out
    if provenance.exactness != "fitted surrogate":
        return (
            "known law, not data",
            None,
            "The target is a law in closed form, so that nothing stands between it and the "
            "verdicts. They hold for your data as far as this law does.",
        )
    if held is None:
        return (
            "not tested on unseen rows",
            None,
            "No rows could be held out, so that nothing tells how well the law predicts unseen "
            "rows. The verdicts hold for the law.",
        )
    if held.memorises:
        better = max(
            (one for one in held.candidates if one.log_likelihood is not None),
            key=lambda one: one.log_likelihood or -math.inf,
            default=None,
        )
        other = f", such as {better.name}," if better and not better.baseline else ""
        return (
            f"no: {held.baseline_name} predicts unseen rows better",
            False,
            f"The law memorises its rows: {held.baseline_name} would predict unseen rows better. "
            f"The verdicts hold for the law and say little about your data. Choose another --law"
            f"{other} or give more rows.",
        )
    share = None if held.dependence is None else held.dependence.share
    holds = ""
    if held.dependence is not None and share is not None:
        gram = f"{held.dependence.order + 1}-gram"
        holds = f", and holds {share:.0%} of the dependence that n-grams find ({gram})"
    whole = share is None or share >= WHOLE
    return (
        f"{'as far as tested' if whole else 'in part'}: the law predicts unseen rows better than "
        f"{held.baseline_name}{holds}",
        True if whole else None,
        f"The law predicts unseen rows better than {held.baseline_name} would{holds}. A procedure "
        "that cannot produce it misses something that is in your data as far as this law has it; "
        "what the law lacks is not tested.",
    )
