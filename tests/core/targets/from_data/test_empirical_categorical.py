"""Rows of token ids as targets, against direct loops over rows, tokens and symbols."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from capcheck.core.errors import InputError
from capcheck.targets import CategoricalMixture, from_samples
from capcheck.targets.from_data.empirical_categorical import (
    INDEPENDENT,
    SHARES,
    distinct_rows,
    leave_one_out_smoothing,
    marginals,
)


def tied(n: int, seed: int = 0, noise: float = 0.2) -> np.ndarray:
    """Rows of four tokens that mostly repeat the first; three symbols."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 3, (n, 1))
    own = rng.integers(0, 3, (n, 4))
    rows: np.ndarray = np.where(rng.random((n, 4)) < noise, own, first)
    return rows


def marginals_by_hand(rows: np.ndarray, weights: np.ndarray, V: int) -> np.ndarray:
    n, N = rows.shape
    share = weights / weights.sum()
    laws = np.zeros((N, V))
    for v in range(V):
        pooled = (n * sum(share @ (rows[:, j] == v) for j in range(N)) + 1 / V) / (n * N + 1)
        for i in range(N):
            laws[i, v] = (n * (share @ (rows[:, i] == v)) + pooled) / (n + 1)
    return laws


def log_density(x: np.ndarray, rows: np.ndarray, share: np.ndarray, lam: float, m: Any) -> float:
    """Log of sum_c share_c prod_i ((1 - lam) [x_i = row_ci] + lam m_i(x_i))."""
    total = 0.0
    for row, w in zip(rows, share, strict=True):
        product = w
        for i, v in enumerate(x):
            product *= (1 - lam) * (v == row[i]) + lam * m[i, v]
        total += product
    return math.log(total)


def left_out(rows: np.ndarray, weights: np.ndarray, V: int, lam: float) -> float:
    """Weighted mean log-likelihood of every occurrence under the others."""
    m = marginals_by_hand(rows, weights, V)
    total = 0.0
    for r in range(len(rows)):
        others = weights.copy()
        others[r] -= min(weights[r], 1)
        log_q = log_density(rows[r], rows, others / others.sum(), lam, m)
        total += weights[r] / weights.sum() * log_q
    return total


def test_marginals_are_smoothed_by_one_rows_worth_of_all_tokens() -> None:
    # Two rows of weights 1 and 3, scaled to sum to 2: 0.5 and 1.5. Token 1 is 0 in both; token 2
    # is 1, then 2. Pooled: (2, 0.5, 1.5) + 1/3 each, over 5; one row of it joins two.
    rows = np.array([[0, 1], [0, 2]])
    laws = marginals(rows, np.array([1.0, 3.0]), 3).numpy()
    pooled = (np.array([2.0, 0.5, 1.5]) + 1 / 3) / 5
    assert laws[0] == pytest.approx((np.array([2.0, 0, 0]) + pooled) / 3)
    assert laws[1] == pytest.approx((np.array([0, 0.5, 1.5]) + pooled) / 3)
    assert laws.sum(1) == pytest.approx(1)


def test_a_symbol_that_never_occurs_keeps_a_little() -> None:
    laws = marginals(tied(20), np.ones(20), 5)
    assert float(laws[:, 3:].min()) == pytest.approx(1 / 5 / (20 * 4 + 1) / 21)


@pytest.mark.parametrize(("seed", "noise"), [(0, 0.05), (1, 0.3), (2, 1.0)])
def test_the_smoothing_has_the_largest_leave_one_out_likelihood(seed: int, noise: float) -> None:
    rows, weights = distinct_rows(tied(30, seed, noise), np.ones(30))
    chosen = leave_one_out_smoothing(rows, weights, 3)
    scores = [left_out(rows, weights, 3, float(lam)) for lam in SHARES]
    assert chosen == SHARES[int(np.argmax(scores))]


def test_chunks_do_not_change_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, weights = distinct_rows(tied(60), np.random.default_rng(0).uniform(0.5, 2, 60))
    whole = leave_one_out_smoothing(rows, weights, 3)
    monkeypatch.setattr("capcheck.targets.from_data.empirical_categorical.TILE", 1)
    assert leave_one_out_smoothing(rows, weights, 3) == whole
    scores = [left_out(rows, weights, 3, float(lam)) for lam in SHARES]
    assert whole == SHARES[int(np.argmax(scores))]


