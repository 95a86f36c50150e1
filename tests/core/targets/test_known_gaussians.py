"""Conditionals of Gaussian mixtures where each row knows other tokens, against plain formulas."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.noise.paths import PATHS
from capcheck.targets import GaussianMixture
from capcheck.targets.continuous import known_gaussians

N = 5


def mixture(components: int, dim: int) -> GaussianMixture:
    draws = CounterRandomness(8)
    roots = draws.normal((components, N * dim, N * dim))
    covariances = roots @ roots.mT + 0.1 * torch.eye(N * dim)
    return GaussianMixture(
        2 * draws.normal((components, N, dim)), covariances, 1 + draws.uniform((components,))
    )


def plainly(target: GaussianMixture, x: Tensor, known: Tensor, token: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance (d,), (d, d) of a token of one row, by numpy and scipy."""
    K, _, d = target.means.shape
    S = [i * d + j for i in range(N) for j in range(d) if known[i]]
    own = [token * d + j for j in range(d)]
    weights, means, covariances = [], [], []
    for c in range(K):
        mu, C = target.means[c].flatten().numpy(), target.covariances[c].numpy()
        seen = x.flatten().numpy()[S]
        mean, covariance, log_w = mu[own], C[np.ix_(own, own)], 0.0
        if S:
            gain = C[np.ix_(own, S)] @ np.linalg.inv(C[np.ix_(S, S)])
            mean = mean + gain @ (seen - mu[S])
            covariance = covariance - gain @ C[np.ix_(S, own)]
            log_w = stats.multivariate_normal(mu[S], C[np.ix_(S, S)]).logpdf(seen)
        weights.append(float(target.weights[c]) * np.exp(log_w))
        means.append(mean)
        covariances.append(covariance)
    w = np.array(weights) / sum(weights)
    mean = sum(a * m for a, m in zip(w, means, strict=True))
    square = sum(a * (C + np.outer(m, m)) for a, m, C in zip(w, means, covariances, strict=True))
    return torch.tensor(mean), torch.tensor(square - np.outer(mean, mean))


def require_laws(target: GaussianMixture, x: Tensor, known: Tensor) -> None:
    levels = (~known).double()
    law = target.marginals(torch.where(known[..., None], x, torch.nan), levels)
    mean, variance = law.mean(), law.variance()
    for row in range(len(x)):
        for token in range(N):
            if known[row, token]:
                torch.testing.assert_close(mean[row, token], x[row, token], atol=0, rtol=1e-14)
                assert bool((variance[row, token] < 1e-25).all())
                continue
            expected, covariance = plainly(target, x[row], known[row], token)
            torch.testing.assert_close(mean[row, token], expected, atol=1e-8, rtol=1e-8)
            torch.testing.assert_close(
                variance[row, token], covariance.diag(), atol=1e-8, rtol=1e-8
            )


