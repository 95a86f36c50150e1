"""Decoding plans: their schedules by brute force, their intervals by scipy, and honest prices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference.information import schedules
from scipy import optimize, stats

from capcheck import DecodingPlan, InputError, Progress, check, decoding_plan, save, survey
from capcheck.exact.information_curve import measured_curve
from capcheck.procedures.unmasking_schedules import best_schedules
from capcheck.results.decoding import Quantity
from capcheck.runs.store import Store
from capcheck.targets import MarkovChain, Target, from_spec
from capcheck.targets.conditional import conditional


def order_2(seed: int, tokens: int) -> MarkovChain:
    """A random chain of bits, each of which depends on the last two: no curve in closed form."""
    rng = np.random.default_rng(seed)
    tables = [rng.dirichlet([1, 1], size=(2,) * j) for j in range(3)]
    return MarkovChain([torch.tensor(table) for table in tables], tokens=tokens)


def independent(tokens: int) -> MarkovChain:
    """Bits that are 1 with probability 0.8, written as a chain of order 2: all prices are 0."""
    p = torch.tensor([0.2, 0.8], dtype=torch.float64)
    tables = [p.expand(*[2] * j, 2).contiguous() for j in range(3)]
    return MarkovChain(tables, tokens=tokens)


def calls_of(plan: DecodingPlan) -> list[int]:
    """Numbers of calls of the prices, which come in threes."""
    assert [one.rule for one in plan.prices[:3]] == ["uniform", "cosine", "best"]
    calls = [one.calls for one in plan.prices]
    assert calls[::3] == calls[1::3] == calls[2::3]
    return calls[::3]


@pytest.fixture(scope="module")
def measured() -> DecodingPlan:
    return decoding_plan(order_2(0, 16), samples=32, seed=5)


# Which schedules are priced


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("copy:tokens=1", [1]),
        ("copy:tokens=2", [1, 2]),
        ("parity:6", [1, 2, 4, 6]),
        ("replacement:8", [1, 2, 4, 8]),
        ("ising:rows=256,columns=1", [1, 2, 4, 8, 16, 32, 64, 128, 256]),
        ("gaussian:tokens=256", [1, 2, 4, 8, 16, 32, 64, 256]),  # no closed form: up to 64
    ],
)
def test_by_default_powers_of_two_are_priced(spec: str, expected: list[int]) -> None:
    plan = decoding_plan(from_spec(spec), samples=16)
    assert calls_of(plan) == expected
    assert plan.exact != spec.startswith("gaussian")
    for price in plan.prices:
        assert sum(price.placed) == plan.tokens
        assert min(price.placed) >= 1


def test_calls_are_priced_once_in_rising_order() -> None:
    plan = decoding_plan(from_spec("parity:6"), calls=(4, 2, 2))
    assert calls_of(plan) == [2, 4]
    assert plan.price(3, "best") is None


def test_steps_may_begin_anywhere_that_the_calls_ask_for() -> None:
    plan = decoding_plan(from_spec("gaussian:tokens=100"), calls=[7, 99], samples=16)
    assert calls_of(plan) == [7, 99]
    assert len(plan.sizes) == len(plan.curve) >= 99


def test_two_calls_on_parity_have_the_prices_of_arithmetic() -> None:
    # h = ln 2 up to m = 4, and 0 at m = 5: H = 5 ln 2. Steps of 3 and 3 tokens lose
    # 3 ln 2 + 3 ln 2 - 5 ln 2 = ln 2 nats per sequence; those of 5 and 1 lose nothing.
    plan = decoding_plan(from_spec("parity:6"), calls=[2])
    uniform, best = plan.price(2, "uniform"), plan.price(2, "best")
    assert uniform is not None
    assert best is not None
    assert (uniform.placed, best.placed) == ((3, 3), (5, 1))
    assert uniform.kl.value == pytest.approx(math.log(2) / 6, abs=1e-12)
    assert not uniform.suffices
    assert str(best.kl) == "0"
    assert best.suffices
    assert plan.cheapest == best
    assert plan.entropy.value == pytest.approx(5 * math.log(2), abs=1e-12)
    assert plan.total_correlation.value == pytest.approx(math.log(2), abs=1e-12)
    assert plan.dual_total_correlation.value == pytest.approx(5 * math.log(2), abs=1e-12)


@pytest.mark.parametrize("tolerance", [1e-3, 0.01, 0.1, 10.0])
@pytest.mark.parametrize(
    "spec",
    ["parity:6", "copy:6", "shuffle:6", "replacement", "brackets:8", "ising:rows=4,columns=2"],
)
def test_the_cheapest_suffices_and_no_schedule_of_fewer_calls_does(
    spec: str, tolerance: float
) -> None:
    plan = decoding_plan(from_spec(spec), tolerance=tolerance)
    N, h = plan.tokens, [one.value for one in plan.curve]
    costs: dict[int, float] = {}  # least KL per token by number of calls
    for schedule in schedules(N):
        steps = list(itertools.pairwise(schedule))
        kl = (sum((b - a) * h[a] for a, b in steps) - plan.entropy.value) / N
        costs[len(steps)] = min(kl, costs.get(len(steps), math.inf))
    calls = plan.cheapest.calls
    assert plan.cheapest.suffices
    assert plan.cheapest.kl.high <= tolerance
    assert plan.cheapest.kl.value == pytest.approx(costs[calls], abs=1e-10)
    assert all(costs[fewer] > tolerance for fewer in range(1, calls))
    if calls > 1:
        best = decoding_plan(from_spec(spec), calls=[calls - 1], tolerance=tolerance).prices[-1]
        assert best.rule == "best"
        assert not best.suffices
        assert best.kl.value == pytest.approx(costs[calls - 1], abs=1e-10)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calls": [0]}, "calls must be a whole number of at least 1, got 0"),
        ({"calls": [2, 7]}, "calls must be at most 6, got 7"),
        ({"calls": [1.5]}, "calls must be a whole number .*, got 1.5"),
        ({"calls": []}, "calls needs at least one number from 1 to 6, got none"),
        ({"tolerance": 0}, "tolerance must be positive and finite, got 0"),
        ({"tolerance": math.nan}, "tolerance must be positive and finite, got nan"),
        ({"tolerance": math.inf}, "tolerance must be positive and finite, got inf"),
        ({"level": 1}, "level must be between 0 and 1, got 1"),
        ({"level": math.nan}, "level must be between 0 and 1, got nan"),
        ({"samples": 3}, "samples must be a whole number of at least 16, got 3"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": 2**63}, "seed must be at most 9223372036854775807"),
    ],
)
def test_arguments_that_cannot_be_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        decoding_plan(from_spec("parity:6"), **arguments)


def test_a_law_of_each_row_is_refused() -> None:
    target = conditional(from_spec("parity:6"), [0], torch.tensor([[0], [1]]))
    with pytest.raises(InputError, match="decoding_plan needs one law for all rows"):
        decoding_plan(target)


# Plans as data


@pytest.mark.parametrize("target", [from_spec("shuffle:4"), order_2(1, 14)], ids=["list", "chain"])
def test_a_seed_makes_one_plan_that_json_keeps(target: Target) -> None:
    plan = decoding_plan(target, samples=16, seed=3)
    assert decoding_plan(target, samples=16, seed=3) == plan
    assert DecodingPlan.model_validate(plan.to_json()) == plan
    other = decoding_plan(target, samples=16, seed=4)
    assert (other.curve == plan.curve) == plan.exact
    assert other.seed == 4


def test_progress_is_told_from_0_to_1() -> None:
    told: list[Progress] = []
    decoding_plan(order_2(0, 14), samples=16, progress=told.append)
    shares = [one.share for one in told]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)
    assert {one.total for one in told} == {100}


# Intervals


def everything(plan: DecodingPlan) -> list[Quantity]:
    """All numbers of a plan that have an interval, but those of one token at a time."""
    prices = [one.kl for one in plan.prices if one.calls < plan.tokens]
    return [*plan.curve, *prices, plan.entropy, plan.total_correlation, plan.dual_total_correlation]


def test_an_exact_plan_has_points_and_a_measured_one_intervals(measured: DecodingPlan) -> None:
    exact = decoding_plan(from_spec("shuffle:5"))
    assert exact.exact
    assert all(one.low == one.value == one.high for one in everything(exact))
    assert not measured.exact
    assert "32 draws" in measured.method
    assert all(one.low < one.value < one.high for one in everything(measured))
    last = measured.prices[-1]
    assert (last.calls, str(last.kl), last.suffices) == (16, "0", True)
    one_by_one = decoding_plan(order_2(0, 16), samples=32, seed=5, tolerance=1e-9).cheapest
    assert one_by_one.placed == (1,) * 16


def test_a_strip_too_wide_for_a_closed_form_is_measured() -> None:
    plan = decoding_plan(from_spec("ising:rows=8,columns=8"), samples=32)
    assert not plan.exact
    # Without a field every spin is fair: h(0) = ln 2, and every row tells so.
    assert plan.curve[0].value == pytest.approx(math.log(2), abs=1e-10)
    assert all(one.low < one.high for one in everything(plan)[1:])


def check_interval(found: Quantity, rows: torch.Tensor, level: float) -> None:
    """The mean of the rows, and its t interval by scipy."""
    mean, error = float(rows.mean()), stats.sem(rows.numpy())
    low, high = stats.t.interval(level, len(rows) - 1, mean, error)
    assert (found.value, found.low, found.high) == pytest.approx((mean, low, high), abs=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_are_those_of_scipy_and_the_best_is_priced_by_other_rows(level: float) -> None:
    target = order_2(0, 16)
    plan = decoding_plan(target, samples=32, seed=5, level=level)
    curve = measured_curve(target, rows=32, seed=5)
    assert curve.rows is not None
    assert curve.row_entropies is not None
    for k, height in enumerate(plan.curve):
        check_interval(height, curve.rows[:, k], level)
    check_interval(plan.entropy, curve.row_entropies, level)
    check_interval(plan.total_correlation, 16 * curve.rows[:, 0] - curve.row_entropies, level)
    check_interval(plan.dual_total_correlation, curve.row_entropies - 16 * curve.rows[:, 15], level)
    for price in plan.prices:
        costs = curve.costs_by_row([0, *itertools.accumulate(price.placed)])
        assert costs is not None
        chosen = price.rule == "best" and price.calls > 1  # one call leaves nothing to choose
        pricing = costs[16:] if chosen else costs
        if price.calls < 16:
            check_interval(price.kl, pricing / 16, level)
    with pytest.raises(AssertionError):
        check_interval(plan.curve[1], curve.rows[:16, 1], level)


def test_the_best_is_chosen_by_the_rows_that_do_not_price_it(measured: DecodingPlan) -> None:
    rows = measured_curve(order_2(0, 16), rows=32, seed=5).rows
    assert rows is not None
    # No curve rises: the nearest that does not, by scipy, of the first 16 rows.
    h = optimize.isotonic_regression(rows[:16].mean(0).numpy(), increasing=False).x
    best = [one for one in measured.prices if one.rule == "best"]
    least = [value for value, _ in best_schedules(16, range(16), h)]
    for price in best:
        starts = [0, *itertools.accumulate(price.placed[:-1])]
        cost = float(h[starts] @ np.array(price.placed))
        plain = [one.placed for one in measured.prices if one.rule != "best"]
        assert price.placed in plain or cost == pytest.approx(least[price.calls - 1])


def test_a_schedule_suffices_by_the_upper_end_of_its_interval(measured: DecodingPlan) -> None:
    kl = measured.prices[0].kl
    assert kl.low < kl.value < kl.high
    for tolerance, suffices in (((kl.value + kl.high) / 2, False), (1.001 * kl.high, True)):
        plan = decoding_plan(order_2(0, 16), samples=32, seed=5, tolerance=tolerance)
        assert plan.prices[0].kl == kl
        assert plan.prices[0].suffices is suffices


RUNS = 60
CALLS = (2, 4, 8)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(stats.sem(values))


def test_best_prices_are_honest_and_those_of_the_same_rows_are_flattered() -> None:
    # Independent tokens: every schedule costs 0. A schedule that is chosen for its price on the
    # rows that price it costs less than 0 on average.
    target = independent(16)
    prices, holds, flattered = [], [], []
    for seed in range(RUNS):
        plan = decoding_plan(target, calls=CALLS, samples=16, seed=seed)
        best = [one.kl for one in plan.prices if one.rule == "best"]
        prices.append(float(np.mean([one.value for one in best])))
        holds += [one.low <= 0 <= one.high for one in best]
        curve = measured_curve(target, rows=16, seed=seed)
        each = list(best_schedules(16, curve.sizes, curve.values.numpy()))
        flattered.append(float(np.mean([curve.cost(each[k - 1][1]) / 16 for k in CALLS])))
    mean, error = mean_and_error(prices)
    assert abs(mean) < 3 * error
    assert np.mean(holds) >= 0.9
    mean, error = mean_and_error(flattered)
    assert mean < -6 * error


def test_a_survey_of_token_ids_keeps_the_plan_of_its_target(tmp_path: Path) -> None:
    target = order_2(0, 6)
    how: dict[str, Any] = {"samples": 200, "steps": [1], "lengths": [6], "network": "none"}
    result = survey(target, families=["gpt"], out=tmp_path / "run", **how)
    assert result.decoding is not None
    assert result.decoding == decoding_plan(target)
    assert Store.open(tmp_path / "run").result().decoding == result.decoding
    saved = Store.open(save(result, tmp_path / "saved")).result()
    assert saved.decoding == result.decoding
    cheapest = result.to_dict()["decoding"]["cheapest"]
    assert tuple(cheapest["placed"]) == result.decoding.cheapest.placed


def test_numbers_prompts_and_checks_have_no_plan() -> None:
    how: dict[str, Any] = {"samples": 200, "steps": [1], "lengths": [4]}
    numbers = survey(from_spec("gaussian:ar1,tokens=4"), families=["gpt"], network="none", **how)
    assert numbers.decoding is None
    parity = from_spec("parity:4")
    prompted = survey(parity, families=["gpt"], network="none", given=[0], samples=200, steps=[1])
    assert prompted.decoding is None
    assert check("gpt", parity, **how).survey.decoding is None
