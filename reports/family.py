"""The view of one family: its row of the first screen, and its section of the report."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from capcheck.core.budget import AXES
from capcheck.core.sequences import Kind
from capcheck.divergences import DIVERGENCES
from capcheck.judging.answer import because
from capcheck.judging.extrapolation import sufficient
from capcheck.judging.profile import decided_by, profile
from capcheck.judging.qualities import QualityTable, quality_table
from capcheck.judging.resolution import available, tolerance_in_unit
from capcheck.judging.sentences import (
    blame_sentence,
    missing_parts_sentence,
    network_sentence,
    parts_used,
    precision_lines,
    sensitivity_sentence,
    speculation_sentences,
)
from capcheck.procedures.listing import FamilyFacts, listed_families
from capcheck.procedures.rows import ROW_TITLES
from capcheck.reports.card import Card, card
from capcheck.reports.charts.chart import Chart
from capcheck.reports.charts.curves import curves_chart
from capcheck.reports.charts.gaps import gap_chart
from capcheck.reports.charts.heat import heat_chart
from capcheck.reports.charts.points import points_chart
from capcheck.reports.charts.witness import pairs_chart
from capcheck.reports.page import pointer
from capcheck.reports.samples import Mosaic, are_images, chosen_cells, mosaic
from capcheck.reports.sparkline import sparkline
from capcheck.reports.tables import CellGroup, GapRow, cell_groups, gap_rows
from capcheck.reports.texts import Text, texts
from capcheck.results.family import WITHOUT_KL, FamilyResult
from capcheck.results.survey import SurveyResult

__all__ = ["FamilyView", "family_views"]

NOT_MEASURED = "not measured"
NARROW = (
    (" times its ", " × "),
    ("defined for categorical tokens, not continuous ones", "for token ids only"),
    ("defined for continuous tokens, not categorical ones", "for numbers only"),
)
CELLS = 40  # most groups of cells that the table of a family shows


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyView:
    """A family as it is shown.

    Attributes:
        result: Its result.
        anchor: Name of its section in the page.
        record: JSON pointer of its result.
        name: Its name in the table: that of the network if it is not the oracle.
        beside: Whether its network is not the oracle.
        word: The verdict: can, cannot, undecided or not measured.
        mark: Mark of the verdict.
        note: Mark of a verdict without KL, or empty.
        calls: Model calls of the smallest sufficient budget, or None.
        calls_record: JSON pointer of the calls.
        measured: Title of the measured row of the paper's table, or None if it is undecided.
        decided_by: Short name of the divergence that decided, or empty.
        because: The reason in a clause.
        spark: The sparkline.
        charts: Its charts, by the names of their places.
        cells: Its cells, those of equal numbers together.
        tolerances: Tolerance of each available divergence in its unit, as text.
        left_out: Number of groups of cells that its table does not show.
        mosaics: Pictures of samples.
        texts: Samples as text.
        card: Source, assumption and known facts of the family; None for one without a card.
        options: Its options, as text.
        qualities: The table of what its draws are like, or None.
        lines: Further sentences: network, blame, drafts, rates.
        parts: Names of the parts of its gaps.
        gaps: Rows of the table of gaps.
        sensitivities: Results with errors of the oracle, with their sentences.
    """

    result: FamilyResult
    anchor: str
    record: str
    name: str
    beside: bool
    word: str
    mark: str
    note: str
    calls: int | None
    calls_record: str
    measured: str | None
    decided_by: str
    because: str
    spark: Markup
    charts: dict[str, Chart]
    cells: tuple[CellGroup, ...]
    tolerances: dict[str, str]
    left_out: int
    mosaics: tuple[Mosaic, ...]
    texts: tuple[Text, ...]
    card: Card | None
    options: str
    qualities: QualityTable | None
    lines: tuple[str, ...]
    parts: tuple[str, ...]
    gaps: tuple[GapRow, ...]
    sensitivities: tuple[tuple[Any, str], ...]

    @property
    def key(self) -> str:
        """The verdict as a name without spaces."""
        return self.word.replace(" ", "-")


def family_views(result: SurveyResult) -> list[FamilyView]:
    """The views of all families of a run, in its order."""
    facts = {one.family: one for one in listed_families()}
    anchors: dict[str, int] = {}
    views = []
    for index, found in enumerate(result.families):
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", found.family) or "family"
        again = anchors.setdefault(name, 0)
        anchors[name] += 1
        anchor = f"family-{name}" + (f"-{again}" if again else "")
        views.append(_view(found, index, anchor, result, facts.get(found.family)))
    return views


def _view(
    found: FamilyResult, index: int, anchor: str, result: SurveyResult, facts: FamilyFacts | None
) -> FamilyView:
    record = pointer("families", index)
    smallest = found.smallest_budget
    place = next((j for j, cell in enumerate(found.cells) if cell.budget == smallest), None)
    used = parts_used(found)
    groups = cell_groups(found.cells, record)
    shown = groups if len(groups) <= CELLS else [*groups[: CELLS - 1], groups[-1]]
    word = NOT_MEASURED if found.error else found.outcome.word
    return FamilyView(
        result=found,
        anchor=anchor,
        record=record,
        name=found.family if found.network == "oracle" else found.network,
        beside=found.network != "oracle",
        word=word,
        mark="–" if found.error else found.outcome.mark,
        note=f" {WITHOUT_KL}" if found.without_kl else "",
        calls=None if place is None else found.cells[place].model_calls,
        calls_record=record + pointer("cells", place or 0, "model_calls"),
        measured=None if found.measured_row is None else ROW_TITLES[found.measured_row],
        decided_by=decided_by(found, result.settings.tolerances),
        because=_narrow(because(found, result.settings)),
        spark=sparkline(profile(found, result.settings.tolerances)),
        charts=_charts(found, anchor, result),
        cells=tuple(shown),
        tolerances=_tolerances(found, result),
        left_out=len(groups) - len(shown),
        mosaics=_mosaics(found, result),
        texts=texts(found, result),
        card=None if facts is None else card(facts),
        options=", ".join(f"{k} = {v}" for k, v in found.plan.options.items() if v is not None),
        qualities=quality_table(found),
        lines=tuple(_lines(found, result.target.kind)),
        parts=tuple(used),
        gaps=tuple(gap_rows(found, used, record)),
        sensitivities=tuple((one, sensitivity_sentence(one)) for one in found.sensitivities),
    )


def _tolerances(found: FamilyResult, result: SurveyResult) -> dict[str, str]:
    return {
        name: f"{tolerance_in_unit(estimate, result.settings.tolerances[name]):.3g}"
        for cell in reversed(found.cells)
        for name, estimate in available(cell).items()
    }


def _narrow(reason: str) -> str:
    """A reason in words that take less room."""
    for words, fewer in NARROW:
        reason = reason.replace(words, fewer)
    return reason


def _lines(found: FamilyResult, kind: Kind) -> Iterable[str]:
    """Sentences that say who is to blame, which network it is, and how its drafts fare."""
    if found.disagreement:
        yield f"{'undecided' if found.measured_row is None else 'differs'}: {found.disagreement}"
    for cause in found.causes:
        lead = "cause" if cause.removed else "not the cause alone"
        yield f"{lead}: {cause.failure}; {cause.sentence}"
    yield from found.notes
    if blame := blame_sentence(found):
        yield blame
    if found.facts is not None:
        yield f"network: {network_sentence(found.facts)}"
    yield from speculation_sentences(found)
    rates = [rate for rate in found.rates if rate.value is not None and rate.value > 0]
    for rate in rates:
        label = DIVERGENCES[kind][rate.divergence].label
        yield f"rate: {label} falls like {rate.axis} to the power −{rate} ({rate.reason})"
    yield from precision_lines(found)
    if missing := missing_parts_sentence(found):
        yield missing


def _charts(found: FamilyResult, anchor: str, result: SurveyResult) -> dict[str, Chart]:
    """The charts of a family's section."""
    if not found.cells:
        return {}
    charts: dict[str, Chart] = {}
    beyond = sufficient(found, result.settings.tolerances)
    for axis in AXES:
        if len({getattr(cell.budget, axis) for cell in found.cells}) > 1:
            charts[f"{axis}-{anchor}"] = curves_chart(found, axis, result, beyond)
    if len(found.cells) > 1:
        charts[f"heat-{anchor}"] = heat_chart(found, result)
    for name in result.settings.tolerances:
        if any(gap.parts for gap in found.gaps if gap.divergence == name):
            charts[f"gap-{name}-{anchor}"] = gap_chart(found, name, result)
    witness = found.cells[-1].witness
    if witness is not None and witness.pairs:
        charts[f"pairs-{anchor}"] = pairs_chart(witness, result.target.tokens, result.target.kind)
    if result.target.provenance.vocabulary is None and not are_images(result.target):
        charts[f"samples-{anchor}"] = points_chart(_sample_groups(found, result), found.title)
    return charts


def _sample_groups(found: FamilyResult, result: SurveyResult) -> list[tuple[str, Any]]:
    """Samples of the target and of some budgets, with their titles."""
    groups = [(str(cell.budget), cell.examples) for cell in chosen_cells(found)]
    return [("target", result.target.examples), *groups]


def _mosaics(found: FamilyResult, result: SurveyResult) -> tuple[Mosaic, ...]:
    target = result.target
    if not found.cells or target.provenance.vocabulary is not None or not are_images(target):
        return ()
    groups = _sample_groups(found, result)
    return tuple(mosaic(title, rows, target) for title, rows in groups if len(rows))
