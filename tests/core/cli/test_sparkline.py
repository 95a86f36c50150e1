from __future__ import annotations

import math

import pytest

from capcheck.cli.sparkline import ASCII, BLOCKS, FAR, LONGEST, sparkline
from capcheck.core.budget import Budget
from capcheck.judging.profile import ProfilePoint
from capcheck.results.measurement import Outcome

CAN, CANNOT = Outcome.REPRESENTABLE, Outcome.NOT_REPRESENTABLE
OPEN = Outcome.INCONCLUSIVE


def points(*found: tuple[float, Outcome]) -> list[ProfilePoint]:
    return [
        ProfilePoint(
            calls=i, budget=Budget(length=1, steps=1), multiple=multiple, low=None, high=None,
            kind="exact", outcome=outcome,
        )
        for i, (multiple, outcome) in enumerate(found)
    ]  # fmt: skip


def test_heights_are_logarithms_of_multiples() -> None:
    # Six blocks from 1 to 100: each is a factor of 100^(1/6) = 2.15.
    above = [1.01, 2.1, 2.2, 4.6, 4.7, 9.9, 10.1, 21.5, 21.6, 46.4, 46.5, 99.9]
    levels = [BLOCKS.index(sparkline(points((m, CANNOT))).plain) for m in above]
    assert levels == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert sparkline(points((FAR, CANNOT), (1e9, CANNOT), (math.inf, CANNOT))).plain == "███"


def test_the_lowest_block_is_kept_for_what_passes() -> None:
    assert sparkline(points((1.0, CAN), (0.0, CAN), (-0.1, CAN))).plain == "▁▁▁"
    assert sparkline(points((1.0, OPEN), (0.3, OPEN))).plain == "▂▂"


def test_colours_are_those_of_the_verdicts() -> None:
    text = sparkline(points((9.0, CANNOT), (1.1, OPEN), (0.5, CAN)))
    assert [str(span.style) for span in text.spans] == ["red", "yellow", "green"]


def test_ascii_has_as_many_levels() -> None:
    assert len(ASCII) == len(set(ASCII)) == len(BLOCKS)
    assert ASCII.isascii()
    assert sparkline(points((0.5, CAN), (1e9, CANNOT)), blocks=ASCII).plain == "_#"


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
def test_of_many_points_the_ends_are_kept(count: int) -> None:
    line = sparkline(points((1e9, CANNOT), *[(2.0, CANNOT)] * (count - 2), (0.1, CAN))[-count:])
    assert len(line) == min(count, LONGEST)
    assert line.plain[-1] == "▁"
    if count > 1:
        assert line.plain[0] == "█"


def test_nothing_measured_is_an_empty_line() -> None:
    assert sparkline([]).plain == ""
