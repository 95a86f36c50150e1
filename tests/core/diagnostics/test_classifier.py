"""The classifier test against Bayes accuracies in closed form, and its level by repetition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics import classifier as module
from capcheck.diagnostics.classifier import ClassifierTest, binomial_interval, classifier_test


def normal(seed: int, shape: tuple[int, ...], name: str = "") -> Tensor:
    return CounterRandomness(seed, name=name).normal(shape)


def told_apart(x: Tensor, y: Tensor, seed: int = 0, level: float = 0.95) -> ClassifierTest:
    return classifier_test(x, y, rng=CounterRandomness(seed), level=level)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 3), (510, 1000), (37, 50)])
def test_the_interval_is_that_of_scipy(k: int, n: int) -> None:
    exact = stats.binomtest(k, n).proportion_ci(0.9, method="exact")
    assert binomial_interval(k, n, level=0.9) == pytest.approx((exact.low, exact.high), abs=1e-12)
    wilson = stats.binomtest(k, n).proportion_ci(0.9, method="wilson")
    assert binomial_interval(k, n, level=0.9) != pytest.approx((wilson.low, wilson.high), abs=1e-4)


def coverage(m: float, runs: int, level: float = 0.95) -> float:
    """Share of intervals that hold Phi(m / 2), the Bayes accuracy of N(0, 1) against N(m, 1)."""
    hits = 0
    for run in range(runs):
        x, y = normal(run, (600, 1), "x"), normal(run, (600, 1), "y") + m
        found = told_apart(x, y, run, level)
        hits += found.low <= stats.norm.cdf(m / 2) <= found.high
    return hits / runs


@pytest.mark.parametrize("m", [0.0, 1.0, 2.5])
def test_the_interval_covers_the_bayes_accuracy_of_shifted_gaussians(m: float) -> None:
    assert coverage(m, 100) >= 0.9


def test_an_interval_that_is_too_narrow_is_noticed() -> None:
    assert coverage(1.0, 100, level=0.7) < 0.88


def test_scales_and_dependences_are_seen_as_well_as_they_can_be() -> None:
    # N(0, 1) against N(0, 4): the ratio is 1 where x^2 = 2 ln 2 / (1 - 1/4); told apart by |x| > a.
    a = math.sqrt(2 * math.log(2) / 0.75)
    bayes = 0.5 * (2 * stats.norm.cdf(a) - 1) + stats.norm.sf(a / 2)
    found = told_apart(normal(0, (4000, 1)), 2 * normal(1, (4000, 1)))
    assert found.low <= bayes <= found.high
    # Correlations of .6 and -.6: told apart by the sign of x y, P(x y > 0) = 1/2 + asin(.6) / pi.
    z, w = normal(2, (4000, 2)), normal(3, (4000, 2))
    x, y = (
        torch.stack([u[:, 0], r * u[:, 0] + 0.8 * u[:, 1]], 1) for u, r in ((z, 0.6), (w, -0.6))
    )
    found = told_apart(x, y)
    assert found.low <= 0.5 + math.asin(0.6) / math.pi <= found.high
    assert found.p_value < 1e-100


def test_p_values_under_equal_laws_are_valid_and_use_the_whole_range() -> None:
    p = np.array(
        [
            told_apart(normal(run, (100, 5), "x"), normal(run, (100, 5), "y"), run).p_value
            for run in range(200)
        ]
    )
    for alpha in (0.05, 0.2, 0.5):  # of 200 runs, by more than 3.5 deviations in one of 5,000
        assert np.mean(p <= alpha) <= alpha + 3.5 * math.sqrt(alpha * (1 - alpha) / 200)
    assert p.min() < 0.05
    assert p.max() > 0.9


def test_folds_that_swap_roles_would_not_be_binomial() -> None:
    def swapped(run: int) -> int:
        x, y = normal(run, (60, 5), "x").numpy(), normal(run, (60, 5), "y").numpy()
        first, second = slice(0, 30), slice(30, 60)
        return module._right_answers(x[first], y[first], x[second], y[second]) + (
            module._right_answers(x[second], y[second], x[first], y[first])
        )

    # A binomial count of 120 has variance 30; that of 150 runs is off by 12%.
    assert np.var([swapped(run) for run in range(150)], ddof=1) > 30 * 1.25
    counts = [
        told_apart(normal(run, (100, 5), "x"), normal(run, (100, 5), "y"), run)
        for run in range(150)
    ]
    assert np.var([round(c.accuracy * c.rows) for c in counts], ddof=1) < 160 / 4 * 1.25


def test_the_order_of_the_rows_is_that_of_the_seed_and_does_not_matter_much() -> None:
    x, y = normal(0, (500, 2)), normal(1, (500, 2)) + 0.5
    assert told_apart(x, y) == told_apart(x, y)
    assert told_apart(x, y) != told_apart(x, y, 1)
    # Rows in ascending order, which would make the last blocks unlike the first.
    ascending = told_apart(x[x[:, 0].argsort()], y[y[:, 0].argsort()])
    assert ascending.accuracy == pytest.approx(told_apart(x, y).accuracy, abs=0.06)


def test_token_ids_are_one_hot_vectors() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 3, (600, 3)))
    y = x.flip(0).clone()
    y[:, 1] = y[:, 0]  # seen by a product: the two tokens are equal, by chance in a third of x
    found = told_apart(x, y)
    assert found.low <= 5 / 6 <= found.high  # right about all of y and two thirds of x


def test_constants_outliers_and_equal_rows_are_no_evidence() -> None:
    same = torch.ones(100, 2, dtype=torch.float64)
    assert told_apart(same, same).accuracy == 0.5
    x, y = normal(0, (200, 2)), normal(1, (200, 2))
    x[0, 0], y[3, 1] = 1e200, -1e300
    assert told_apart(x, y).p_value > 0.01
    wide = normal(2, (100, 60))  # too many for products
    assert told_apart(wide, normal(3, (100, 60)) + 1).accuracy > 0.95


GOOD = normal(0, (100, 2))


@pytest.mark.parametrize(
    ("x", "y", "level", "message"),
    [
        (GOOD[:99], GOOD, 0.95, "at least 100 rows"),
        (GOOD, GOOD[:, :1], 0.95, "one D"),
        (GOOD[0], GOOD, 0.95, "one D"),
        (GOOD, GOOD.long(), 0.95, "numbers or ids"),
        (GOOD.masked_fill(GOOD > 0, math.nan), GOOD, 0.95, "finite"),
        (GOOD, GOOD.masked_fill(GOOD > 0, math.inf), 0.95, "finite"),
        (GOOD, GOOD, 1.0, "level must be between 0 and 1"),
        (torch.zeros(100, 5000), torch.zeros(100, 5000), 0.95, "at most 4096 coordinates"),
        (torch.arange(100)[:, None] * 100, torch.arange(100)[:, None], 0.95, "one-hot"),
    ],
)
def test_bad_input_is_one_clear_error(x: Tensor, y: Tensor, level: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        classifier_test(x, y, rng=CounterRandomness(0), level=level)
