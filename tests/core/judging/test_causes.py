"""Whether more draws might show what a suspect of a floor does."""

from __future__ import annotations

import pytest
from judged import TOLERANCES, between, cell, family, sampled, settings_of

from capcheck.divergences.estimate import Estimate
from capcheck.judging.causes import more_draws_would_show

FLOOR = family(cell(8, kl=sampled(1.0, 0.05))).cells[-1]  # the tolerance is 0.5


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (sampled(0.6, 0.2), True),  # half of the error ends below the floor's 0.9
        (sampled(0.85, 0.3), True),  # it would still be refused
        (sampled(0.7, 0.9), False),  # neither below 0.9 nor above 0.5 with half of the error
        (sampled(0.4, 1.5), False),
        (between(-0.6, 2.2), False),
        (Estimate.unavailable("", level=0.95, unit=""), False),
    ],
)
def test_more_draws_are_made_where_they_should_show_something(kl: Estimate, expected: bool) -> None:
    tried = cell(8, kl=kl)
    settings = settings_of([tried], TOLERANCES)
    assert more_draws_would_show(tried, FLOOR, settings, samples=400) is expected
