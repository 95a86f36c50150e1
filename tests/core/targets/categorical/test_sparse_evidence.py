"""Rows of token ids, visited by symbol, against the same law as a dense mixture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from capcheck.targets import CategoricalMixture
from capcheck.targets.categorical import sparse_evidence
from capcheck.targets.from_data.empirical_categorical import (
    SHARES,
    leave_one_out_smoothing,
    marginals,
)

K, N, V = 80, 7, 5
RANDOM = np.random.default_rng(8)
ROWS = RANDOM.choice(V, size=(K, N), p=[0.6, 0.2, 0.1, 0.06, 0.04])
WEIGHTS = RANDOM.uniform(0.5, 3, size=K)
LAWS = RANDOM.dirichlet(np.ones(V), size=N)


def sparse(smoothing: float = 0.3, dtype: torch.dtype = torch.float64) -> CategoricalMixture:
    return CategoricalMixture.of_rows(
        torch.from_numpy(ROWS), vocabulary=V, smoothing=smoothing, dtype=dtype,
        weights=torch.from_numpy(WEIGHTS), marginals=torch.from_numpy(LAWS),
    )  # fmt: skip


def dense(smoothing: float = 0.3) -> CategoricalMixture:
    p = smoothing * LAWS[None] + (1 - smoothing) * np.eye(V)[ROWS]
    return CategoricalMixture(torch.from_numpy(p), torch.from_numpy(WEIGHTS))


def tokens(n: int) -> Tensor:
    return torch.from_numpy(RANDOM.integers(0, V, size=(n, N)))


@pytest.mark.parametrize("smoothing", [1e-4, 0.3, 0.99])
def test_densities_and_kernel_means_are_those_of_the_dense_mixture(smoothing: float) -> None:
    x, one, other = tokens(50), sparse(smoothing), dense(smoothing)
    assert torch.allclose(one.log_prob(x), other.log_prob(x), rtol=1e-12)
    assert torch.allclose(one.kernel_mean(x, 1.3), other.kernel_mean(x, 1.3), rtol=1e-12)
    single = sparse(smoothing, torch.float32)
    assert torch.allclose(single.log_prob(x).double(), other.log_prob(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_laws_of_growing_and_changing_evidence_are_those_of_the_dense_mixture(
    causal: bool, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_evidence, "TILE", 7 * K)  # several tiles, the last one smaller
    if not held:
        monkeypatch.setattr(sparse_evidence, "HELD", 0)
    one, other, x = sparse(), dense(), tokens(30)
    unseen = torch.ones(30, N)
    for step in range(12):
        row, column = RANDOM.integers(0, 30, size=20), RANDOM.integers(0, N, size=20)
        unseen[row, column] = 0
        if step == 6:
            unseen[5, :3] = 1  # some are forgotten
        if step == 9:
            x[4] = (x[4] + 1) % V  # known values change
        laws = (target.marginals(x, unseen, causal=causal) for target in (one, other))
        found, expected = (law.select([5, 0, 3]).mean() for law in laws)  # the probabilities
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_a_symbol_of_probability_zero_is_left_to_the_dense_sum() -> None:
    laws = LAWS.copy()
    laws[2] = [0.5, 0.5, 0, 0, 0]
    target = CategoricalMixture.of_rows(
        torch.from_numpy(ROWS), vocabulary=V, smoothing=0.5, marginals=torch.from_numpy(laws)
    )
    x = torch.from_numpy(ROWS[:4]).clone()
    x[:, 2] = 4
    p = (0.5 * laws[None] + 0.5 * np.eye(V)[ROWS])[:, np.arange(N)[None], x.numpy()]
    expected = np.log(p.prod(-1).mean(0))
    assert target.log_prob(x).numpy() == pytest.approx(expected)


def test_the_smoothing_maximises_the_leave_one_out_likelihood_by_brute_force() -> None:
    rows = np.unique(ROWS, axis=0)
    weights = RANDOM.integers(1, 4, size=len(rows)).astype(float)
    laws, total = marginals(rows, weights, V).numpy(), weights.sum()
    scores = []
    for share in SHARES:
        p = share * laws[None] + (1 - share) * np.eye(V)[rows]  # (n, N, V)
        of_pairs = np.stack([p[:, np.arange(N), row].prod(-1) for row in rows])  # (row, component)
        left = weights[None] - np.eye(len(rows))
        scores.append(weights @ np.log((left * of_pairs).sum(1) / (total - 1)))
    assert leave_one_out_smoothing(rows, weights, V) == SHARES[int(np.argmax(scores))]
