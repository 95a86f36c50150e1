"""Evidence that grows token by token, and coordinates from the components that count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.networks.oracles.rosenblatt import Rosenblatt
from capcheck.targets import ProductMixture
from capcheck.targets.known_logits import FEWEST

K, N, d = FEWEST + 44, 6, 2
RANDOM = np.random.default_rng(2)
MEANS = RANDOM.normal(size=(K, N, d))
SCALES = np.linspace(0.15, 0.4, N * d).reshape(N, d)


@pytest.fixture
def many() -> ProductMixture:
    return ProductMixture(torch.from_numpy(MEANS), torch.from_numpy(SCALES))


def log_share(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n, K) from scipy's densities."""
    log_p = stats.norm.logpdf(x[:, None], MEANS, SCALES).sum(-1)  # (n, K, N)
    log_w = (log_p * known[:, None]).sum(-1)
    return np.asarray(log_w - logsumexp(log_w, axis=1, keepdims=True))


def expected_log_prob(x: np.ndarray, known: np.ndarray, i: int) -> np.ndarray:
    own = stats.norm.logpdf(x[:, None, i], MEANS[:, i], SCALES[i]).sum(-1)
    return np.asarray(logsumexp(log_share(x, known) + own, axis=1))


def law_of(target: ProductMixture, x: np.ndarray, known: np.ndarray) -> object:
    return target.marginals(torch.from_numpy(x), torch.from_numpy(1.0 - known))


def orders(same: bool) -> np.ndarray:
    drawn = np.stack([RANDOM.permutation(N) for _ in range(50)])
    return np.repeat(drawn[:1], 50, 0) if same else drawn


@pytest.mark.parametrize("same", [True, False])
def test_tokens_that_become_known_one_by_one_give_the_laws_of_scipy(
    many: ProductMixture, same: bool
) -> None:
    x = many.sample(50, CounterRandomness(1)).numpy()
    order, known = orders(same), np.zeros((50, N), dtype=bool)
    for place in range(N - 1):
        law = many.marginals(torch.from_numpy(x), torch.from_numpy(1.0 - known))
        for i in range(N):
            rows = ~known[:, i]
            found = law.log_prob(torch.from_numpy(x))[:, i].numpy()
            expected = expected_log_prob(x, known, i)
            assert found[rows] == pytest.approx(expected[rows], rel=1e-9, abs=1e-9)
        known[np.arange(50), order[:, place]] = True


def test_a_law_stays_what_it_was_when_more_is_known(many: ProductMixture) -> None:
    x = many.sample(40, CounterRandomness(3))
    unseen = torch.ones(40, N, dtype=torch.float64)
    unseen[:, 0] = 0
    early = many.marginals(x, unseen).select([5])
    before = early.log_prob(x[:, [5]]), early.mean(), early.sample(CounterRandomness(4))
    unseen[:, 1:4] = 0
    many.marginals(x, unseen).log_prob(x)
    after = early.log_prob(x[:, [5]]), early.mean(), early.sample(CounterRandomness(4))
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("change", ["another value", "a token is forgotten", "other rows"])
def test_evidence_that_does_not_grow_is_summed_anew(many: ProductMixture, change: str) -> None:
    x = many.sample(30, CounterRandomness(5)).numpy()
    known = np.zeros((30, N), dtype=bool)
    known[:, [0, 2]] = True
    law_of(many, x, known)
    if change == "another value":
        x[7, 2] += 1
    elif change == "a token is forgotten":
        known[3, 2] = False
        known[:, 4] = True
    else:
        x, known = x[:20], known[:20]
    law = many.marginals(torch.from_numpy(x), torch.from_numpy(1.0 - known))
    found = law.log_prob(torch.from_numpy(x))[:, 1].numpy()
    assert found == pytest.approx(expected_log_prob(x, known, 1), rel=1e-9, abs=1e-9)


def conditional_cdf(x: Tensor, i: int, j: int, at: Tensor) -> np.ndarray:
    """F(at | tokens before i, coordinates before j of token i) from scipy's densities."""
    rows = x.numpy()
    known = np.broadcast_to(np.arange(N) < i, (len(rows), N))
    log_w = log_share(rows, known)
    log_w = log_w + stats.norm.logpdf(rows[:, None, i, :j], MEANS[:, i, :j], SCALES[i, :j]).sum(-1)
    share = np.exp(log_w - logsumexp(log_w, axis=1, keepdims=True))
    of_each = stats.norm.cdf(at.numpy()[:, None], MEANS[:, i, j], SCALES[i, j])
    return np.asarray((share * of_each).sum(1))


def test_quantiles_of_the_components_that_count_are_those_of_all(many: ProductMixture) -> None:
    z = torch.from_numpy(RANDOM.normal(size=(60, N, d)))
    z[0], z[1] = -5.0, 5.0  # tails
    x = Rosenblatt(target=many)(z)
    for i in range(N):
        for j in range(d):
            found = conditional_cdf(x, i, j, x[:, i, j])
            assert found == pytest.approx(stats.norm.cdf(z[:, i, j].numpy()), rel=1e-9)


def test_a_coordinate_far_from_all_likely_components_is_still_conditioned_on(
    many: ProductMixture,
) -> None:
    x = many.sample(20, CounterRandomness(6))
    x[:, 3, 0] = torch.from_numpy(MEANS[17, 3, 0] + 0.01 * RANDOM.normal(size=20))
    unseen = torch.ones(20, N, dtype=torch.float64)
    unseen[:, :3] = 0
    law = many.marginals(x, unseen).select([3]).coordinate(1, x[:, [3]])
    at = x[:, [3], 1:]
    expected = conditional_cdf(x, 3, 1, at[:, 0, 0])
    assert law.cdf(at)[:, 0].numpy() == pytest.approx(expected, rel=1e-9, abs=1e-13)
