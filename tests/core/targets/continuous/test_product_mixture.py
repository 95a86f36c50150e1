"""The engine against scipy's densities and adaptive quadrature."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from reference.mixtures import Mixture
from scipy import integrate, stats

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.laws import MixtureOfGaussians
from capcheck.noise.paths import PATHS
from capcheck.targets import ProductMixture, components

RANDOM = np.random.default_rng(11)


def outside(target: ProductMixture) -> Mixture:
    weights = np.array([0.2, 0.5, 0.3])
    return Mixture(target.means[..., 0].numpy(), target.scales[:, 0].numpy(), weights)


def levels(case: int) -> np.ndarray:
    drawn = np.random.default_rng(case).choice([0.0, 1.0, 1e-3, 0.1, 0.4, 0.9], size=3)
    return np.asarray(drawn)


def test_log_densities_and_scores_of_one_pass_are_those_of_the_reference(
    three: ProductMixture,
) -> None:
    reference, h = outside(three), 1e-5
    x = np.random.default_rng(4).normal(size=(6, 3))
    log_prob, score = three.log_prob_and_score(torch.tensor(x)[..., None])
    for row, value, slope in zip(x, log_prob, score, strict=True):
        assert float(value) == pytest.approx(reference.log_prob(row), abs=1e-12)
        for i, step in enumerate(h * np.eye(3)):
            rise = reference.log_prob(row + step) - reference.log_prob(row - step)
            assert float(slope[i, 0]) == pytest.approx(rise / (2 * h), abs=1e-8)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("case", range(12))
@pytest.mark.parametrize("causal", [False, True])
def test_marginals_and_denoisers_agree_with_quadrature(
    three: ProductMixture, path: str, case: int, causal: bool
) -> None:
    reference, t = outside(three), levels(case)
    x = np.random.default_rng(100 + case).normal(size=3)
    schedule = PATHS[path]  # type: ignore[index]
    alpha, sigma = (f(torch.tensor(t)).numpy() for f in (schedule.alpha, schedule.sigma))
    shown, at = torch.tensor(x)[None, :, None], torch.tensor(t)[None]
    law = three.marginals(shown, at, schedule, causal)
    denoised = three.denoise(shown, at, schedule, causal=causal)
    value = torch.tensor([[[0.2], [0.4], [-0.3]]], dtype=torch.float64)
    for i in range(3):
        before = [j for j in range(i) if t[j] < 1]
        seen = before if causal else [j for j in range(3) if t[j] < 1]
        if t[i] > 0 or causal:
            mass, mean, variance = reference.clean_moments(i, x, alpha, sigma, seen)
            density = reference.clean_density(i, float(value[0, i]), x, alpha, sigma, seen) / mass
            assert law.mean()[0, i, 0] == pytest.approx(mean, abs=1e-8)
            assert law.variance()[0, i, 0] == pytest.approx(variance, abs=1e-8)
            assert law.log_prob(value)[0, i].exp() == pytest.approx(density, rel=1e-7, abs=1e-12)
        if causal:
            seen = [*before, i] if t[i] < 1 else before
        expected = x[i] if t[i] == 0 else reference.clean_moments(i, x, alpha, sigma, seen)[1]
        assert denoised[0, i, 0] == pytest.approx(expected, abs=1e-8)


def test_log_prob_agrees_with_scipy_and_integrates_to_one(three: ProductMixture) -> None:
    reference = outside(three)
    for x in RANDOM.normal(size=(5, 3)):
        log_prob = three.log_prob(torch.tensor(x)[None, :, None])
        assert float(log_prob) == pytest.approx(reference.log_prob(x), abs=1e-12)
    one = ProductMixture(three.means[:, :1], three.scales[:1])
    f = lambda v: float(one.log_prob(torch.tensor([[[v]]], dtype=torch.float64)).exp())  # noqa: E731
    assert integrate.quad(f, -12, 12, limit=200, epsabs=1e-12)[0] == pytest.approx(1, abs=1e-9)


def test_the_chain_rule_recovers_the_joint_density(digits: ProductMixture) -> None:
    x = digits.sample(50, CounterRandomness(0))
    joint = digits.log_prob(x)
    causal = digits.marginals(x, torch.zeros(50, 8), causal=True).log_prob(x).sum(1)
    assert (causal - joint).abs().max() < 1e-9


def test_the_denoiser_is_tweedies_formula(three: ProductMixture) -> None:
    # E[x_0 | x_t] = (x_t + sigma^2 d/dx log p_t(x_t)) / alpha, with p_t by scipy and differences.
    t, step = 0.4, 1e-5
    reference = outside(three)
    x = np.array([0.3, -0.2, 0.9])
    alpha, sigma = np.full(3, 1 - t), np.full(3, t)

    def log_p(y: np.ndarray) -> float:
        return float(np.log(reference.evidence(y, alpha, sigma, range(3)).sum()))

    denoised = three.denoise(torch.tensor(x)[None, :, None], torch.full((1, 3), t), PATHS["linear"])
    for i in range(3):
        e = step * np.eye(3)[i]
        score = (log_p(x + e) - log_p(x - e)) / (2 * step)
        assert denoised[0, i, 0] == pytest.approx((x[i] + t**2 * score) / (1 - t), abs=1e-7)


def test_a_causal_denoiser_ignores_later_tokens(three: ProductMixture) -> None:
    x = torch.randn(1, 3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved, t = x.clone(), torch.full((1, 3), 0.3, dtype=torch.float64)
    moved[:, 2] += 5
    a, b = (three.denoise(y, t, PATHS["linear"], causal=True) for y in (x, moved))
    assert torch.equal(a[:, :2], b[:, :2])
    assert not torch.equal(a[:, 2], b[:, 2])


def test_what_stands_at_an_unseen_token_may_be_anything(three: ProductMixture) -> None:
    x = torch.tensor([[[0.1], [torch.nan], [0.2]]], dtype=torch.float64)
    mean = three.marginals(x, torch.tensor([[0.0, 1.0, 0.0]])).mean()
    assert bool(mean.isfinite().all())


def test_samples_follow_the_law(three: ProductMixture) -> None:
    draws = three.sample(6000, CounterRandomness(4))
    law = three.marginals(draws, torch.zeros(6000, 3), causal=True)
    for i, u in enumerate(law.cdf(draws).T):  # Rosenblatt: uniform and independent if exact
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3, i
    again = law.sample(CounterRandomness(5))
    assert stats.kstest(law.cdf(again).flatten().numpy(), "uniform").pvalue > 1e-3


def test_quantiles_invert_the_cdf(three: ProductMixture) -> None:
    x = three.sample(40, CounterRandomness(4))
    law = three.marginals(x, torch.full((40, 3), 0.6))
    u = CounterRandomness(9).uniform((40, 3))
    assert (law.cdf(law.icdf(u)) - u).abs().max() < 1e-9


def test_vector_tokens_agree_with_an_explicit_mixture() -> None:
    means = torch.tensor(RANDOM.normal(size=(4, 3, 2)))
    scales = torch.tensor(RANDOM.uniform(0.3, 1, size=(3, 2)))
    target = ProductMixture(means, scales)
    x = torch.tensor(RANDOM.normal(size=(6, 3, 2)))
    law = target.marginals(x, torch.ones(6, 3)).select([2, 0])
    explicit = MixtureOfGaussians(
        torch.zeros(1, 1, 4, dtype=torch.float64),
        means[:, [2, 0]].transpose(0, 1)[None],
        scales[[2, 0]].square()[None, :, None],
    )
    assert (law.log_prob(x[:, [2, 0]]) - explicit.log_prob(x[:, [2, 0]])).abs().max() < 1e-10
    assert (law.mean() - explicit.mean()).abs().max() < 1e-12
    assert (law.variance() - explicit.variance()).abs().max() < 1e-12


def test_float32_variances_keep_their_digits_between_near_components() -> None:
    # Two components lie 1e-3 apart, and a third keeps the centre away from both. By hand: the
    # gain times the variance of one, and gain^2 w (1 - w) times their squared distance.
    means = torch.tensor([30.0, 30.001, -60.0], dtype=torch.float64)[:, None, None]
    scale, t = 1e-5, 2.0**-10  # a level that float32 holds
    target = ProductMixture(means, torch.full((1, 1), scale).double(), dtype=torch.float32)
    x = torch.full((1, 1, 1), 30.0 * (1 - t))
    law = target.marginals(x, torch.full((1, 1), t))
    V = (1 - t) ** 2 * scale**2 + t**2
    odds = stats.norm.pdf(float(x), (1 - t) * means[:2, 0, 0].numpy(), np.sqrt(V))
    w, gain = odds[0] / odds.sum(), t**2 / V
    between = w * (1 - w) * 1e-6
    expected = gain * scale**2 + gain**2 * between
    assert float(law.variance()) == pytest.approx(expected, rel=1e-6)
    first, second = target._components.moments(law._view.evidence)  # type: ignore[attr-defined]
    assert float(second - first.square()) != pytest.approx(between, rel=0.1)  # float32 moments


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_changed_means_keep_their_precision(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capcheck.targets.continuous.product_mixture.READ", 12)  # several parts
    means = torch.tensor(RANDOM.normal(size=(5, 3, 2))).to(dtype)
    target = ProductMixture(means, torch.full((3, 2), 0.5).double(), dtype=torch.float64)
    Q = np.linalg.qr(RANDOM.normal(size=(6, 6)))[0]
    units, t = RANDOM.uniform(0.5, 2, (3, 2)), np.array([0.1, 0.5, 0.9])
    wide = means.double().numpy()
    for changed, expected in (
        (target.with_noise(torch.tensor(t)), (1 - t)[:, None] * wide),
        (target.rescaled(torch.tensor(units)), wide / units),
        (target.transformed(torch.tensor(Q)), (wide.reshape(5, 6) @ Q.T).reshape(5, 3, 2)),
    ):
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        assert (changed.means.dtype, changed.dtype) == (kept, torch.float64)
        error = 1e-14 if kept == torch.float64 else 1e-6
        assert changed.means.double().numpy() == pytest.approx(expected, abs=error)


@pytest.mark.parametrize("h", [0.3, 2.0])
def test_kernel_means_agree_with_quadrature(three: ProductMixture, h: float) -> None:
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    one = ProductMixture(three.means[:, :1], three.scales[:1], weights)
    reference = Mixture(one.means[..., 0].numpy(), one.scales[:, 0].numpy(), [0.2, 0.5, 0.3])

    def p(y: float) -> float:
        return float(np.exp(reference.log_prob(np.array([y]))))

    def kernel_mean(x: float) -> float:
        f = lambda y: p(y) * np.exp(-((x - y) ** 2) / (2 * h**2))  # noqa: E731
        return float(integrate.quad(f, -10, 10, limit=200, points=[x])[0])

    x = torch.tensor([[[-0.4]], [[1.5]]], dtype=torch.float64)
    expected = [kernel_mean(-0.4), kernel_mean(1.5)]
    assert one.kernel_mean(x, h).tolist() == pytest.approx(expected, rel=1e-8)
    own = integrate.quad(lambda v: p(v) * kernel_mean(v), -8, 8, limit=200)[0]
    assert one.kernel_self_mean(h) == pytest.approx(own, rel=1e-7)


def test_tiles_do_not_change_results(
    digits: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = digits.sample(30, CounterRandomness(0))
    t = CounterRandomness(1).uniform((30, 8))

    def results() -> list[torch.Tensor]:
        law = digits.marginals(x, t)
        causal = digits.denoise(x, t, PATHS["cosine"], causal=True)
        return [law.mean(), law.variance(), law.log_prob(x), digits.log_prob(x), causal]

    whole = results()
    monkeypatch.setattr(components, "TILE", 1 << 10)
    monkeypatch.setattr(components, "WIDTH", 100)
    for a, b in zip(whole, results(), strict=True):
        assert (a - b).abs().max() < 1e-10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_rows_times_components() -> None:
    # The logits of 20,000 rows and 20,000 components would take 3 GiB.
    code = """
