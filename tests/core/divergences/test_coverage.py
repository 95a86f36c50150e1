"""Intervals cover what they are said to cover: a part of the table of tests/benchmarks/coverage.py.

A row of that table is at 95%; of 100 runs, fewer than 88 have a chance of about one in a thousand.
"""

from __future__ import annotations

import pytest
from benchmarks import coverage
from benchmarks.coverage import Case, covered, gaussian_cases

from capcheck.divergences.estimate import Term

CASES = [
    *gaussian_cases(2, "equal", 0.0, 1.0),
    *gaussian_cases(2, "small", 0.1, 0.95),
    *gaussian_cases(16, "medium", 0.3, 0.8),
    *gaussian_cases(64, "large", 1.0, 0.4),
    *coverage.categorical(),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_intervals_cover(case: Case) -> None:
    assert covered(case, 100) >= 0.88


def test_an_interval_that_is_too_narrow_is_noticed() -> None:
    honest = next(case for case in CASES if case.name.startswith("KL by log-density, small"))

    def narrow(run: int) -> Term:
        term = honest.run(run)
        return term.model_copy(update={"standard_error": 0.6 * term.standard_error})

    claimed = Case(name="too narrow", run=narrow, estimand=honest.estimand)
    assert covered(claimed, 100) < 0.88
