"""KSD against a naive double loop by automatic derivatives, quadrature, and repetition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics import stein as module
from capcheck.diagnostics.stein import ksd_squared, smoothed_scores, stein_test
from capcheck.targets import GaussianMixture, ProductMixture, from_spec
from capcheck.targets.target import ContinuousTarget


def normal(seed: int, shape: tuple[int, ...], name: str = "") -> Tensor:
    return CounterRandomness(seed, name=name).normal(shape)


def by_derivatives(x: Tensor, s: Tensor, c: float) -> Tensor:
    """u of every pair, (n, n), by automatic derivatives of the kernel alone."""

    u = torch.zeros(len(x), len(x), dtype=torch.float64)
    for i, of_a in enumerate(s):
        for j, of_b in enumerate(s):
            a, b = (z.clone().requires_grad_(True) for z in (x[i], x[j]))
            k = (1 + (a - b).square().sum() / c**2) ** -0.5
            first, second = torch.autograd.grad(k, [a, b], create_graph=True)
            mixed = [
                torch.autograd.grad(g, b, retain_graph=True)[0][d] for d, g in enumerate(first)
            ]
            u[i, j] = ((of_a @ of_b) * k + of_a @ second + of_b @ first + sum(mixed)).detach()
    return u


def test_it_is_the_u_statistic_of_a_naive_double_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    x, s = normal(0, (15, 3)) + 5, normal(1, (15, 3))  # any vectors will do as scores
    u = by_derivatives(x, s, 1.7).fill_diagonal_(0)
    whole = ksd_squared(x, s, c=1.7)
    assert whole.value == pytest.approx(float(u.sum()) / (15 * 14), abs=1e-12)
    # Sum of the influences' error and half the second order's, from the matrix itself.
    r = u.sum(1) / 14
    centred = (u - r[:, None] - r + r.mean()).fill_diagonal_(0)
    second = math.sqrt(2 * float(centred.square().sum()) / (15 * 14)) / 15
    expected = float((2 * r).std()) / math.sqrt(15) + 0.5 * second
    assert whole.standard_error == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(module, "TILE", 8)
    assert ksd_squared(x, s, c=1.7).value == pytest.approx(whole.value, abs=1e-13)
    assert ksd_squared(x, s, c=1.8).value != pytest.approx(whole.value, abs=1e-6)


def test_signs_of_the_wild_bootstrap_meet_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", 8)
    x, s = normal(0, (15, 2)), normal(1, (15, 2))
    u = by_derivatives(x, s, 1.0).fill_diagonal_(0)
    signs = 2.0 * (normal(2, (15, 5)) > 0).double() - 1
    sums = module._summed(x, s, signs, 1.0)[1]
    expected = torch.einsum("ib,ij,jb->b", signs, u, signs) / (15 * 14)
    assert torch.allclose(sums, expected, atol=1e-13)


# Known answers: KSD^2 = E delta(X) k(X, X') delta(X') with delta = s_p - s_q (Liu et al.)


def shifted(m: float, c: float) -> float:
    """N(m, 1) against N(0, 1): delta = -m, and X - X' is N(0, 2)."""
    value, _ = integrate.quad(
        lambda r: (1 + (r / c) ** 2) ** -0.5 * stats.norm.pdf(r, scale=math.sqrt(2)), -40, 40
    )
    return m**2 * float(value)