def test_dependent_rows_are_smoothed_less_than_independent_ones() -> None:
    def share(noise: float) -> float:
        rng = np.random.default_rng(0)
        copy = np.repeat(rng.integers(0, 6, (150, 1)), 10, axis=1)
        noisy = rng.random(copy.shape) < noise
        copy[noisy] = rng.integers(0, 6, noisy.sum())
        rows, weights = distinct_rows(copy, np.ones(150))
        return leave_one_out_smoothing(rows, weights, 6)

    assert share(0.2) < 0.5 < share(1.0)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_rows_that_come_again_and_again_keep_their_dependence(noise: float) -> None:
    # 2,000 rows of 81 possible sequences: their frequencies are the law to within 0.02 nats.
    ids = tied(2000, noise=noise)
    target = from_samples(ids)
    x = np.array(list(itertools.product(range(3), repeat=4)))
    of_class = [np.where(x == c, 1 - noise * 2 / 3, noise / 3).prod(1) for c in range(3)]
    p = np.mean(of_class, 0)
    log_q = target.log_prob(torch.from_numpy(x)).numpy()
    kl = float((p[p > 0] * (np.log(p[p > 0]) - log_q[p > 0])).sum())
    assert kl < 0.1


def test_the_density_is_that_of_a_direct_loop() -> None:
    ids = tied(40)
    target = from_samples(ids, smoothing=0.3, vocabulary=4)
    assert isinstance(target, CategoricalMixture)
    rows, counts = np.unique(ids, axis=0, return_counts=True)
    m = marginals_by_hand(rows, counts.astype(float), 4)
    x = np.random.default_rng(1).integers(0, 4, (12, 4))
    expected = [log_density(row, rows, counts / 40, 0.3, m) for row in x]
    assert target.log_prob(torch.from_numpy(x)).tolist() == pytest.approx(expected)


def test_distinct_rows_keep_their_order_and_sum_their_weights() -> None:
    rows = np.array([[2, 0], [1, 1], [2, 0], [0, 0], [1, 1], [5, 5]])
    kept, weights = distinct_rows(rows, np.array([1.0, 2.0, 4.0, 8.0, 16.0, 0.0]))
    assert kept.tolist() == [[2, 0], [1, 1], [0, 0]]
    assert weights.tolist() == [5, 18, 8]


def test_weights_of_ids_count_like_copies() -> None:
    ids = tied(30)
    weights = np.ones(30)
    weights[0], weights[1] = 3, 0
    copies = np.concatenate([ids[[0]], ids[[0]], ids[[0]], ids[2:]])
    weighted = from_samples(ids, weights=weights, vocabulary=3)
    copied = from_samples(copies, vocabulary=3)
    x = torch.from_numpy(ids)
    assert weighted.log_prob(x).tolist() == pytest.approx(copied.log_prob(x).tolist())
    assert weighted.provenance.description == copied.provenance.description


def test_a_row_that_came_twice_is_smoothed_less_than_one_that_came_once() -> None:
    # A second occurrence is evidence that the row will come again.
    ids = tied(30)
    rows, once = distinct_rows(ids, np.ones(30))
    _, twice = distinct_rows(np.concatenate([ids, ids]), np.ones(60))
    assert leave_one_out_smoothing(rows, twice, 3) < leave_one_out_smoothing(rows, once, 3)


def test_weights_below_one_are_single_occurrences() -> None:
    rows, weights = distinct_rows(
        np.unique(tied(60), axis=0), np.ones(len(np.unique(tied(60), axis=0)))
    )
    assert leave_one_out_smoothing(rows, weights / 7, 3) == leave_one_out_smoothing(
        rows, weights, 3
    )


def test_the_held_out_score_is_a_loop_over_the_same_split() -> None:
    rows, weights = distinct_rows(tied(60), np.ones(60))
    drawn = np.random.default_rng(0).multivariate_hypergeometric(weights.astype(int), 12)
    left = weights - drawn
    test, train = np.flatnonzero(drawn), np.flatnonzero(left)
    lam = leave_one_out_smoothing(rows[train], left[train], 3)
    m = marginals_by_hand(rows[train], left[train], 3)
    share = left[train] / left[train].sum()

    def score(index: np.ndarray, counts: np.ndarray) -> float:
        scores = [log_density(rows[r], rows[train], share, lam, m) for r in index]
        return float(np.average(scores, weights=counts[index]))

    held_out = from_samples(tied(60), vocabulary=3).provenance.held_out
    assert held_out is not None
    assert held_out.rows == 12
    assert held_out.log_likelihood == pytest.approx(score(test, drawn))
    assert held_out.in_sample == pytest.approx(score(train, left))
    independent = np.average(
        [sum(math.log(m[i, v]) for i, v in enumerate(rows[r])) for r in test],
        weights=drawn[test],
    )
    assert held_out.baseline == pytest.approx(float(independent), abs=1e-6)
    assert held_out.baseline_name == "independent tokens"
    assert INDEPENDENT < 1


def test_huge_weights_are_split_too() -> None:
    held_out = from_samples(tied(30), weights=np.full(30, 1e12)).provenance.held_out
    assert held_out is not None
    assert 0 < held_out.rows < 1e9
    assert -4 * math.log(3) - 1 < held_out.log_likelihood < 0  # of four tokens over three symbols