import re, torch
from capcheck.noise.paths import PATHS
from capcheck.targets import ProductMixture

def peak():  # in KiB; getrusage would start at the parent's
    return int(re.findall(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[0])

target = ProductMixture(torch.randn(20000, 2, 1).double(), torch.ones(2, 1).double())
x = torch.randn(20000, 2, 1).double()
before = peak()
target.denoise(x, torch.full((20000, 2), 0.5), PATHS["linear"])
tiled = peak() - before
(torch.zeros(4000, 20000).double() + 1).exp_()
print(tiled, peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tiled, whole = (int(number) for number in done.stdout.split())
    assert tiled < 400_000  # a tile is 8 MiB; the rest is what the allocator keeps
    assert whole > 1_000_000  # the measure sees an untiled matrix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.zeros(2, 3)}, "shape"),
        ({"scales": torch.ones(2, 1)}, "to fit the means"),
        ({"scales": torch.zeros(3, 1)}, "positive"),
        ({"weights": torch.tensor([1.0, -1.0])}, "non-negative"),
        ({"weights": torch.zeros(2)}, "not all zero"),
        ({"means": torch.full((2, 3, 1), torch.nan)}, "finite"),
        ({"grid": (2, 2)}, "hold the 3 tokens"),
    ],
)
def test_bad_parameters_are_refused(change: dict[str, torch.Tensor], message: str) -> None:
    good = {"means": torch.zeros(2, 3, 1), "scales": torch.ones(3, 1), "weights": torch.ones(2)}
    with pytest.raises(InputError, match=message):
        ProductMixture(**{**good, **change})  # type: ignore[arg-type]


def test_extreme_laws_have_the_values_of_their_closed_forms() -> None:
    far = torch.tensor([[[-50.0]], [[50.0]]], dtype=torch.float64)
    for scale in (1e-3, 1.0, 1e3):
        scales = torch.full((1, 1), scale, dtype=torch.float64)
        target = ProductMixture(far, scales, torch.tensor([1.0, 0.0]))
        x = torch.tensor([[[-50.0]], [[0.0]], [[50.0]]], dtype=torch.float64)
        # The second component has no weight: N(-50, scale^2).
        expected = stats.norm(-50, scale).logpdf(x.flatten().numpy())
        assert target.log_prob(x).tolist() == pytest.approx(expected.tolist(), rel=1e-9)
        for t in (0.0, 1e-4, 0.5, 1.0):
            denoised = target.denoise(x, torch.full((3, 1), t), PATHS["linear"])
            # E[x_0 | x_t] = m + a v (x_t - a m) / (a^2 v + t^2)
            a, v = 1 - t, scale**2
            posterior = -50 + a * v * (x + a * 50) / (a**2 * v + t**2)
            assert torch.allclose(denoised, posterior, rtol=1e-9, atol=1e-7)