@pytest.fixture(params=["all numbers", "unknown numbers"])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let covariances with innovations be those of all numbers, or of the unknown ones only."""
    if request.param == "unknown numbers":
        monkeypatch.setattr(known_gaussians, "WIDE", 1)


@pytest.mark.usefixtures("columns")
@pytest.mark.parametrize(("components", "dim"), [(1, 1), (1, 3), (3, 1), (3, 2)])
def test_tokens_that_become_known_in_any_order(components: int, dim: int) -> None:
    target = mixture(components, dim)
    rng = CounterRandomness(2)
    x = target.sample(6, rng)
    order = rng.uniform((6, N)).argsort(1)
    rank = order.argsort(1)
    for placed in (1, 2, 4, 5):
        require_laws(target, x, rank < placed)
    require_laws(target, x, rank < 2)  # an earlier question again
    require_laws(target, x + 1, rank < 3)  # other values


@pytest.mark.usefixtures("columns")
def test_rows_that_learn_at_their_own_pace() -> None:
    target = mixture(2, 2)
    rng = CounterRandomness(3)
    x = target.sample(8, rng)
    rank = rng.uniform((8, N)).argsort(1).argsort(1)
    placed = torch.zeros(8, 1)
    for _ in range(12):
        placed = placed + (rng.uniform((8, 1)) < 0.4)
        require_laws(target, x, rank < placed)


@pytest.mark.parametrize(("components", "dim"), [(1, 1), (3, 2)])
def test_prefixes_of_each_row(components: int, dim: int) -> None:
    target = mixture(components, dim)
    x = target.sample(6, CounterRandomness(4))
    require_laws(target, x, torch.arange(N) < torch.tensor([0, 1, 2, 3, 4, 5])[:, None])


@pytest.mark.parametrize(("components", "dim"), [(1, 1), (3, 2)])
def test_prefixes_of_each_row_that_only_later_tokens_see(components: int, dim: int) -> None:
    target = mixture(components, dim)
    x = target.sample(6, CounterRandomness(4))
    known = torch.arange(N) < torch.tensor([0, 1, 2, 3, 4, 5])[:, None]
    law = target.marginals(x, (~known).double(), causal=True)
    mean, variance = law.mean(), law.variance()
    for row in range(6):
        for token in range(N):
            before = known[row] & (torch.arange(N) < token)
            expected, covariance = plainly(target, x[row], before, token)
            torch.testing.assert_close(mean[row, token], expected, atol=1e-8, rtol=1e-8)
            torch.testing.assert_close(
                variance[row, token], covariance.diag(), atol=1e-8, rtol=1e-8
            )


def test_many_numbers_of_which_all_rows_know_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_gaussians, "MANY", 1)
    target = mixture(3, 2)
    x = target.sample(4, CounterRandomness(4))
    for length in range(N + 1):
        require_laws(target, x, (torch.arange(N) < length).expand(4, N))


def test_first_tokens_that_grow_shrink_and_change() -> None:
    target = mixture(2, 2)
    rng = CounterRandomness(7)
    x = target.sample(6, rng)
    count = torch.zeros(6, 1)
    for turn in range(16):
        count = (count + (rng.uniform((6, 1)) < 0.5) - 2 * (turn % 5 == 4)).clamp(0, N)
        if turn % 4 == 3:
            x = torch.where(rng.uniform((6, N, 1)) < 0.2, target.sample(6, rng), x)
        require_laws(target, x, torch.arange(N) < count)


def test_a_law_is_the_same_when_it_is_read_after_later_calls() -> None:
    target = mixture(2, 2)
    x, other = target.sample(6, CounterRandomness(4)), target.sample(6, CounterRandomness(5))
    known = torch.arange(N) < torch.tensor([1, 1, 2, 2, 3, 3])[:, None]
    at_once = target.marginals(x, (~known).double()).mean()
    later = target.marginals(x, (~known).double())
    for tokens, first in ((x, 4), (other, 3), (other, 1)):
        target.marginals(tokens, (torch.arange(N) >= first).double().expand(6, N)).mean()
        target.marginals(tokens, (~(torch.arange(N) < known.sum(1)[:, None] + 1)).double()).mean()
    torch.testing.assert_close(later.mean(), at_once, atol=1e-10, rtol=1e-10)


def test_few_may_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_gaussians, "HELD", 0)
    target = mixture(2, 1)
    x = target.sample(6, CounterRandomness(4))
    require_laws(target, x, CounterRandomness(5).uniform((6, N)) < 0.5)


def test_tokens_are_drawn_from_the_law_of_the_whole() -> None:
    target = mixture(2, 2)
    rng = CounterRandomness(6)
    n = 4000
    x, rank = torch.zeros(n, N, 2).double(), rng.uniform((n, N)).argsort(1).argsort(1)
    for place in range(N):
        law = target.marginals(x, (rank >= place).double()).pick((rank == place).int().argmax(1))
        x[torch.arange(n), (rank == place).int().argmax(1)] = law.sample(rng)[:, 0]
    expected = target.sample(n, rng)
    for i in range(N):
        for j in range(2):
            assert stats.ks_2samp(x[:, i, j], expected[:, i, j]).pvalue > 1e-4
    spread = torch.cov(x.flatten(1).T) - torch.cov(expected.flatten(1).T)
    assert float(spread.abs().max()) < 0.15 * float(torch.cov(expected.flatten(1).T).max())


def test_a_copy_leaves_behind_what_is_kept() -> None:
    target = mixture(2, 2)
    x = target.sample(40, CounterRandomness(6))

    def use(rows: int, seed: int) -> None:
        require_laws(target, x[:rows], CounterRandomness(seed).uniform((rows, N)) < 0.5)
        levels = torch.full((rows, N), seed / 10).double()
        target.denoise(x[:rows], levels, PATHS["linear"])

    use(1, 1)
    size = len(pickle.dumps(target))
    for seed in (2, 3, 4):
        use(40, seed)
    copy = pickle.dumps(target)
    assert len(copy) == size
    require_laws(pickle.loads(copy), x, CounterRandomness(7).uniform((40, N)) < 0.5)