def test_rows_that_are_barely_smoothed_memorise() -> None:
    ids = np.random.default_rng(0).integers(0, 4, (80, 6))
    memorising = from_samples(ids, smoothing=1e-4).provenance.held_out
    assert memorising is not None
    assert memorising.memorises
    # Distinct rows of a strong copy: the others tell of a row what its marginals do not.
    rng = np.random.default_rng(1)
    copy = np.repeat(rng.integers(0, 6, (150, 1)), 10, axis=1)
    noise = rng.random(copy.shape) < 0.1
    copy[noise] = rng.integers(0, 6, noise.sum())
    honest = from_samples(copy).provenance.held_out
    assert honest is not None
    assert not honest.memorises


def test_a_smoothing_of_zero_is_the_rows_themselves() -> None:
    ids = np.array([[0, 1], [0, 1], [1, 0], [2, 2]])
    target = from_samples(ids, smoothing=0.0)
    x = torch.tensor([[0, 1], [1, 0], [2, 2], [0, 0]])
    assert target.log_prob(x).exp().tolist() == pytest.approx([0.5, 0.25, 0.25, 0.0])


def test_few_distinct_rows_have_no_held_out_score() -> None:
    target = from_samples(np.array([[0, 1], [1, 0]]))
    assert target.provenance.held_out is None
    single = from_samples(np.array([[0, 1]]), smoothing=0.5)
    # Half the row itself, half a marginal in which it counts 1 of 2 with half a count a symbol.
    p = single.log_prob(torch.tensor([[0, 1], [1, 1], [1, 0]])).exp()
    assert p.tolist() == pytest.approx([0.875**2, 0.875 * 0.125, 0.125**2])


def test_the_rows_that_are_given_are_left_alone() -> None:
    ids = tied(20)
    kept = ids.copy()
    from_samples(torch.from_numpy(ids))
    assert (ids == kept).all()


@pytest.mark.parametrize(
    ("ids", "facts", "message"),
    [
        (np.zeros(5, dtype=int), {}, r"shape \(rows, tokens\), none of them 0, got \(5,\)"),
        (np.zeros((0, 3), dtype=int), {}, "none of them 0"),
        (np.zeros((4, 3, 2), dtype=int), {}, "shape"),
        (np.array([[0, -1], [1, 1]]), {}, "at least 0, got -1; shift them"),
        (np.array([[0, 5], [1, 1]]), {"vocabulary": 4}, "below 4, got 5"),
        (np.array([[0, 2**40], [1, 1]]), {}, "at most 1048576, got 1099511627777 x 2"),
        (np.zeros((4, 3), dtype=int), {}, "at least 2 distinct rows, got 1"),
        (tied(5), {"bandwidth": 0.5}, "bandwidth smooths real numbers, got 0.5 for integers"),
        (tied(5), {"smoothing": 1.0}, "below 1, or 'auto', got 1.0"),
        (tied(5), {"smoothing": -0.1}, "smoothing must be at least 0"),
        (tied(5), {"smoothing": math.nan}, "smoothing must be at least 0"),
        (tied(5), {"smoothing": "much"}, "got 'much'"),
        (tied(5), {"weights": np.ones(4)}, r"\(5,\), got \(4,\)"),
        (tied(5), {"weights": -np.ones(5)}, "non-negative and not all 0"),
        (tied(5), {"weights": np.array(["1"] * 5)}, "weights must be real numbers, got <U1"),
        (tied(5), {"weights": np.full(5, 1j)}, "weights must be real numbers, got complex128"),
        (tied(5), {"weights": np.full(5, 1e308)}, "at most 1e.100 in all, got one of 1e.308"),
        (tied(5), {"vocabulary": 1 << 20}, "symbols x tokens must be at most 1048576, got 1048576"),
        (tied(5), {"vocabulary": 3.0}, "vocabulary must be a whole number"),
        (tied(5), {"vocabulary": True}, "vocabulary must be a whole number"),
        (tied(5), {"smoothing": True}, "below 1, or 'auto', got True"),
        (tied(5), {"smoothing": False}, "below 1, or 'auto', got False"),
        (np.zeros((4, 3), dtype=int), {}, "rows that differ, or in Python a share"),
        (tied(5).astype(float), {"vocabulary": 3}, "belong to token ids, got float64"),
        (tied(5).astype(float), {"smoothing": 0.1}, "belong to token ids, got float64"),
    ],
)
def test_bad_token_ids_are_refused(ids: np.ndarray, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_samples(ids, **facts)


def test_numbers_of_any_type_are_shares_and_weights() -> None:
    ids = tied(20)
    for share in (np.float32(0.25), np.float64(0.25)):
        expected = from_samples(ids, smoothing=0.25).fingerprint
        assert from_samples(ids, smoothing=share).fingerprint == expected  # type: ignore[arg-type]
    expected = from_samples(ids, weights=np.full(20, 2.0)).fingerprint
    for weights in (np.full(20, 2), torch.full((20,), 2.0, requires_grad=True)):
        assert from_samples(ids, weights=weights).fingerprint == expected
