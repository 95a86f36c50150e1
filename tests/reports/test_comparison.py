"""The page of a comparison: self-contained, escaped, and true to what was found."""

from __future__ import annotations

import math
import re

import pytest

from capcheck import Budget, Outcome
from capcheck.pipeline.comparison import CellChange, Change, Comparison, FamilyChange
from capcheck.reports.comparison import render

HOSTILE = "<script>alert(1)</script>"


def cell(change: float | None, verdict: Change, width: float = 0.1) -> CellChange:
    ends = (None, None) if change is None else (change - width, change + width)
    return CellChange(
        budget=Budget(length=4, steps=1),
        before_budget=Budget(length=4, steps=1),
        divergence="kl",
        before=1.0,
        after=None if change is None else 1.0 + change,
        unit="nats",
        change=change,
        low=ends[0],
        high=ends[1],
        allowed=0.2,
        verdict=verdict,
        reason="it is unavailable" if change is None else "",
    )


def page(*cells: CellChange, verdict: Change = "worse") -> str:
    family = FamilyChange(
        title=HOSTILE,
        outcomes=(Outcome.REPRESENTABLE, Outcome.NOT_REPRESENTABLE),
        smallest=(Budget(length=4, steps=1), None),
        calls=(4, None),
        cells=cells,
        verdict=verdict,
        reasons=("so",),
    )
    return render(
        Comparison(
            targets=(HOSTILE, HOSTILE),
            same_target=True,
            paired=True,
            margin=0.1,
            level=0.95,
            families=(family,),
            only_before=(HOSTILE,),
            only_after=(),
        )
    )


def test_a_page_loads_nothing_and_escapes_every_name() -> None:
    text = page(cell(1.0, "worse"))
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=\"(?!#)", text)
    assert "default-src 'none'" in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("change", [0.0, 1e-9, 5.0, -5.0, 1e12])
def test_a_change_stands_within_its_place(change: float) -> None:
    text = page(cell(change, "open"))
    places = [float(x) for x in re.findall(r"(?:cx|x1|x2)=\"([\d.-]+)\"", text)]
    assert places
    assert all(0 <= place <= 243 for place in places)


def test_what_cannot_be_subtracted_says_why() -> None:
    assert "it is unavailable" in page(cell(None, "open"))
    infinite = cell(None, "worse").model_copy(update={"after": math.inf, "reason": ""})
    assert "infinite on one side" in page(infinite)


def test_the_first_sentence_says_what_got_worse() -> None:
    text = page(cell(1.0, "worse"))
    assert re.search(r'class="lead">Worse: &lt;script', text)
    assert "nothing got worse" in page(verdict="same").lower()
