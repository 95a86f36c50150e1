"""Parts of a divergence: paired differences, infinities and values that could not be had."""

from __future__ import annotations

import math

import numpy as np
import pytest

from capcheck.core.budget import Budget
from capcheck.divergences.estimate import Estimate, Term
from capcheck.judging.gap import decompose
from capcheck.results.gap import Gap, Part

UNIT = "nats per sequence"
BUDGET = Budget(length=1, steps=1)


def gap(before: Estimate, after: Estimate) -> Gap:
    stages = [("structural", before), ("network", after)]
    return decompose("kl", stages, budget=BUDGET, level=0.95)  # type: ignore[arg-type]


def network(before: Estimate, after: Estimate) -> Part:
    part = gap(before, after).part("network")
    assert part is not None
    return part


def estimate(rows: np.ndarray) -> Estimate:
    term = Term.from_influence("KL", float(rows.mean()), [rows])
    return Estimate.of(
        [term], level=0.95, kind="estimate", method="test", samples=len(rows), unit=UNIT
    )


def test_paired_parts_cover_and_are_narrower_than_their_ends() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        shared = rng.normal(1, 3, 1000)
        before, after = shared, shared + rng.normal(0.2, 0.3, 1000)
        part = network(estimate(before), estimate(after))
        covered += part.low <= 0.2 <= part.high
        end = estimate(after)
        assert end.high is not None
        assert end.low is not None
        assert part.high - part.low < 0.5 * (end.high - end.low)
    assert 182 <= covered <= 198  # 95% of 200, within three standard errors


def test_parts_follow_the_term_that_decides_the_total_and_add_up_to_it() -> None:
    rng = np.random.default_rng(2)

    def largest_of(first: float, second: float) -> Estimate:
        rows = [rng.normal(mean, 1, 400) for mean in (first, second)]
        terms = [Term.from_influence(str(i), float(r.mean()), [r]) for i, r in enumerate(rows)]
        return Estimate.of(
            terms, level=0.95, kind="estimate", method="test", samples=400, unit=UNIT
        )

    before, after = largest_of(1, 0), largest_of(2, 5)
    found = gap(before, after)
    values = {part.name: part.value for part in found.parts}
    assert values["structural"] == before.terms[1].value  # not the largest one before
    assert values["total"] == after.value
    assert values["structural"] + values["network"] == pytest.approx(values["total"], abs=1e-12)


def test_an_exact_end_stands_for_every_term_and_infinities_have_no_parts() -> None:
    rows = np.random.default_rng(1).normal(1, 1, 500)
    zero = Estimate.exact(0.0, level=0.95, method="test", unit=UNIT, scale=1, power=1)
    assert network(zero, estimate(rows)).value == pytest.approx(rows.mean())
    infinite = Estimate.exact(math.inf, level=0.95, method="test", unit=UNIT, scale=1, power=1)
    assert network(zero, infinite).value == math.inf
    assert gap(infinite, infinite).parts == ()
    assert gap(infinite, zero).reason == "structural: it is infinite"
    assert str(network(zero, infinite)) == "+inf"


def test_what_cannot_be_told_says_why() -> None:
    zero = Estimate.exact(0.0, level=0.95, method="test", unit=UNIT, scale=1, power=1)
    missing = Estimate.unavailable("no density", level=0.95, unit=UNIT)
    assert gap(missing, zero).parts == ()
    assert gap(missing, zero).reason == "structural: no density"
    (bound,) = estimate(np.random.default_rng(0).normal(1, 1, 100)).terms
    bounds = Estimate.of(
        [],
        below=[bound],
        above=[bound.scaled(2)],
        level=0.95,
        kind="two bounds",
        method="test",
        samples=100,
        unit=UNIT,
    )
    assert gap(zero, bounds).reason == "network: it is known between two bounds only"
    rows = np.random.default_rng(0).normal(1, 1, 100)
    (term,) = estimate(rows).terms
    certified = Estimate.of(
        [term], above=[bound.scaled(0.5)], level=0.95, kind="estimate", method="test",
        samples=100, unit=UNIT,
    )  # fmt: skip
    assert certified.value != term.value
    assert gap(zero, certified).reason == "its parts are measured in different ways"


def test_where_an_estimate_falls_short_of_a_certificate_that_is_followed() -> None:
    rng = np.random.default_rng(4)
    first, shift = rng.normal(1, 0.5, 400), rng.normal(1, 0.1, 400)

    def short(rows: np.ndarray, of: float) -> Estimate:
        term = Term.from_influence("W1", float(rows.mean()) * of, [rows * of])
        proof = Term.from_influence("marginals", float(rows.mean()), [rows])
        return Estimate.of(
            [term], below=[proof], level=0.95, kind="lower bound", method="test", samples=400,
            unit=UNIT,
        )  # fmt: skip

    found = gap(short(first, 0.5), short(first + shift, 0.5))
    parts = {part.name: part for part in found.parts}
    assert parts["total"].value == pytest.approx((first + shift).mean())
    assert parts["network"].low < 1 < parts["network"].high
    assert parts["network"].high - parts["network"].low < 0.05
    assert found.reason == "parts of lower bounds"


def test_numerics_are_paired_and_come_on_top_of_the_best_that_is_known() -> None:
    rng = np.random.default_rng(3)
    exact = Estimate.exact(0.5, level=0.95, method="test", unit=UNIT, scale=1, power=1)
    covered = 0
    for _ in range(200):
        shared = rng.normal(0.5, 3, 1000)
        draws = estimate(shared), estimate(shared + rng.normal(0.2, 0.3, 1000))
        found = decompose("kl", [("structural", exact)], budget=BUDGET, level=0.95, digits=draws)
        parts = {part.name: part for part in found.parts}
        assert parts["structural"].value + parts["numerics"].value == pytest.approx(
            parts["total"].value, abs=1e-12
        )
        covered += parts["total"].low <= 0.7 <= parts["total"].high
        assert parts["total"].high - parts["total"].low < 0.1  # not that of the draws alone
    assert 182 <= covered <= 198


def test_rows_that_do_not_differ_are_no_certainty() -> None:
    def ones(value: float) -> Estimate:
        term = Term.from_influence("all alike", value, [np.zeros(100)], reach=2.0)
        return Estimate.of(
            [term], level=0.95, kind="estimate", method="test", samples=100, unit=UNIT
        )

    assert network(ones(0.0), ones(0.0)).high == 0.0
    moved = network(ones(0.0), ones(0.1))
    assert moved.low < 0.1 < moved.high
    structural = gap(ones(0.0), ones(0.1)).part("structural")
    assert structural is not None
    assert structural.high > 0
