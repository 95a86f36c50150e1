"""Information curves: sums over all orders by brute force, `dit`, closed forms, and coverage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from reference.gaussians import autoregressive
from reference.groups import law_of_groups
from reference.information import (
    Array,
    information_curve,
    mean_over_orders,
    of_gaussian,
    of_table,
    remembered,
    schedules,
)
from scipy import stats
from scipy.special import entr, rel_entr

from capcheck.core.errors import InputError
from capcheck.exact import information_curve as module
from capcheck.exact.information_curve import InformationCurve, exact_curve, measured_curve
from capcheck.targets import MarkovChain, Target, from_spec, from_table

RUNS = 200
ROWS = 40


def table(seed: int, tokens: int, symbols: int, zeros: float = 0.4) -> Array:
    """A random law of which a share of the sequences is impossible."""
    rng = np.random.default_rng(seed)
    p = rng.random((symbols,) * tokens) ** 2 * (rng.random((symbols,) * tokens) >= zeros)
    law: Array = p / p.sum()
    return law


def exact(target: Target) -> InformationCurve:
    curve = exact_curve(target)
    assert curve is not None
    assert curve.is_exact
    return curve


# Exact curves


def check_costs(curve: InformationCurve, p: Array) -> None:
    """The cost of every schedule is the mean over all orders of its KL, to 1e-10 nats."""
    H = remembered(of_table(p))
    for schedule in schedules(p.ndim):
        expected = mean_over_orders(H, schedule)
        assert curve.cost(schedule) == pytest.approx(expected, abs=1e-10), schedule


@pytest.mark.parametrize(
    ("tokens", "symbols", "zeros"),
    [(1, 3, 0.0), (2, 4, 0.4), (3, 4, 0.4), (4, 3, 0.0), (5, 2, 0.6), (6, 2, 0.4)],
)
def test_a_schedule_costs_the_mean_over_all_orders(tokens: int, symbols: int, zeros: float) -> None:
    p = table(tokens, tokens, symbols, zeros)
    check_costs(exact(from_table(torch.tensor(p))), p)


def test_the_costs_of_another_law_are_noticed() -> None:
    with pytest.raises(AssertionError):
        check_costs(exact(from_table(torch.tensor(table(7, 3, 2)))), table(8, 3, 2))


@pytest.mark.parametrize("schedule", [[0, 4], [0, 1, 4], [0, 2, 4], [0, 3, 4], [0, 1, 2, 4]])
def test_a_mixture_of_orders_loses_less_than_its_orders_do(schedule: list[int]) -> None:
    p = table(9, 4, 2, 0.0)
    cuts = list(itertools.pairwise(schedule))
    laws = [
        law_of_groups(p, p, [], [(order[a:b], order[:a]) for a, b in cuts])
        for order in itertools.permutations(range(4))
    ]
    of_mixture = float(rel_entr(p, np.mean(laws, axis=0)).sum())
    of_orders = float(np.mean([rel_entr(p, law).sum() for law in laws]))
    cost = exact(from_table(torch.tensor(p))).cost(schedule)
    assert cost == pytest.approx(of_orders, abs=1e-10)
    assert 0 < of_mixture <= cost + 1e-12
    assert of_mixture < cost or schedule == [0, 4]  # all orders are one law there


@pytest.mark.parametrize(("tokens", "symbols"), [(2, 3), (3, 3), (4, 2), (5, 2)])
def test_correlations_are_those_of_dit(tokens: int, symbols: int) -> None:
    dit = pytest.importorskip("dit", reason="dit is not installed")
    p = table(10 + tokens, tokens, symbols)
    curve = exact(from_table(torch.tensor(p)))
    x = ["".join(map(str, row)) for row in np.argwhere(p > 0)]
    law = dit.Distribution(x, p[p > 0].tolist())
    bits = math.log(2)  # nats in a bit
    total = dit.multivariate.total_correlation(law) * bits
    dual = dit.multivariate.dual_total_correlation(law) * bits
    assert curve.total_correlation == pytest.approx(total, abs=1e-10)
    assert curve.dual_total_correlation == pytest.approx(dual, abs=1e-10)
    assert abs(total - dual) > 1e-3 or tokens == 2  # of two tokens both are I(X_1; X_2)
    assert curve.entropy == pytest.approx(float(entr(p).sum()), abs=1e-10)


def binary(p: float) -> float:
    """Entropy of a bit, in nats."""
    return float(entr(p) + entr(1 - p))


CLOSED: dict[str, Callable[[int, int], float]] = {
    # The first token tells all others.
    "copy:tokens=5,symbols=3": lambda N, m: math.log(3) if m == 0 else 0,
    # Any N - 1 fair bits are independent, and tell the last one.
    "parity:6": lambda N, m: math.log(2) if m < N - 1 else 0,
    # N - m symbols are left for any other token.
    "shuffle:6": lambda N, m: math.log(N - m),
    # The replacement is among the m known tokens with probability m / N: the others are 0 then.
    # If not, it is any of the N - m others.
    "replacement:9": lambda N, m: (N - m) / N * binary(1 / (N - m)),
    # One bit and its running parity, which is the bit again.
    "chain-parity:1": lambda N, m: math.log(2) if m == 0 else 0,
}


@pytest.mark.parametrize("spec", CLOSED)
def test_curves_are_those_of_closed_forms(spec: str) -> None:
    curve = exact(from_spec(spec))
    expected = [CLOSED[spec](curve.tokens, m) for m in range(curve.tokens)]
    assert curve.values.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("spec", ["brackets:16", "ising", "gaussian:ar1", "modes", "parity:30"])
def test_long_and_continuous_laws_have_no_exact_curve(spec: str) -> None:
    assert exact_curve(from_spec(spec)) is None


# Measured curves


def chain(stays: float, leaves: float) -> tuple[MarkovChain, Array]:
    """A chain of 8 bits, as a target and as a table."""
    A = np.array([[stays, 1 - stays], [leaves, 1 - leaves]])
    p = a = np.array([0.3, 0.7])
    for _ in range(7):
        p = p[..., None] * A
    return MarkovChain([torch.tensor(a), torch.tensor(A)], tokens=8), p


def interval_holds(rows: torch.Tensor, value: float) -> bool:
    """Whether the t interval of 95% of a mean of rows holds a value."""
    low, high = stats.t.interval(0.95, len(rows) - 1, float(rows.mean()), stats.sem(rows.numpy()))
    return bool(low <= value <= high)


def shares_covered(target: Target, p: Array, sizes: tuple[int, ...] | None) -> tuple[float, ...]:
    """Shares of the runs whose intervals of h(3), of the cost of 3 + 5 tokens, and of H hold."""
    H = remembered(of_table(p))
    schedule = [0, 3, 8]
    truth = (information_curve(H, 8)[3], mean_over_orders_of_two(H), H(range(8)))
    holds = []
    for seed in range(RUNS):
        curve = measured_curve(target, sizes=sizes, rows=ROWS, seed=seed)
        costs = curve.costs_by_row(schedule)
        assert curve.rows is not None
        assert curve.row_entropies is not None
        assert costs is not None
        assert float(costs.mean()) == pytest.approx(curve.cost(schedule), abs=1e-12)
        found = (curve.rows[:, curve.sizes.index(3)], costs, curve.row_entropies)
        holds.append([interval_holds(*pair) for pair in zip(found, truth, strict=True)])
    return tuple(float(share) for share in np.mean(holds, axis=0))


def mean_over_orders_of_two(H: Callable[..., float]) -> float:
    """The mean over sets S of 3 of 8 tokens of TC(S) + TC(others | S): all orders of 3 + 5."""
    costs = []
    for first in itertools.combinations(range(8), 3):
        rest = [i for i in range(8) if i not in first]
        apart = sum(H([i]) for i in first) + sum(H([i, *first]) - H(first) for i in rest)
        costs.append(apart - H(range(8)))
    return float(np.mean(costs))


@pytest.mark.parametrize("sizes", [None, (3,)], ids=["all sizes", "some sizes"])
def test_intervals_of_a_measured_curve_cover_the_exact_one(sizes: tuple[int, ...] | None) -> None:
    # At 95%, fewer than 182 of 200 runs have a chance of about one in a hundred.
    target, p = chain(0.85, 0.3)
    assert min(shares_covered(target, p, sizes)) >= 0.91


@pytest.mark.parametrize("sizes", [None, (3,)], ids=["all sizes", "some sizes"])
def test_the_curve_of_another_chain_is_not_covered(sizes: tuple[int, ...] | None) -> None:
    target, _ = chain(0.85, 0.3)
    assert max(shares_covered(target, chain(0.95, 0.05)[1], sizes)) < 0.5


@pytest.mark.parametrize("spec", ["parity:40", "copy:tokens=40,symbols=3"])
def test_a_curve_that_every_row_tells_is_measured_exactly(spec: str) -> None:
    # Each row of these laws tells h(m), whatever was drawn: ln 2 or ln 3, and 0.
    curve = measured_curve(from_spec(spec), rows=5)
    known = {"parity:40": [math.log(2)] * 39 + [0.0]}.get(spec, [math.log(3)] + [0.0] * 39)
    assert curve.values.tolist() == pytest.approx(known, abs=1e-10)
    assert curve.rows is not None
    assert float(curve.rows.std(0).max()) < 1e-10
    assert curve.entropy == pytest.approx(sum(known), abs=1e-9)


def test_a_gaussian_curve_is_that_of_its_determinants() -> None:
    C = autoregressive(6, 0.8).covariances[0]
    H = remembered(of_gaussian(C))
    curve = measured_curve(from_spec("gaussian:ar1,tokens=6,rho=0.8"), rows=2000, seed=1)
    expected = information_curve(H, 6)
    assert curve.rows is not None
    error = stats.sem(curve.rows.numpy(), axis=0)
    assert (error < 0.03).all()
    assert (np.abs(curve.values.numpy() - expected) < 4 * error).all()
    assert abs(expected[0] - expected[5]) > 20 * error.max()
    for schedule in ([0, 6], [0, 2, 6], [0, 1, 3, 6]):
        costs = curve.costs_by_row(schedule)
        assert costs is not None
        off = curve.cost(schedule) - mean_over_orders(H, schedule)
        assert abs(off) < 4 * stats.sem(costs.numpy())


def test_the_rows_of_a_curve_do_not_depend_on_what_is_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, _ = chain(0.85, 0.3)
    whole = measured_curve(target, sizes=(3,), rows=9, seed=2)
    told: list[float] = []
    monkeypatch.setattr(module, "HELD", 4 * 8 * 2)  # four rows
    parts = measured_curve(target, sizes=(3,), rows=9, seed=2, progress=told.append)
    assert whole.rows is not None
    assert parts.rows is not None
    assert torch.allclose(parts.rows, whole.rows, rtol=0, atol=1e-13)
    assert parts.entropy == pytest.approx(whole.entropy, abs=1e-12)
    assert told == sorted(told)
    assert told[-1] == 1


def test_the_rows_of_a_curve_are_curves_of_their_own() -> None:
    curve = measured_curve(chain(0.85, 0.3)[0], rows=10)
    halves = [curve.of_rows(slice(0, 5)), curve.of_rows(slice(5, 10))]
    mean = (halves[0].cost([0, 2, 8]) + halves[1].cost([0, 2, 8])) / 2
    assert mean == pytest.approx(curve.cost([0, 2, 8]), abs=1e-12)
    assert halves[0].cost([0, 2, 8]) != halves[1].cost([0, 2, 8])
    of_listed = exact(from_spec("shuffle:3"))
    assert of_listed.of_rows(slice(0, 1)) is of_listed
    assert of_listed.costs_by_row([0, 3]) is None


def test_a_step_must_begin_where_the_curve_was_measured() -> None:
    curve = measured_curve(chain(0.85, 0.3)[0], sizes=(3,), rows=4)
    assert curve.sizes == (0, 3, 7)
    assert math.isfinite(curve.cost([0, 3, 8]))
    with pytest.raises(InputError, match="schedule must begin steps at measured sizes, got 4"):
        curve.cost([0, 4, 8])
