"""KL as an average over draws: tails that no mean survives are noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from capcheck.divergences.kl import HEAVY, tail_index


@pytest.mark.parametrize("k", [0.3, 0.5, 1.0, 2.0])
def test_the_tail_index_of_a_pareto_law_is_found(k: float) -> None:
    found = [
        tail_index(stats.pareto(1 / k).rvs(2000, random_state=np.random.default_rng(run)))
        for run in range(20)
    ]
    assert np.mean(found) == pytest.approx(k, abs=0.15)


def test_log_ratios_of_gaussians_are_not_called_heavy() -> None:
    # N(0, 1) against N(0, s^2): the log-ratio is a multiple of a chi-square variable.
    rng = np.random.default_rng(0)
    for scale in (0.1, 0.5, 0.9, 3.0):
        for _ in range(10):
            z = rng.normal(size=2000)
            ratio = 0.5 * z**2 * (1 / scale**2 - 1) + math.log(scale)
            assert tail_index(ratio) < HEAVY


def test_cauchy_draws_against_a_gaussian_have_no_mean() -> None:
    # The log-ratio grows like x^2 / 2, whose tail index under a Cauchy law is 2.
    x = stats.cauchy().rvs(2000, random_state=np.random.default_rng(0))
    assert tail_index(stats.cauchy.logpdf(x) - stats.norm.logpdf(x)) > HEAVY


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(500),
        np.ones(50),
        np.full(500, np.inf),
        np.full(500, np.nan),
        np.random.default_rng(0).binomial(16, 0.3, 2000) * 0.1,  # 17 different values
    ],
)
def test_where_there_is_no_tail_there_is_no_index(values: np.ndarray) -> None:
    assert math.isnan(tail_index(values))
