"""The result of a survey or a check as Markdown, short enough for a pull request.

It has the answer in one sentence, a table of the families with the reason of each verdict, the
target with its held-out score in one line, and the open questions of what is undecided. Text that
comes from users (names of data, of families and of networks) is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from capcheck.judging.answer import answer, because, printable
from capcheck.judging.profile import decided_by
from capcheck.judging.sentences import target_sentences
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Outcome
from capcheck.results.survey import SurveyResult

__all__ = ["inline", "markdown_summary"]

MARKS = {
    Outcome.REPRESENTABLE: "✅ representable",
    Outcome.NOT_REPRESENTABLE: "❌ not representable",
    Outcome.INCONCLUSIVE: "❔ inconclusive",
}
UNFINISHED = "⏳ lacks cells"
COLUMNS = ("family", "verdict", "smallest budget", "calls", "decided by", "because")


def markdown_summary(result: SurveyResult) -> str:
    """A summary of a result in Markdown that ends with a line break."""
    shown = [found for found in result.families if found.supported]
    lines = [inline(answer(result)), ""]
    if shown:
        lines += [_row(COLUMNS), "|---|---|---|---:|---|---|"]
        lines += [_row(map(inline, _cells(found, result))) for found in shown]
        lines.append("")
    lines.append(f"Target: {inline('; '.join(target_sentences(result.target)))}")
    open_ones = [found for found in shown if found.outcome is Outcome.INCONCLUSIVE]
    if open_ones:
        lines += ["", "Without a verdict:", ""]
        lines += [f"- {inline(found.title)}: {inline(found.reason)}" for found in open_ones]
    left_out = [found.title for found in result.families if not found.supported]
    if left_out:
        lines += ["", f"Not defined for this target: {inline(', '.join(left_out))}."]
    return "\n".join(lines) + "\n"


def inline(text: str) -> str:
    """Text that stands in a line or in a cell of a table as it is, without any markup of its own.

    Line breaks become spaces, and other characters that cannot be printed are replaced.
    """
    one_line = printable(" ".join(text.split()))
    return re.sub(r"([\\|`*_~&<>\[\]])", r"\\\1", one_line)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(found: FamilyResult, result: SurveyResult) -> tuple[str, ...]:
    """The cells of a family's row, by the order of `COLUMNS`."""
    budget, calls = "-", "-"
    if found.smallest_budget is not None and found.error is None:
        budget = str(found.smallest_budget)
        calls = f"{found.cell(found.smallest_budget).model_calls:,}"
    verdict = MARKS[found.outcome] if found.error is None else UNFINISHED
    by = decided_by(found, result.settings.tolerances) or "-"
    return found.title, verdict, budget, calls, by, because(found, result.settings)
