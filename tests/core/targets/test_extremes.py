"""Numbers at the edge: tiny and huge scales, components far apart, long chains, rows that repeat.

Every answer is compared with scipy, or with the textbook recursion in log space; being finite is
not enough, for a law that has underflowed to the wrong component is finite too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.gaussians import Gaussians
from reference.sequences import LogChain
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.noise.paths import PATHS
from capcheck.targets import (
    CategoricalMixture,
    ContinuousTarget,
    DiagonalMixture,
    GaussianMixture,
    HiddenMarkov,
    MarkovChain,
    ProductMixture,
    Target,
    from_samples,
)

Array = NDArray[np.float64]
EXTREMES = (1e-3, 1.0, 1e3)


def tensor(values: Any) -> Tensor:
    return torch.tensor(np.asarray(values))


def shared(means: Array, scale: float, weights: Array) -> tuple[ContinuousTarget, Gaussians]:
    scales = np.full(means.shape[1:], scale)
    target = ProductMixture(tensor(means), tensor(scales), weights=tensor(weights))
    return target, Gaussians.product(means, scales, weights)


def varied(means: Array, scale: float, weights: Array) -> tuple[ContinuousTarget, Gaussians]:
    factors = np.linspace(0.5, 2, means.size).reshape(means.shape)
    target = DiagonalMixture(tensor(means), tensor(scale * factors), weights=tensor(weights))
    return target, Gaussians.product(means, scale * factors, weights)


def full(means: Array, scale: float, weights: Array) -> tuple[ContinuousTarget, Gaussians]:
    K, N, d = means.shape
    C = scale**2 * np.stack([np.eye(N * d) + 0.5 / (1 + c) for c in range(K)])
    target = GaussianMixture(tensor(means), tensor(C), weights=tensor(weights))
    return target, Gaussians(means, C, weights)


Make = Callable[[Array, float, Array], tuple[ContinuousTarget, Gaussians]]
mixtures = pytest.mark.parametrize("make", [shared, varied, full])
EVEN = np.array([0.5, 0.5])


def far_apart(scale: float) -> Array:
    """Two components 100 standard deviations apart in each of two tokens: (2, 2, 1)."""
    return scale * np.array([[[-50.0], [-50.0]], [[50.0], [50.0]]])


def places(scale: float) -> Array:
    """On a component, between them, in another quadrant, and a thousand deviations away."""
    return (
        scale * np.array([[-50, -50], [50, 49], [0, 0], [0.1, 0], [-50, 50], [1e3, 1e3]])[..., None]
    )


def close(found: Any, expected: Any, *, rtol: float = 1e-8, atol: float = 1e-9) -> None:
    assert np.isfinite(np.asarray(expected)).all()
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=rtol, atol=atol)


@mixtures
@pytest.mark.parametrize("scale", EXTREMES)
def test_densities_of_components_far_apart_neither_overflow_nor_underflow(
    make: Make, scale: float
) -> None:
    target, reference = make(far_apart(scale), scale, EVEN)
    x = places(scale)
    close(target.log_prob(tensor(x)), [reference.log_prob(row) for row in x], rtol=1e-10)
    for level in (1e-4, 0.5, 1.0):
        t = np.array([level, 0.3])
        noisy = target.with_noise(tensor(t), PATHS["linear"])
        law = reference.noisy(1 - t, t)
        close(noisy.log_prob(tensor(x)), [law.log_prob(row) for row in x])


@mixtures
@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize("causal", [False, True])
def test_conditionals_of_components_far_apart_are_right(
    make: Make, scale: float, causal: bool
) -> None:
    target, reference = make(far_apart(scale), scale, EVEN)
    x = places(scale)
    for levels in itertools.product((0.0, 1e-4, 0.5, 1.0), repeat=2):
        t = np.array(levels)
        shown = np.tile(t, (len(x), 1))
        law = target.marginals(tensor(x), tensor(shown), PATHS["linear"], causal)
        denoised = target.denoise(tensor(x), tensor(shown), PATHS["linear"], causal=causal)
        mean, variance = law.mean().numpy(), law.variance().numpy()
        density = law.log_prob(law.mean()).numpy()
        for r, i in np.ndindex(len(x), 2):
            before = [j for j in range(i) if t[j] < 1]
            through = [j for j in range(i + 1 if causal else 2) if t[j] < 1]
            at = (i, x[r], 1 - t, t)
            close(denoised[r, i], reference.denoised(*at, through), atol=1e-9 * scale)
            if t[i] == 0 and not causal:
                close(mean[r, i], x[r, i], rtol=1e-15)
                close(variance[r, i], 0, atol=0)
                continue
            token = reference.clean(*at, before if causal else through)
            close(mean[r, i], token.mean(), atol=1e-9 * scale)
            close(variance[r, i], token.variance(), atol=0)
            close(density[r, i], token.log_prob(mean[r, i]), atol=1e-8)


@mixtures
@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize("bandwidth", EXTREMES)
def test_kernel_means_hold_at_every_bandwidth(make: Make, scale: float, bandwidth: float) -> None:
    target, reference = make(far_apart(scale), scale, EVEN)
    x = places(scale)
    expected = [reference.kernel_mean(row, bandwidth) for row in x]
    close(target.kernel_mean(tensor(x), bandwidth), expected, atol=1e-300)
    own = target.kernel_self_mean(bandwidth)
    assert own is not None
    close(own, reference.kernel_self_mean(bandwidth), atol=0)


def test_covariances_that_are_nearly_singular_keep_six_digits() -> None:
    # Neighbours of correlation 0.9999 and variances from 1e-4 to 1e4: a condition number of 1e12
    # that scaling the coordinates reduces to 1e5.
    N = 6
    place, deviation = np.arange(N), 10.0 ** np.linspace(-2, 2, N)
    C = 0.9999 ** abs(place - place[:, None]) * deviation * deviation[:, None]
    means = deviation[:, None] * np.array([np.zeros((N, 1)), np.ones((N, 1))])
    target = GaussianMixture(tensor(means), tensor(np.stack([C, 2 * C])), weights=tensor(EVEN))
    reference = Gaussians(means, np.stack([C, 2 * C]), EVEN)
    rng = np.random.default_rng(17)
    t = rng.choice([0.0, 1e-4, 0.3, 1.0], size=(12, N))
    alpha, sigma = 1 - t, t
    x = alpha[..., None] * reference.draw(12, rng) + sigma[..., None] * rng.normal(size=(12, N, 1))
    for causal in (False, True):
        shown = (tensor(x), tensor(t), PATHS["linear"])
        law = target.marginals(*shown, causal)
        mean, variance = law.mean().numpy(), law.variance().numpy()
        denoised = target.denoise(*shown, causal=causal).numpy()
        for r, i in np.ndindex(12, N):
            through = [j for j in range(i + 1 if causal else N) if t[r, j] < 1]
            at = (i, x[r], alpha[r], sigma[r])
            expected = reference.denoised(*at, through)
            close(denoised[r, i], expected, rtol=1e-6, atol=1e-6 * float(deviation[i]))
            if t[r, i] > 0 or causal:
                token = reference.clean(*at, [j for j in through if j < i or not causal])
                close(mean[r, i], token.mean(), rtol=1e-6, atol=1e-6 * float(deviation[i]))
                close(
                    variance[r, i],
                    token.variance(),
                    rtol=1e-6,
                    atol=1e-9 * float(deviation[i]) ** 2,
                )


def same_law(one: Target, other: Target, x: Tensor, t: Tensor) -> None:
    """Densities, conditionals, moments and kernel means agree to rounding."""
    close(one.log_prob(x), other.log_prob(x), rtol=1e-11)
    close(one.spec.mean, other.spec.mean, rtol=1e-11)
    close(one.spec.variance, other.spec.variance, rtol=1e-11)
    close(one.kernel_mean(x, 1.0), other.kernel_mean(x, 1.0), rtol=1e-11)
    for causal in (False, True):
        laws = [target.marginals(x, t, causal=causal) for target in (one, other)]
        close(laws[0].mean(), laws[1].mean(), rtol=1e-10)
        close(laws[0].variance(), laws[1].variance(), rtol=1e-10)


def some_views(seed: int, n: int = 20, tokens: int = 2) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(n, tokens, 1)), rng.choice([0, 1e-4, 0.4, 1], size=(n, tokens))
    return tensor(x), tensor(t)


@mixtures
def test_a_component_of_weight_zero_does_not_exist(make: Make) -> None:
    means = np.array([[[1.0], [0.5]], [[-1.0], [0.2]], [[np.float64(7e5)], [-7e5]]])
    target, _ = make(means, 1.0, np.array([0.3, 0.7, 0.0]))
    x, t = some_views(0)
    kept = make(means, 1.0, np.array([0.3, 0.7, 1e-300]))[1]
    close(target.log_prob(x), [kept.log_prob(row) for row in x.numpy()])
    assert float(target.sample(2000, CounterRandomness(1)).abs().max()) < 100
    for causal in (False, True):
        assert bool(target.denoise(x, t, PATHS["linear"], causal=causal).abs().max() < 100)
    close(target.spec.mean[:, 0], [0.3 - 0.7, 0.15 + 0.14], rtol=1e-12)


@pytest.mark.parametrize("make", [shared, full])
def test_rows_that_repeat_are_one_row_of_their_summed_weight(make: Make) -> None:
    means = np.random.default_rng(2).normal(size=(3, 2, 1))
    if make is full:  # its covariance depends on the component's number

        def make(means: Array, scale: float, weights: Array) -> Any:
            C = np.stack([scale**2 * (np.eye(2) + 0.5)] * len(means))
            return GaussianMixture(tensor(means), tensor(C), weights=tensor(weights)), None

    repeated = make(means[[0, 1, 1, 2, 0]], 0.5, np.array([0.1, 0.2, 0.3, 0.3, 0.1]))[0]
    distinct = make(means, 0.5, np.array([0.2, 0.5, 0.3]))[0]
    same_law(repeated, distinct, *some_views(3))


def test_data_with_repeated_rows_and_constant_columns_is_a_proper_law() -> None:
    rows = np.random.default_rng(4).normal(size=(30, 3))
    rows[:, 1] = 5.0
    repeated, x = np.concatenate([rows, rows]), tensor(rows[:10, :, None])
    t = torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.float64).expand(10, 3)
    for bandwidth in (*EXTREMES, "auto"):
        one, two = (from_samples(r, bandwidth=bandwidth) for r in (rows, repeated))
        same_law(one, two, x, t)
        assert bool(one.log_prob(x).isfinite().all())
        assert bool(one.marginals(x, t).variance()[:, 1:].gt(0).all())


@pytest.mark.parametrize("bandwidth", EXTREMES)
def test_a_single_row_is_a_gaussian_around_it(bandwidth: float) -> None:
    # One row has no spread: every column takes the deviation 1, times the bandwidth.
    target = from_samples(np.array([[3.0, -2.0]]), bandwidth=bandwidth)
    reference = Gaussians.product([[[3.0], [-2.0]]], np.full((2, 1), bandwidth))
    x = np.array([[3.0, -2.0], [3 + bandwidth, 0]])[..., None]
    close(target.log_prob(tensor(x)), [reference.log_prob(row) for row in x])


# Categorical mixtures.


def log_mixture(p: Array, w: Array, x: NDArray[np.int64]) -> float:
    """Log sum_c w_c prod_i p_ci(x_i), summed in log space."""
    with np.errstate(divide="ignore"):
        terms = np.log(p[:, np.arange(len(x)), x]).sum(1) + np.log(w)
    return float(logsumexp(terms))


def test_products_of_a_thousand_small_probabilities_do_not_underflow() -> None:
    # 1,000 tokens of probability near 1e-12 have a joint probability near e^-27631.
    rng, N, V = np.random.default_rng(5), 1000, 3
    p = np.full((3, N, V), 1e-12)
    for c, i in itertools.product(range(3), range(N)):
        p[c, i, rng.integers(V)] = 1 - 2e-12
    p[2, 10:] = 1 / 3
    p[2, :10] = [0, 0.5, 0.5]  # where symbol 0 is known, the third component is impossible
    w = np.array([0.3, 0.6, 0.1])
    target = CategoricalMixture(tensor(p), weights=tensor(w))
    x = rng.integers(0, V, size=(6, N))
    x[0] = p[0].argmax(-1)
    x[:, 0] = 0
    x[1, :10] = 1
    close(target.log_prob(tensor(x)), [log_mixture(p, w, row) for row in x], rtol=1e-11)
    known = rng.uniform(size=x.shape) < 0.9
    known[3:] = True
    known[3:, 7] = False
    for causal in (False, True):
        law = target.marginals(tensor(x), tensor(1.0 - known), causal=causal)
        found = law.mean().numpy()
        assert np.isfinite(found).all()
        for r, i in itertools.product(range(len(x)), (0, 7, 400, 999)):
            if known[r, i] and not causal:
                close(found[r, i], np.eye(V)[x[r, i]], rtol=0, atol=0)
                continue
            others = [j for j in np.flatnonzero(known[r]) if j < i or not causal]
            terms = [
                log_mixture(p[:, np.array([*others, i])], w, np.array([*x[r, others], v]))
                for v in range(V)
            ]
            close(found[r, i], np.exp(np.array(terms) - logsumexp(terms)), atol=1e-10)


def test_a_categorical_component_of_weight_zero_does_not_exist() -> None:
    p = np.array([[[1.0, 0], [0.5, 0.5]], [[0.2, 0.8], [0.3, 0.7]], [[0, 1.0], [1.0, 0]]])
    target = CategoricalMixture(tensor(p), weights=tensor([0.4, 0.6, 0.0]))
    kept = CategoricalMixture(tensor(p[:2]), weights=tensor([0.4, 0.6]))
    x = tensor(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    for t in ([0.0, 1.0], [1.0, 0.0], [1.0, 1.0]):
        same_law(target, kept, x, tensor(t).expand(4, 2))


@pytest.mark.parametrize("smoothing", [0.0, 1e-12, 0.1, 0.999])
def test_tables_with_repeated_rows_constant_columns_or_one_row_are_proper(smoothing: float) -> None:
    rows = np.array([[0, 2, 1], [0, 2, 1], [1, 2, 0], [0, 2, 0]])  # the middle column is constant
    distinct, w = rows[1:], np.array([2.0, 1, 1])
    one = CategoricalMixture.of_rows(tensor(rows), vocabulary=3, smoothing=smoothing)
    two = CategoricalMixture.of_rows(
        tensor(distinct), vocabulary=3, smoothing=smoothing, weights=tensor(w)
    )
    x = tensor(rows)
    for t in ([0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]):
        same_law(one, two, x, tensor(t).expand(4, 3))
    close(one.spec.mean[1], [0, 0, 1], atol=0)
    single = CategoricalMixture.of_rows(tensor(rows[:1]), vocabulary=3, smoothing=smoothing)
    assert float(single.log_prob(x)[0]) == pytest.approx(0, abs=1e-12)  # its own marginals
    assert float(single.log_prob(x)[2]) == -np.inf
    assert torch.equal(single.sample(5, CounterRandomness(0)), x[:1].expand(5, 3))


@pytest.mark.parametrize("bandwidth", EXTREMES)
def test_categorical_kernel_means_hold_at_every_bandwidth(bandwidth: float) -> None:
    # E k(x, Y) = sum_c w_c prod_i (q_i + (1 - q_i) e^{-1/h^2}), q_i = p_ci(x_i).
    p, w = np.random.default_rng(6).dirichlet(np.ones(4), size=(3, 50)), np.full(3, 1 / 3)
    target = CategoricalMixture(tensor(p), weights=tensor(w))
    x, off = target.sample(5, CounterRandomness(0)), np.exp(-(bandwidth**-2))
    q = p[:, np.arange(50), x.numpy()[:, None]][:, :, 0]  # (K, n, N)
    expected = np.einsum("k,kn->n", w, (q + (1 - q) * off).prod(-1))
    close(target.kernel_mean(x, bandwidth), expected, atol=1e-300)
    own = target.kernel_self_mean(bandwidth)
    same = np.einsum("aiv,biv->abi", p, p)
    assert own is not None
    close(own, w @ (same + (1 - same) * off).prod(-1) @ w, atol=0)


# Long chains.


def log(p: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(p)


def peaked(size: int, other: float, rng: np.random.Generator) -> Array:
    """Rows with one probability near 1, at random places, and `other` elsewhere."""
    p = np.full((size, size), other)
    p[np.arange(size), rng.permutation(size)] = 1 - (size - 1) * other
    return p


def check_chain(target: Target, chain: LogChain, x: NDArray[np.int64], seed: int) -> None:
    """Joint probabilities, and conditionals given random masks, against the log-space recursion."""
    close(target.log_prob(tensor(x)), [chain.log_prob(row) for row in x], rtol=1e-10)
    rng = np.random.default_rng(seed)
    known = rng.uniform(size=x.shape) < np.array([0.9, 0.2])[:, None]
    for causal in (False, True):
        law = target.marginals(tensor(x), tensor(1.0 - known), causal=causal).mean().numpy()
        for r in range(len(x)):
            expected = np.exp(chain.marginals(x[r], known[r], causal))
            where = np.full(x.shape[1], True) if causal else ~known[r]
            close(law[r][where], expected[where], rtol=1e-7, atol=1e-10)
            if not causal:
                one_hot = np.eye(law.shape[-1])[x[r, known[r]]]
                close(law[r][known[r]], one_hot, rtol=0, atol=0)


def test_a_chain_of_slightly_different_parameters_is_caught() -> None:
    rng, S, N = np.random.default_rng(18), 3, 20
    initial, transition, emission = (rng.dirichlet(np.ones(S), size=n) for n in (1, S, S))
    target = HiddenMarkov(
        tensor(initial[0]), transition=tensor(transition), emission=tensor(emission), tokens=N
    )
    x = rng.integers(0, S, size=(2, N))
    check_chain(target, LogChain(log(initial[0]), log(transition), log(emission)), x, 19)
    nudge = 1e-6 * np.array([1.0, -1, 0])
    with pytest.raises(AssertionError):
        check_chain(
            target, LogChain(log(initial[0]), log(transition + nudge), log(emission)), x, 19
        )


@pytest.mark.parametrize("sticky", [False, True])
def test_a_hidden_markov_model_of_512_tokens_and_64_states_does_not_underflow(
    sticky: bool,
) -> None:
    rng, S, N = np.random.default_rng(7), 64, 512
    initial, emission = rng.dirichlet(np.ones(S)), peaked(S, 1e-12, rng)
    transition = peaked(S, 1e-9, rng) if sticky else rng.dirichlet(np.full(S, 0.05), size=S)
    target = HiddenMarkov(
        tensor(initial), transition=tensor(transition), emission=tensor(emission), tokens=N
    )
    drawn = target.sample(1, CounterRandomness(0)).numpy()
    anything = rng.integers(0, S, size=(1, N))  # nearly every token is a surprise
    chain = LogChain(log(initial), log(transition), log(emission))
    check_chain(target, chain, np.concatenate([drawn, anything]), 8)


def test_a_regime_that_lost_by_ten_to_the_minus_7000_wins_when_the_other_is_ruled_out() -> None:
    # Two regimes that never mix. The first explains 600 zeros, the second needs 1e-12 for each; the
    # last symbol, 2, is impossible in the first. Scaled probabilities lose the second on the way.
    initial, N = np.array([0.25, 0.25, 0.5]), 601
    transition = np.array([[0.7, 0.3, 0], [0.4, 0.6, 0], [0, 0, 1.0]])
    emission = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [1e-12, 0.4, 0.6]])
    target = HiddenMarkov(
        tensor(initial), transition=tensor(transition), emission=tensor(emission), tokens=N
    )
    x = np.zeros((2, N), dtype=np.int64)
    x[:, -1] = 2
    check_chain(target, LogChain(log(initial), log(transition), log(emission)), x, 9)
    # Given everything else, the token before the last is in the second regime: its emission.
    t = torch.zeros(2, N, dtype=torch.float64)
    t[:, 300] = 1
    law = target.marginals(tensor(x), t).mean()[0, 300]
    close(law, emission[2] / emission[2].sum(), rtol=1e-9)


def test_potentials_far_from_one_are_normalised_without_overflow() -> None:
    rng, S, V, N = np.random.default_rng(10), 3, 4, 300
    a, A, B = rng.uniform(size=S), 1e6 * rng.uniform(size=(S, S)), 1e9 * rng.uniform(size=(S, V))
    target = HiddenMarkov.from_potentials(
        tensor(a), transition=tensor(A), emission=tensor(B), tokens=N
    )
    small = HiddenMarkov.from_potentials(
        tensor(a), transition=tensor(1e-15 * A), emission=tensor(1e-18 * B), tokens=N
    )
    x = rng.integers(0, V, size=(2, N))
    chain = LogChain(log(a), log(A), log(B))
    # log Z: the emissions summed over symbols are what an unseen token contributes.
    total = LogChain(log(a), log(A), log(B.sum(1, keepdims=True)))
    log_z = total.log_prob(np.zeros(N, dtype=np.int64))
    expected = [chain.log_prob(row) - log_z for row in x]
    close(target.log_prob(tensor(x)), expected, rtol=1e-10)
    close(small.log_prob(tensor(x)), expected, rtol=1e-10)


def test_a_markov_chain_of_512_tokens_and_64_symbols_does_not_underflow() -> None:
    rng, V, N = np.random.default_rng(11), 64, 512
    initial, table = rng.dirichlet(np.ones(V)), peaked(V, 1e-12, rng)
    target = MarkovChain([tensor(initial), tensor(table)], tokens=N)
    drawn = target.sample(1, CounterRandomness(0)).numpy()
    x = np.concatenate([drawn, rng.integers(0, V, size=(1, N))])
    check_chain(target, LogChain(log(initial), log(table), log(np.eye(V))), x, 12)


@pytest.mark.parametrize("least", [1e-12, 1e-40, 1e-120, 1e-290])
@pytest.mark.parametrize("hidden", [False, True])
def test_transitions_of_nearly_no_probability_do_not_underflow(hidden: bool, least: float) -> None:
    # Random symbols take such a transition at nearly every step; every symbol reveals its state.
    rng, V, N = np.random.default_rng(15), 6, 70
    initial, table, reveal = rng.dirichlet(np.ones(V)), peaked(V, least, rng), np.eye(V)
    if hidden:
        target: Target = HiddenMarkov(
            tensor(initial), transition=tensor(table), emission=tensor(reveal), tokens=N
        )
    else:
        target = MarkovChain([tensor(initial), tensor(table)], tokens=N)
    x = rng.integers(0, V, size=(2, N))
    check_chain(target, LogChain(log(initial), log(table), log(reveal)), x, 16)


def test_a_long_chain_of_order_two_knows_a_token_from_the_factors_that_touch_it() -> None:
    # p(x_i = v | all others) ~ p(v | x_i-2, x_i-1) p(x_i+1 | x_i-1, v) p(x_i+2 | v, x_i+1).
    rng, V, N = np.random.default_rng(13), 11, 1024
    tables = [rng.dirichlet(np.full(V, 0.1), size=(V,) * m) + 1e-12 for m in range(3)]
    tables = [table / table.sum(-1, keepdims=True) for table in tables]
    target = MarkovChain([tensor(table) for table in tables], tokens=N)
    x = rng.integers(0, V, size=N)
    terms = [tables[0][x[0]], tables[1][x[0], x[1]], *tables[2][x[:-2], x[1:-1], x[2:]]]
    close(target.log_prob(tensor(x[None])), [np.log(terms).sum()], rtol=1e-11)
    hidden = np.array([5, 300, 1000])
    t = torch.zeros(3, N, dtype=torch.float64)
    t[torch.arange(3), torch.tensor(hidden)] = 1
    law = target.marginals(tensor(np.tile(x, (3, 1))), t).mean().numpy()
    T = tables[2]
    for r, i in enumerate(hidden):
        p = T[x[i - 2], x[i - 1]] * T[x[i - 1], :, x[i + 1]] * T[:, x[i + 1], x[i + 2]]
        close(law[r, i], p / p.sum(), atol=1e-10)
    causal = target.marginals(tensor(x[None]), torch.zeros(1, N), causal=True).mean()[0]
    close(causal[2:], T[x[:-2], x[1:-1]], atol=1e-12)


@pytest.mark.parametrize("bandwidth", EXTREMES)
def test_kernel_means_of_long_chains_are_probabilities(bandwidth: float) -> None:
    rng, S, N = np.random.default_rng(14), 4, 1024
    initial, transition, emission = (rng.dirichlet(np.ones(S), size=n) for n in (1, S, S))
    targets: list[Target] = [
        HiddenMarkov(
            tensor(initial[0]), transition=tensor(transition), emission=tensor(emission), tokens=N
        ),
        MarkovChain([tensor(initial[0]), tensor(transition)], tokens=N),
    ]
    for target in targets:
        found = target.kernel_mean(target.sample(3, CounterRandomness(0)), bandwidth)
        own = target.kernel_self_mean(bandwidth)
        assert own is not None
        for value in (*found.tolist(), own):
            assert 0 <= value <= 1 + 1e-12
            if bandwidth == 1e3:  # between no and all N tokens differ
                assert np.exp(-N / bandwidth**2) <= value


@pytest.mark.parametrize("ratio", [1e3, 1e6, 1e9])
def test_coordinates_of_very_different_size_keep_their_digits(ratio: float) -> None:
    # A correlation matrix scaled by (1, 1, ratio): the density is that of the standardised rows.
    rng = np.random.default_rng(0)
    correlation = np.array([[1, 0.5, 0.6], [0.5, 1, 0.7], [0.6, 0.7, 1]])
    scale = np.array([1.0, 1.0, ratio])
    z = rng.normal(size=(6, 3)) @ np.linalg.cholesky(correlation).T
    expected = stats.multivariate_normal(cov=correlation).logpdf(z) - np.log(ratio)
    law = GaussianMixture(
        torch.zeros(1, 3, 1).double(), tensor(correlation * np.outer(scale, scale))[None]
    )
    x = tensor(z * scale)[..., None]
    assert law.log_prob(x).tolist() == pytest.approx(expected.tolist(), abs=1e-7)
    # The two small coordinates at equal levels: the mean of a Gaussian given noisy numbers.
    t = 0.01
    noisy = (1 - t) ** 2 * correlation * np.outer(scale, scale) + t**2 * np.eye(3)
    size = np.sqrt(np.diag(noisy))
    gain = (1 - t) * correlation * np.outer(scale, scale / size)
    clean = (gain @ np.linalg.solve(noisy / np.outer(size, size), (z * scale / size).T)).T
    found = law.denoise(x, torch.full((6, 3), t).double(), PATHS["linear"])[..., 0].numpy()
    assert found / scale == pytest.approx(clean / scale, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-13, 1e-100])
def test_data_in_tiny_units_are_the_same_law_in_those_units(scale: float) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 2))
    unit, tiny = from_samples(rows), from_samples(scale * rows)
    x = torch.from_numpy(rows[:5])[..., None]
    expected = unit.log_prob(x) - 2 * math.log(scale)
    assert tiny.log_prob(scale * x).tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_float32_oracles_agree_with_float64_at_3072_dimensions_and_little_noise() -> None:
    # The acceptance line: 1e-4 relative. Queries lie next to data rows, where distances cancel.
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3072, 1))
    scales = torch.full((3072, 1), 0.01).double()
    double = ProductMixture(tensor(rows), scales)
    single = double.to(device="cpu", dtype=torch.float32)
    t = 0.01
    x = tensor((1 - t) * rows[:20] + t * rng.normal(size=(20, 3072, 1)))
    levels = torch.full((20, 3072), t).double()
    for path in PATHS.values():
        wide = double.denoise(x, levels, path)
        narrow = single.denoise(x.float(), levels.float(), path).double()
        assert float((narrow - wide).norm() / wide.norm()) < 1e-4
    wide, narrow = double.log_prob(x), single.log_prob(x.float()).double()
    assert float(((narrow - wide) / wide).abs().max()) < 1e-4
    # The plain expanded square in float32 is not so exact.
    a, b = x[..., 0].float(), tensor(rows[..., 0]).float()
    plain = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).double()
    exact = (x[:, None, :, 0] - tensor(rows[None, :20, :, 0])).square().sum(2)
    error = (plain[:, :20].diagonal() - exact.diagonal()).abs() / exact.diagonal()
    assert float(error.max()) > 1e-4


def test_pairs_of_sequences_that_would_take_minutes_are_not_summed() -> None:
    table = torch.rand(20, 20, 20, 20, generator=torch.Generator().manual_seed(0)).double()
    lower = [table[0, 0, 0], table[0, 0], table[0], table]
    slow = MarkovChain([t / t.sum(-1, keepdim=True) for t in lower], tokens=16)
    assert slow.kernel_self_mean(3.0) is None
    wide = torch.rand(3000, generator=torch.Generator().manual_seed(0)).double()
    assert MarkovChain([wide / wide.sum()], tokens=4).kernel_self_mean(3.0) is None
