"""Samples as text, with the tokens marked that the target would hardly place there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from capcheck.diagnostics.improbable import Places
from capcheck.reports.samples import chosen_cells
from capcheck.results.family import FamilyResult
from capcheck.results.survey import SurveyResult

__all__ = ["SHOWN", "Text", "text_of", "texts"]

SHOWN = 10  # most samples of one budget, or of the target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """Samples of one budget, or of the target.

    Attributes:
        title: The budget.
        lines: Samples, each as pieces of text and whether the piece is wrong.
        wrong: Share of marked tokens, or None if it is not known which are wrong.
    """

    title: str
    lines: tuple[tuple[tuple[str, bool], ...], ...]
    wrong: float | None


def texts(found: FamilyResult, result: SurveyResult) -> tuple[Text, ...]:
    """Samples of the target and of the smallest, a middle and the largest distinct budget.

    Empty if the tokens of the target have no names.
    """
    words = result.target.provenance.vocabulary
    if words is None or not found.cells:
        return ()
    own = text_of("target", result.target.examples, None, words)
    cells = chosen_cells(found)
    return (own, *(text_of(str(c.budget), c.examples, c.improbable, words) for c in cells))


def text_of(title: str, rows: Any, improbable: Places | None, words: Sequence[str]) -> Text:
    """Samples of token ids as text.

    Args:
        title: Title of the samples.
        rows: (rows, N) nested lists of token ids.
        improbable: Places of the wrong tokens of the first rows, or None if they are not known.
        words: Name of each token id.
    """
    known = [set(places) for places in improbable or ()][:SHOWN]
    lines = []
    for k, row in enumerate(rows[:SHOWN]):
        wrong = known[k] if k < len(known) else set()
        tokens = [(words[token], place in wrong) for place, token in enumerate(row)]
        pieces = itertools.groupby(tokens, lambda token: token[1])
        lines.append(tuple(("".join(word for word, _ in own), mark) for mark, own in pieces))
    count = sum(len(row) for row in rows[: len(known)])
    share = sum(map(len, known)) / count if count else None
    return Text(title=title, lines=tuple(lines), wrong=share)
