"""The share of a run's work that is done."""

from __future__ import annotations

import pytest

import capcheck
from capcheck.runs.options import Progress
from capcheck.targets.specs import from_spec


def test_shares_rise_to_1_and_large_budgets_are_most_of_a_family() -> None:
    told: list[Progress] = []
    capcheck.survey(
        from_spec("gaussian:ar1,tokens=4"),
        families=["gan", "mar"],
        steps=[1, 8],
        samples=200,
        network="none",
        progress=told.append,
    )
    shares = [one.share for one in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    counted = {one.done: one.share for one in told}  # the last share at each count
    last = max(counted)
    assert last == told[-1].total
    rises = {n: counted[n] - counted[n - 1] for n in range(1, last + 1) if n - 1 in counted}
    assert max(rises.values()) > 5 * min(rises.values())
