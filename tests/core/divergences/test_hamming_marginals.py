"""The certificate of W1 by the laws of single tokens, on independent bits and on parity."""

from __future__ import annotations

import numpy as np
import pytest

from capcheck.divergences.hamming_marginals import hamming_marginals


def rows(p: float, n: int, N: int, run: int) -> np.ndarray:
    return (np.random.default_rng(run).random((n, N)) < p).astype(int)


def laws(p: float, N: int) -> np.ndarray:
    return np.tile([1 - p, p], (N, 1))


@pytest.mark.parametrize("q", [0.32, 0.35, 0.6])
def test_of_independent_bits_it_is_w1(q: float) -> None:
    # W1 of independent bits is the sum of |p_i - q_i|: each bit is coupled by itself.
    terms = [hamming_marginals(rows(q, 1000, 8, run), laws(0.3, 8)) for run in range(200)]
    exact = 8 * (q - 0.3)
    lows = np.array([term.interval(0.95)[0] for term in terms])
    assert np.mean(lows <= exact) >= 0.96
    mean = float(np.mean([term.value for term in terms]))
    assert mean <= exact + 0.02
    if q >= 0.35:  # nearer, half of the draws do not always show on which side a bit is
        assert mean == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("N", [1, 64])
def test_equal_laws_are_not_told_apart(N: int) -> None:
    lows = [
        hamming_marginals(rows(0.3, 400, N, run), laws(0.3, N)).interval(0.95)[0]
        for run in range(400)
    ]
    assert np.mean(np.array(lows) > 0) <= 0.045
    # The plug-in sum of total variations, which is never 0, would be.
    shares = rows(0.3, 400, 64, 0).mean(0)
    assert np.abs(shares - 0.3).sum() > 0.5


def test_dependence_is_not_seen_but_nothing_is_claimed_of_it() -> None:
    bits = rows(0.5, 1000, 6, 0)
    bits[:, 5] = bits[:, :5].sum(1) % 2
    low, _ = hamming_marginals(bits, laws(0.5, 6)).interval(0.95)
    assert low < 0.02


def test_rows_that_are_all_equal_leave_an_interval() -> None:
    term = hamming_marginals(np.zeros((300, 1), dtype=int), np.array([[0.999, 0.001]]))
    low, high = term.interval(0.95)
    assert low < 0.001 < high