def scaled(v: float, c: float) -> float:
    """N(0, v) against N(0, 1): delta(x) = x / v - x, by Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    x, w = math.sqrt(v) * nodes, weights / weights.sum()
    delta = w * (x / v - x)
    return float(delta @ ((1 + ((x[:, None] - x) / c) ** 2) ** -0.5) @ delta)


@pytest.mark.parametrize(("m", "v"), [(0.5, 1.0), (0.0, 0.5), (0.0, 2.0)])
def test_the_interval_covers_quadrature(m: float, v: float) -> None:
    exact = shifted(m, 1.3) if m else scaled(v, 1.3)
    terms = []
    for run in range(150):
        x = m + math.sqrt(v) * normal(run, (250, 1))
        terms.append(ksd_squared(x, -x, c=1.3))
    values = np.array([term.value for term in terms])
    assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(150)
    hits = [low <= exact <= high for low, high in (term.interval(0.95) for term in terms)]
    assert np.mean(hits) >= 0.91
    wrong = [low <= 2 * exact <= high for low, high in (term.interval(0.95) for term in terms)]
    assert np.mean(wrong) < 0.5


@pytest.mark.parametrize("dim", [1, 4])
def test_equal_laws_are_at_zero_with_uniform_p_values(dim: int) -> None:
    found = []
    for run in range(150):
        x = normal(run, (150, dim))
        found.append(
            stein_test(x, -x, c=math.sqrt(2 * dim), rng=CounterRandomness(run), resamples=49)
        )
    p = np.array([test.p_value for test in found]) - np.random.default_rng(0).random(150) / 50
    assert stats.kstest(p, "uniform").pvalue > 0.01
    ends = [test.ksd_squared.interval(0.95) for test in found]
    assert np.mean([low <= 0 <= high for low, high in ends]) >= 0.95
    x = normal(0, (150, dim)) + 0.5
    assert stein_test(x, -x, c=1.0, rng=CounterRandomness(0)).p_value < 0.01


def test_a_collapsed_sampler_is_evidence_with_an_interval() -> None:
    x = torch.full((50, 2), 0.3, dtype=torch.float64)
    found = stein_test(x, -x, c=2.0, rng=CounterRandomness(0))
    # |s|^2 + D / c^2 = 0.18 + 0.5 for every pair of equal rows
    assert found.ksd_squared.value == pytest.approx(0.68)
    assert found.ksd_squared.standard_error > 0
    assert found.p_value == pytest.approx(1 / 201, abs=1e-9)


# Scores


def test_scores_of_a_gaussian_are_linear() -> None:
    target = from_spec("gaussian:ar1,tokens=4,rho=0.8,std=3")
    assert isinstance(target, ContinuousTarget)
    x = target.sample(200, CounterRandomness(0))
    z, scores = smoothed_scores(target, x, rng=CounterRandomness(1))
    # In standard deviations: correlation .8^|i-j|, to which the noise adds .1^2.
    covariance = 0.8 ** np.abs(np.subtract.outer(range(4), range(4))) + 0.01 * np.eye(4)
    expected = -np.linalg.solve(covariance, z.numpy().T).T
    assert np.allclose(scores, expected, rtol=1e-9, atol=1e-9)
    assert not np.allclose(scores, -np.linalg.solve(covariance - 0.01 * np.eye(4), z.T).T)
    assert float((z - x.flatten(1) / 3).std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_scores_of_a_mixture_are_those_of_finite_differences_in_every_unit(unit: float) -> None:
    means, deviation = np.array([-1.0, 2.0]), 0.4
    target = ProductMixture(
        unit * torch.from_numpy(means)[:, None, None],
        torch.full((1, 1), unit * deviation, dtype=torch.float64),
        torch.tensor([0.3, 0.7], dtype=torch.float64),
    )
    x = target.sample(100, CounterRandomness(0))
    z, scores = smoothed_scores(target, x, rng=CounterRandomness(1))
    spread = math.sqrt(deviation**2 + 0.21 * 3**2)  # .3 x .7 x 3^2 between the components
    width = math.sqrt((deviation / spread) ** 2 + 0.01)

    def log_density(t: np.ndarray) -> np.ndarray:
        parts = stats.norm.pdf(t[:, None], means / spread, width) @ [0.3, 0.7]
        return np.asarray(np.log(parts))

    t = z[:, 0].numpy()
    expected = (log_density(t + 1e-5) - log_density(t - 1e-5)) / 2e-5
    assert np.allclose(scores[:, 0], expected, rtol=1e-5, atol=1e-5)
    off = target.to(device="cpu", dtype=torch.float32)
    single = smoothed_scores(off, x.float(), rng=CounterRandomness(1))[1]
    assert torch.allclose(single, scores, rtol=0, atol=2e-3) == (unit < 1e6)


def test_draws_of_a_mixture_are_accepted_and_others_are_not() -> None:
    target = from_spec("modes:tokens=3,modes=2,gap=2")
    assert isinstance(target, GaussianMixture | ProductMixture)
    x = target.sample(500, CounterRandomness(0))
    p = []
    for draws in (x, 0.7 * x, x.flip(0) * torch.tensor([1.0, -1.0, 1.0])[:, None]):
        z, scores = smoothed_scores(target, draws, rng=CounterRandomness(1))
        p.append(stein_test(z, scores, c=2.4, rng=CounterRandomness(2)).p_value)
    assert p[0] > 0.05
    assert max(p[1:]) < 0.01


GOOD = normal(0, (5, 2))


@pytest.mark.parametrize(
    ("x", "scores", "c", "message"),
    [
        (GOOD[:1], GOOD[:1], 1.0, "n at least 2"),
        (GOOD, GOOD[:4], 1.0, r"must both be \(n, D\)"),
        (GOOD.long(), GOOD, 1.0, "needs numbers"),
        (GOOD.masked_fill(GOOD > 0, math.nan), GOOD, 1.0, "draws must be finite"),
        (GOOD, GOOD.masked_fill(GOOD > 0, math.inf), 1.0, "scores must be finite"),
        (GOOD, GOOD, 0.0, "c must be positive"),
        (GOOD, GOOD, math.inf, "c must be positive"),
    ],
)
def test_bad_input_is_one_clear_error(x: Tensor, scores: Tensor, c: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ksd_squared(x, scores, c=c)


def test_no_resamples_noise_or_variance_are_errors() -> None:
    with pytest.raises(InputError, match="resamples must be at least 1"):
        stein_test(GOOD, GOOD, c=1.0, rng=CounterRandomness(0), resamples=0)
    target = from_spec("gaussian:tokens=2")
    assert isinstance(target, ContinuousTarget)
    with pytest.raises(InputError, match="noise must be positive"):
        smoothed_scores(target, GOOD[:, :, None], rng=CounterRandomness(0), noise=0.0)
