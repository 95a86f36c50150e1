"""Samplers of a denoiser against the closed forms and the recursions of Gaussian targets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import UnitDraws
from numpy.typing import NDArray
from reference import levels as reference
from reference.diffusion import PATHS, ddim_variance, flow_map_factor
from reference.gaussians import autoregressive
from scipy import stats

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.exact import hidden_draws
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import Calls, Denoiser, TokenPredictorSignature
from capcheck.noise.paths import PathName
from capcheck.probes.steps.diffusion import Diffusion
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.results.plan import FamilyPlan, plan_of
from capcheck.targets import ProductMixture, Target, from_spec


def final(
    target: Target, k: int, network: Denoiser | None = None, **options: str
) -> tuple[float, float]:
    """Mean and variance of the one token, exactly: the map is affine in its one normal draw."""
    probe = build_probe("diffusion", options)
    network = network or probe.signature.oracle(target)
    budget = Budget(length=1, steps=k)
    *_, last = probe.run(network, target.spec, budget, State.blank(target.spec, 2), UnitDraws())
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
    procedure = Procedure.of(build_probe("diffusion"), digits)
    drawn = procedure.sample(Budget(length=8, steps=1), 50, CounterRandomness(0))
    assert (drawn - digits.means.mean(0)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("solver", "calls"),
    [
        ("ddim", 5),
        ("heun", 9),
        ("dpm_solver", 5),
        ("ddpm_small", 5),
        ("ddpm_large", 5),
        ("ddpm_large_noisy", 5),
    ],
)
def test_calls_are_k_and_for_heun_2k_minus_1(
    three: ProductMixture, solver: str, calls: int
) -> None:
    calls_made = Calls()
    procedure = Procedure.of(build_probe("diffusion", {"solver": solver}), three)
    budget = Budget(length=3, steps=5)
    states = list(procedure.run(budget, 4, CounterRandomness(0), calls=calls_made))
    assert calls_made.sequential == calls
    assert len(states) == 6


Array = NDArray[np.float64]
AR1 = 2.25 * 0.7 ** np.abs(np.subtract.outer(np.arange(3), np.arange(3)))


def law(target: Target, k: int, given: Sequence[int] = (), **options: Any) -> GaussianLaw:
    procedure = Procedure.of(build_probe("diffusion", options), target, given=given)
    found = procedure.exact_law(Budget(length=0, steps=k))
    assert isinstance(found, GaussianLaw)
    return found


def ancestral(C: Array, k: int, path: str, *, large: bool, noisy_end: bool = True) -> Array:
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
            variance = s(t) ** 2 - r**2 * s(u) ** 2 if u > 0 or noisy_end else 0.0
        cov = A @ cov @ A.T + variance * eye
    return cov


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_ancestral_steps_are_a_recursion_of_covariances(path: str, k: int) -> None:
    # Coordinates divide the tokens by 1.5, so that their variance is 1.
    target, C = from_spec("gaussian:ar1,tokens=3,rho=0.7,std=1.5"), AR1 / 2.25
    expected = {
        "ddpm_small": ancestral(C, k, path, large=False),
        "ddpm_large": ancestral(C, k, path, large=True, noisy_end=False),
        "ddpm_large_noisy": ancestral(C, k, path, large=True),
    }
    found = {solver: law(target, k, path=path, solver=solver).covariance for solver in expected}
    for solver, covariance in expected.items():
        assert found[solver].numpy() == pytest.approx(2.25 * covariance, abs=1e-10)
    # The noise of the last step is that of its level, and one step without it returns the mean.
    gap = found["ddpm_large_noisy"] - found["ddpm_large"]
    _, s = PATHS[path]
    assert gap.numpy() == pytest.approx(2.25 * s(1 / k) ** 2 * np.eye(3), abs=1e-10)
    if k > 1:
        assert float((found["ddpm_large"] - found["ddpm_small"]).abs().max()) > 0.01


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_eta_leads_from_ddim_to_ancestral_steps(path: str, k: int) -> None:
    target = from_spec("gaussian:ar1,tokens=3,rho=0.7")
    C = AR1 / 2.25
    found = {eta: law(target, k, path=path, eta=eta).covariance.numpy() for eta in (0, 0.5, 1)}
    assert found[1] == pytest.approx(ancestral(C, k, path, large=False), abs=1e-10)
    assert found[0] == pytest.approx(law(target, k, path=path).covariance.numpy(), abs=1e-12)
    if k > 2:  # the first step has only noise to replace, and the last one keeps none
        assert min(abs(found[0.5] - found[eta]).max() for eta in (0, 1)) > 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_with_the_true_clean_tokens_every_eta_keeps_the_noise_of_every_level(eta: float) -> None:
    # Song et al. 2021, lemma 1: x_s given x_0 is N(alpha_s x_0, sigma_s^2) for every eta.
    probe, spec = Diffusion(eta=eta), from_spec("gaussian:tokens=1").spec
    a, s = PATHS["cosine"]

    def truth(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x_t, 0.7)

    start, k = State.blank(spec, 40_000), 4
    states = list(probe.run(truth, spec, Budget(length=1, steps=k), start, CounterRandomness(4)))
    for j, state in enumerate(states):
        level, x = 1 - j / k, state.tokens.flatten()
        assert float(x.mean()) == pytest.approx(a(level) * 0.7, abs=0.03)
        assert float(x.std()) == pytest.approx(s(level), abs=0.02)
    moved = (states[2].tokens - a(0.5) * 0.7) / s(0.5)
    first = (states[0].tokens - a(1.0) * 0.7) / s(1.0)
    correlation = float((moved * first).mean())  # 1 without fresh noise
    assert (correlation > 0.999) == (eta == 0)


def test_options_of_a_step_must_fit_each_other() -> None:
    for options, words in [
        ({"eta": "0.5", "solver": "heun"}, "eta is for solver ddim"),
        ({"eta": "1.5"}, "less than or equal to 1"),
        ({"levels": "1/0.5/0", "grid": "karras"}, "either grid or levels"),
        ({"levels": "0.9/0.5/0"}, "from 1"),
        ({"levels": "1/0.5/0.7/0"}, "must fall"),
        ({"levels": "1/half/0"}, "valid number"),
    ]:
        with pytest.raises(InputError, match=words):
            build_probe("diffusion", options)
    listed = build_probe("diffusion", {"levels": "1/0.7/0"})
    assert (
        listed == Diffusion(levels=(1, 0.7, 0)) == build_probe("diffusion", {"levels": [1, 0.7, 0]})
    )
    plan = plan_of(listed)  # as a run folder keeps it
    assert FamilyPlan.model_validate(plan.to_json()) == plan
    assert build_probe("diffusion", plan.options) == listed


def factors(v: float, levels: Sequence[float], path: str) -> float:
    """Variance after DDIM steps along levels from N(0, 1): the squared product of the factors."""
    a, s = PATHS[path]
    total = 1.0
    for t, u in itertools.pairwise(levels):
        total *= (a(u) * a(t) * v + s(u) * s(t)) / (a(t) ** 2 * v + s(t) ** 2)
    return total**2


def test_listed_levels_are_taken_as_they_are_and_interpolated_by_other_budgets() -> None:
    target, given = from_spec("gaussian:tokens=1,std=0.5"), [1, 0.7, 0.2, 0]
    found = {k: final(target, k, levels="1/0.7/0.2/0")[1] for k in (1, 2, 3, 6)}
    assert found[3] == pytest.approx(factors(0.25, given, "cosine"), abs=1e-12)
    assert found[1] == pytest.approx(factors(0.25, [1, 0], "cosine"), abs=1e-12)
    assert found[2] == pytest.approx(factors(0.25, [1, 0.45, 0], "cosine"), abs=1e-12)
    halves = [1, 0.85, 0.7, 0.45, 0.2, 0.1, 0]
    assert found[6] == pytest.approx(factors(0.25, halves, "cosine"), abs=1e-12)
    assert abs(found[3] - final(target, 3)[1]) > 1e-3


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_karras_levels_are_the_papers_noise_mapped_to_the_path(path: PathName, k: int) -> None:
    # sigma_i = (max^(1/7) + i / (k-1) (min^(1/7) - max^(1/7)))^7, in token deviations 160 and
    # 0.004 where the paper's data have deviation 0.5 and 80 and 0.002; its first level is 1 here.
    unit = 1.5
    noise = [
        unit * (160 ** (1 / 7) + i / (k - 1) * (0.004 ** (1 / 7) - 160 ** (1 / 7))) ** 7
        for i in range(1, k)
    ]
    at = {"linear": lambda r: r / (1 + r), "cosine": lambda r: 2 / np.pi * np.arctan(r)}[path]
    expected = [1, *map(at, noise), 0]
    target = from_spec(f"gaussian:tokens=1,std={unit}")
    assert Diffusion(grid="karras", path=path).grid_of(target.spec, k) == pytest.approx(
        expected, abs=1e-12
    )
    found = final(target, k, grid="karras", path=path)[1]
    assert found == pytest.approx(factors(2.25, expected, path), rel=1e-9)


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


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_the_log_density_of_large_ancestral_steps_is_bounded_from_both_sides(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the probe by itself: in coordinates v is 1, of which every number of steps is right.
    v, n, (a, s) = 2.25, 8000, PATHS["cosine"]
    target = from_spec("gaussian:tokens=1,std=1.5")
    probe = Diffusion(solver="ddpm_large_noisy")
    oracle, completion = probe.signature.oracle(target), TokenPredictorSignature().oracle(target)

    def bound(x: torch.Tensor) -> LogDensity | Unavailable:
        budget = Budget(length=0, steps=k)
        return probe.log_density(oracle, completion, target.spec, budget, x, CounterRandomness(2))

    x = target.sample(n, CounterRandomness(1))
    several = bound(x)
    monkeypatch.setattr(hidden_draws, "ALIKE", -1)  # one noising of each row
    found = bound(x)
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
    assert isinstance(several, LogDensity)
    if k > 1:
        own = stats.norm(0, math.sqrt(variance)).logpdf(x.flatten().numpy())
        assert several.above is not None
        assert expected + 1e-3 < float(several.values.mean()) < own.mean() + 1e-3
        assert own.mean() - 1e-3 < float(several.above.mean()) < own.mean() + 0.1
    wider = bound(1.3 * x)
    assert isinstance(wider, LogDensity)
    assert abs(float(wider.values.mean()) - expected) > 6 * error


@pytest.mark.parametrize(
    "options", [{"eta": 0.5}, {"solver": "ddpm_small"}, {"solver": "ddpm_large"}]
)
def test_where_the_last_step_makes_a_point_there_is_no_density(options: dict[str, Any]) -> None:
    target = from_spec("gaussian:tokens=1")
    procedure = Procedure.of(build_probe("diffusion", options), target)
    x = target.sample(3, CounterRandomness(1))
    found = procedure.log_density(Budget(length=0, steps=4), x, CounterRandomness(2))
    assert isinstance(found, Unavailable)
    assert "point mass" in found.reason


def test_the_target_time_is_what_the_denoiser_lacks() -> None:
    (suspect,) = Diffusion(path="linear").suspects()
    assert suspect.failure == "missing argument"
    target = from_spec("gaussian:ar1,tokens=3,rho=0.7,std=1.5")
    told = Procedure.of(suspect.probe, target).exact_law(Budget(length=0, steps=1))
    assert isinstance(told, GaussianLaw)
    assert told.covariance.numpy() == pytest.approx(AR1, abs=1e-10)
    assert law(target, 1, path="linear").covariance.abs().max() < 1e-10


CHAIN = from_spec("gaussian:ar1,tokens=4,rho=0.8")
S = autoregressive(4, 0.8).covariances[0]


@pytest.mark.parametrize("given", [(0,), (2,), (1, 3)])
@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_beside_given_tokens_ddim_is_that_of_explicit_matrices(
    given: tuple[int, ...], path: str
) -> None:
    found = law(CHAIN, 5, given, path=path).covariance.numpy()
    rows = reference.pyramid(4 - len(given), 5, lambda i: 0)
    steps = list(reference.beside(4, given, reference.passes(rows)))
    start = reference.start_beside(S, given)
    expected = reference.carried(S, steps, path, start=start)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    # The twin: a network that does not see them makes another law.
    blind = [(b, a, [j for j in shown if j not in given]) for b, a, shown in steps]
    assert np.abs(found - reference.carried(S, blind, path, start=start)).max() > 0.1


@pytest.mark.parametrize(
    ("options", "order"),
    [({}, 1), ({"solver": "heun"}, 2), ({"solver": "dpm_solver", "grid": "log_snr"}, 2)],
)
def test_beside_given_tokens_solvers_keep_their_order(options: dict[str, Any], order: int) -> None:
    ks = np.array([64, 128, 256])
    errors = [np.abs(law(CHAIN, int(k), (1,), **options).covariance.numpy() - S).max() for k in ks]
    assert -np.polyfit(np.log(ks), np.log(errors), 1)[0] == pytest.approx(order, abs=0.25)
    law_of_given = law(CHAIN, 2, (1,), **options).covariance[1, 1]
    assert float(law_of_given) == pytest.approx(1, abs=1e-12)


def test_the_bound_beside_given_tokens_is_tight_for_one_step_that_forgets_its_noise() -> None:
    # x = m + gain (x_g - m_g) + e, e ~ N(0, 1): the large variance of one step is that of noise.
    procedure = Procedure.of(Diffusion(solver="ddpm_large_noisy"), CHAIN, given=(1,))
    x = CHAIN.sample(7, CounterRandomness(1))
    found = procedure.log_density(Budget(length=0, steps=1), x, CounterRandomness(2))
    assert isinstance(found, LogDensity)
    free, y = [0, 2, 3], x[..., 0].numpy()
    expected = stats.norm.logpdf(y[:, 1]) + stats.norm.logpdf(
        y[:, free] - y[:, [1]] * S[1, free]
    ).sum(1)
    assert found.values.numpy() == pytest.approx(expected, abs=1e-9)


def test_the_limit_beside_given_tokens_is_what_many_steps_approach(three: ProductMixture) -> None:
    procedure = Procedure.of(Diffusion(), three, given=(1,))
    limit = procedure.limit(30, CounterRandomness(3))
    assert limit is not None
    misses = []
    for k in (32, 64, 128):
        drawn = procedure.sample(Budget(length=2, steps=k), 30, CounterRandomness(3))
        assert torch.equal(drawn[:, 1], limit[:, 1])
        misses.append(float((drawn - limit).square().mean().sqrt()))
    assert -np.polyfit(np.log([32, 64, 128]), np.log(misses), 1)[0] == pytest.approx(1, abs=0.25)
    assert Procedure.of(Diffusion(eta=0.1), three).limit(3, CounterRandomness(3)) is None


def test_any_network_sees_given_tokens_clean() -> None:
    # One step returns what the network says at level 1: here the sum of what it sees clean.
    def summing(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return ((t == 0)[..., None] * x_t).sum(1, keepdim=True).expand_as(x_t)

    for solver in ("ddim", "heun"):
        probe = build_probe("diffusion", {"solver": solver})
        procedure = Procedure.of(probe, CHAIN, given=(0, 2)).with_network(summing)
        drawn = procedure.sample(Budget(length=2, steps=3), 5, CounterRandomness(0))
        total = drawn[:, [0, 2]].sum(1)
        assert (drawn[:, [1, 3]] - total[:, None]).abs().max() < 1e-12
