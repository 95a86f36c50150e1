"""Samplers of a denoiser against the closed forms and the recursions of Gaussian targets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import UnitDraws
from numpy.typing import NDArray
from reference.diffusion import PATHS, ddim_variance, flow_map_factor

from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.exact.replay import exact_law
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import Denoiser, TokenPredictorSignature
from capcheck.probes.steps.diffusion import Diffusion
from capcheck.procedures.registry import build_probe
from capcheck.targets import ProductMixture, Target, from_spec


def final(
    target: Target, k: int, network: Denoiser | None = None, **options: str
) -> tuple[float, float]:
    """Mean and variance of the one token, exactly: the map is affine in its one normal draw."""
    probe = build_probe("diffusion", options)
    network = network or probe.signature.oracle(target)
    budget = Budget(length=1, steps=k)
    *_, last = probe.run(network, target.spec, budget, 2, UnitDraws())
    zero, one = last.tokens[:, 0, 0].tolist()
    return zero, (one - zero) ** 2


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("v", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 2, 3, 16, 101])
def test_ddim_variance_is_the_closed_form(path: str, v: float, k: int) -> None:
    target = from_spec(f"gaussian:tokens=1,std={v**0.5}")
    mean, variance = final(target, k, path=path)
    assert mean == pytest.approx(0, abs=1e-12)
    assert variance == pytest.approx(ddim_variance(v, k, path), abs=1e-10)
    if v == 1 and path == "cosine":
        assert variance == pytest.approx(np.cos(np.pi / (2 * k)) ** (2 * k), abs=1e-10)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2)])
def test_solvers_have_their_order(path: str, solver: str, order: int) -> None:
    target = from_spec("gaussian:tokens=1,std=0.5")
    steps = np.array([128, 256, 512])
    errors = [abs(final(target, int(k), solver=solver, path=path)[1] - 0.25) for k in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_one_step_is_exact_with_the_flow_map_in_the_denoisers_place(path: str) -> None:
    v, mean = 4.0, 1.5
    target = ProductMixture(
        torch.tensor([[[mean]]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    )

    def flow_map(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        level = float(t[0, 0])
        a = 1 - level if path == "linear" else np.cos(np.pi * level / 2)
        return mean + flow_map_factor(v, level, 0.0, path) * x_t.sub(a * mean)

    assert final(target, 1, flow_map, path=path) == pytest.approx((mean, v), abs=1e-12)
    assert final(target, 1, path=path) == pytest.approx((mean, 0), abs=1e-12)


def test_one_step_returns_the_data_mean(digits: ProductMixture) -> None:
    probe = build_probe("diffusion")
    network = probe.signature.oracle(digits)
    *_, last = probe.run(network, digits.spec, Budget(length=8, steps=1), 50, CounterRandomness(0))
    assert (last.tokens - digits.means.mean(0)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("solver", "calls"),
    [("ddim", 5), ("heun", 9), ("dpm_solver", 5), ("ddpm_small", 5), ("ddpm_large", 5)],
)
def test_calls_are_k_and_for_heun_2k_minus_1(
    three: ProductMixture, solver: str, calls: int
) -> None:
    probe = build_probe("diffusion", {"solver": solver})
    oracle, count = probe.signature.oracle(three), 0

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        answer: torch.Tensor = oracle(x_t, t)
        return answer

    states = list(
        probe.run(network, three.spec, Budget(length=3, steps=5), 4, CounterRandomness(0))
    )
    assert count == calls
    assert len(states) == 6


Array = NDArray[np.float64]
AR1 = 2.25 * 0.7 ** np.abs(np.subtract.outer(np.arange(3), np.arange(3)))


def law(target: Target, k: int, **options: str) -> GaussianLaw:
    probe = build_probe("diffusion", options)
    found = exact_law(
        probe,
        probe.signature.oracle(target),
        completion=TokenPredictorSignature().oracle(target),
        spec=target.spec,
        budget=Budget(length=0, steps=k),
    )
    assert isinstance(found, GaussianLaw)
    return found


def ancestral(C: Array, k: int, path: str, *, large: bool) -> Array:
    """Covariance after k ancestral steps, with the posterior of (x_s, x_0) given x_t written out.

    The kernel p(x_s | x_t, x_0) is that of three jointly normal numbers, conditioned by the
    textbook formula; x_0 is then replaced by its regression on x_t.
    """
    a, s = PATHS[path]
    eye, cov = np.eye(len(C)), np.eye(len(C))
    for t, u in itertools.pairwise(np.linspace(1, 0, k + 1).tolist()):
        r = a(t) / a(u)
        # Given x_0: Var(x_u) = s_u^2, Cov(x_t, x_u) = r s_u^2, Var(x_t) = s_t^2.
        gain = r * s(u) ** 2 / s(t) ** 2
        regression = a(t) * C @ np.linalg.inv(a(t) ** 2 * C + s(t) ** 2 * eye)
        A = gain * eye + (a(u) - gain * a(t)) * regression
        variance = s(u) ** 2 - gain * r * s(u) ** 2
        if large:
            variance = s(t) ** 2 - r**2 * s(u) ** 2
        cov = A @ cov @ A.T + variance * eye
    return cov


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_ancestral_steps_are_a_recursion_of_covariances(path: str, k: int) -> None:
    target = from_spec("gaussian:ar1,tokens=3,rho=0.7,std=1.5")
    small, large = (ancestral(AR1, k, path, large=large) for large in (False, True))
    found = law(target, k, path=path, solver="ddpm_small").covariance.numpy()
    assert found == pytest.approx(small, abs=1e-10)
    found = law(target, k, path=path, solver="ddpm_large").covariance.numpy()
    assert found == pytest.approx(large, abs=1e-10)
    assert np.abs(small - large).max() > 0.01


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_dpm_solver_is_of_order_2_on_its_own_grid_only(path: str) -> None:
    target, steps = from_spec("gaussian:tokens=1,std=0.5"), np.array([128, 256, 512])
    slopes = {}
    for grid in ("log_snr", "time"):
        variances = [
            final(target, int(k), solver="dpm_solver", grid=grid, path=path)[1] for k in steps
        ]
        errors = [abs(variance - 0.25) for variance in variances]
        slopes[grid] = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slopes["log_snr"] == pytest.approx(2, abs=0.2)
    assert slopes["time"] < 1.9


def test_dpm_solver_is_the_papers_update() -> None:
    # x_s = sigma_s / sigma_t x_t - alpha_s (e^-h - 1) D with D = (1 + 1/(2r)) x0 - x0' / (2r) and
    # r = h' / h.
    v, k, (a, s) = 0.36, 5, PATHS["cosine"]
    times = np.linspace(1, 0, k + 1).tolist()
    x, previous = 1.0, None
    for j, (t, u) in enumerate(itertools.pairwise(times)):
        x0 = a(t) * v / (a(t) ** 2 * v + s(t) ** 2) * x
        D = x0
        if 2 <= j < k - 1:
            h = np.log(a(u) / s(u)) - np.log(a(t) / s(t))
            r = (np.log(a(t) / s(t)) - np.log(a(times[j - 1]) / s(times[j - 1]))) / h
            D = (1 + 1 / (2 * r)) * x0 - previous / (2 * r)
            x = s(u) / s(t) * x - a(u) * (np.exp(-h) - 1) * D
        else:
            x = a(u) * x0 + s(u) / s(t) * (x - a(t) * x0)
        previous = x0
    target = from_spec("gaussian:tokens=1,std=0.6")
    assert final(target, k, solver="dpm_solver")[1] == pytest.approx(x**2, abs=1e-10)
    assert final(target, k)[1] != pytest.approx(x**2, abs=1e-3)


def bound(target: Target, k: int, x: torch.Tensor, solver: str) -> LogDensity | Unavailable:
    probe = build_probe("diffusion", {"solver": solver})
    oracle = probe.signature.oracle(target)
    return probe.log_density(
        oracle,
        TokenPredictorSignature().oracle(target),
        target.spec,
        Budget(length=0, steps=k),
        x,
        CounterRandomness(2),
    )


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_the_log_density_of_large_ancestral_steps_is_bounded_from_below(k: int) -> None:
    v, n, (a, s) = 2.25, 8000, PATHS["cosine"]
    target = from_spec("gaussian:tokens=1,std=1.5")
    x = target.sample(n, CounterRandomness(1))
    found = bound(target, k, x, "ddpm_large")
    assert isinstance(found, LogDensity)
    assert found.bound
    # Every term is the mean of a quadratic form in jointly normal (x_s, x_t).
    expected = -0.5 * (1 + np.log(2 * np.pi))
    for t, u in itertools.pairwise(np.linspace(1, 0, k + 1).tolist()):
        r = a(t) / a(u)
        variance = s(t) ** 2 - r**2 * s(u) ** 2
        V_t, V_u = a(t) ** 2 * v + s(t) ** 2, a(u) ** 2 * v + s(u) ** 2
        A = (r * s(u) ** 2 + a(u) * variance * a(t) * v / V_t) / s(t) ** 2
        residual = V_u + A**2 * V_t - 2 * A * r * V_u
        expected += 0.5 - 0.5 * residual / variance
    error = float(found.values.std()) / n**0.5
    assert float(found.values.mean()) == pytest.approx(expected, abs=4 * error)
    variance = ancestral(np.array([[v]]), k, "cosine", large=True)[0, 0]
    exact = -0.5 * (np.log(2 * np.pi * variance) + v / variance)
    # Of one step, which forgets its noise, the bound is the density: that of N(mean, 1).
    assert expected == pytest.approx(exact) if k == 1 else expected < exact - 1e-3
    wider = bound(target, k, 1.3 * x, "ddpm_large")
    assert isinstance(wider, LogDensity)
    assert abs(float(wider.values.mean()) - expected) > 6 * error


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpm_solver", "ddpm_small"])
def test_where_the_last_step_is_a_point_or_a_map_there_is_no_density(solver: str) -> None:
    target = from_spec("gaussian:tokens=1")
    found = bound(target, 4, target.sample(3, CounterRandomness(1)), solver)
    assert isinstance(found, Unavailable)
    assert ("point mass" in found.reason) == (solver == "ddpm_small")


def test_the_target_time_is_what_the_denoiser_lacks() -> None:
    (suspect,) = Diffusion(path="linear").suspects()
    assert suspect.failure == "missing argument"
    target = from_spec("gaussian:ar1,tokens=3,rho=0.7,std=1.5")
    told = exact_law(
        suspect.probe,
        suspect.probe.signature.oracle(target),
        completion=TokenPredictorSignature().oracle(target),
        spec=target.spec,
        budget=Budget(length=0, steps=1),
    )
    assert isinstance(told, GaussianLaw)
    assert told.covariance.numpy() == pytest.approx(AR1, abs=1e-10)
    assert law(target, 1, path="linear").covariance.abs().max() < 1e-10
