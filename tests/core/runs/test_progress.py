"""The share of a run's work that is done."""

from __future__ import annotations

import pytest

import capcheck
from capcheck.runs.options import Progress
from capcheck.runs.progress import ProgressCounter
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


def test_cells_of_other_processes_count_as_soon_as_they_are_measured() -> None:
    told: list[Progress] = []
    elsewhere = ["b", "not of this run"]
    counter = ProgressCounter(told.append, {"a": 0.25, "b": 0.5, "c": 0.25})
    counter.follow(lambda: elsewhere)
    counter.advance([], "begun")
    elsewhere.append("c")
    counter.advance(["a"], "a")  # it does not look again at once
    counter.follow(lambda: elsewhere)
    counter.advance([], "waiting")
    assert [one.done for one in told] == [1, 2, 3]
    assert [one.share for one in told] == pytest.approx([0.5, 0.75, 1])
    assert told[0].total == 3
