"""Multistep consistency sampling against the factors of a Gaussian coordinate."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from reference import levels as reference
from reference.diffusion import PATHS, ddim_variance
from reference.gaussians import Gaussians, autoregressive
from scipy import stats

from capcheck import Outcome, check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.laws.gaussian import GaussianLaw
from capcheck.probes.steps.consistency import Consistency
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, ProductMixture, Target, from_spec


def law(target: Target, k: int, given: Sequence[int] = (), **options: Any) -> GaussianLaw:
    procedure = Procedure.of(build_probe("consistency", options), target, given=given)
    found = procedure.exact_law(Budget(length=0, steps=k))
    assert isinstance(found, GaussianLaw)
    return found


def variance_of_token(v: float, k: int, **options: Any) -> float:
    """Of a token N(0, v) beside one N(0, 2 - v): their mean variance, the unit, is 1."""
    covariance = torch.diag(torch.tensor([v, 2 - v], dtype=torch.float64))
    target = GaussianMixture(torch.zeros(1, 2, 1).double(), covariance[None])
    return float(law(target, k, **options).covariance[0, 0])


def recursion(v: float, m: int, times: Sequence[float], path: str) -> float:
    """Variance after calls of a function of m DDIM steps, at those times."""
    a, s = PATHS[path]

    def factor(t: float) -> float:
        """Of f(., t): from t along the levels j/m below it."""
        levels = [t, *(j / m for j in range(m - 1, -1, -1) if j / m < t - 1e-6)]
        total = 1.0
        for b, c in itertools.pairwise(levels):
            total *= (a(c) * a(b) * v + s(c) * s(b)) / (a(b) ** 2 * v + s(b) ** 2)
        return total

    variance = factor(1.0) ** 2
    for t in times[1:]:
        variance = factor(t) ** 2 * (a(t) ** 2 * variance + s(t) ** 2)
    return variance


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_exact_function_is_exact_at_every_number_of_calls(k: int, path: str) -> None:
    target = from_spec("gaussian:ar1,tokens=3,rho=0.8,std=2")
    distance = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    exact = law(target, k, path=path, solver_steps="exact").covariance.numpy()
    assert exact == pytest.approx(4 * 0.8**distance, abs=1e-12)
    distilled = law(target, k, path=path).covariance.numpy()
    assert np.abs(distilled - 4 * 0.8**distance).max() > 0.1


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_one_call_of_a_distilled_function_is_its_ddim_steps(m: int, path: str) -> None:
    found = variance_of_token(1.6, 1, path=path, solver_steps=m)
    assert found == pytest.approx(ddim_variance(1.6, m, path), abs=1e-10)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(("m", "k"), [(2, 2), (2, 4), (3, 4), (2, 3), (5, 2)])
def test_more_calls_are_the_recursion_of_variances(m: int, k: int, path: str) -> None:
    expected = recursion(0.49, m, [j / k for j in range(k, 0, -1)], path)
    found = variance_of_token(0.49, k, path=path, solver_steps=m)
    assert found == pytest.approx(expected, abs=1e-10)
    assert abs(expected - 0.49) > 1e-3


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("given", [(), (1,)])
@pytest.mark.parametrize(("m", "k"), [(2, 1), (3, 1), (1, 2), (1, 3), (2, 2), (2, 4), (3, 2)])
def test_the_log_density_is_that_of_the_exact_law(
    m: int, k: int, given: tuple[int, ...], path: str
) -> None:
    target, budget = from_spec("gaussian:ar1,tokens=3,rho=0.6,std=2"), Budget(length=0, steps=k)
    probe = build_probe("consistency", {"solver_steps": m, "path": path})
    procedure = Procedure.of(probe, target, given=given)
    exact = procedure.exact_law(budget)
    assert isinstance(exact, GaussianLaw)
    x = target.sample(3, CounterRandomness(1)).repeat(4_000, 1, 1)  # three points, many paths
    found = procedure.log_density(budget, x, CounterRandomness(2))
    assert isinstance(found, LogDensity)
    assert found.bound == (k > 1)
    short = found.values - exact.log_prob(x)
    if k == 1:
        assert short.abs().max() < 1e-8
        return
    weights = short.exp().reshape(4_000, 3)
    error = weights.std(0) / 4_000**0.5
    assert ((weights.mean(0) - 1).abs() < 4.5 * error + 1e-9).all()
    assert (error < 0.25).all()


def test_one_call_of_one_step_is_a_point_mass() -> None:
    target = from_spec("gaussian:ar1,tokens=3")
    procedure = Procedure.of(build_probe("consistency", {"solver_steps": 1}), target)
    x = target.sample(5, CounterRandomness(1))
    found = procedure.log_density(Budget(length=0, steps=1), x, CounterRandomness(2))
    assert isinstance(found, LogDensity)
    assert bool((found.values == -torch.inf).all())


def test_listed_times_are_taken_as_they_are_and_interpolated_by_other_budgets() -> None:
    found = {k: variance_of_token(0.49, k, times="0.8/0.3") for k in (1, 2, 3, 6)}
    for k, times in {
        1: [1.0],
        2: [1, 0.55],
        3: [1, 0.8, 0.3],
        6: [1, 0.9, 0.8, 0.55, 0.3, 0.15],
    }.items():
        assert found[k] == pytest.approx(recursion(0.49, 2, times, "cosine"), abs=1e-10)
    assert abs(found[3] - variance_of_token(0.49, 3)) > 1e-3
    assert build_probe("consistency", {"times": "0.8/0.3"}) == Consistency(times=(0.8, 0.3))
    for text, words in [("1/0.3", "less than 1"), ("0.3/0.8", "must fall"), ("0.3/0", "greater")]:
        with pytest.raises(InputError, match=words):
            build_probe("consistency", {"times": text})


def test_one_step_of_distillation_returns_the_mean(three: ProductMixture) -> None:
    drawn = Procedure.of(Consistency(solver_steps=1), three).sample(
        Budget(length=0, steps=1), 20, CounterRandomness(0)
    )
    mean = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64) @ three.means[..., 0]
    assert (drawn[..., 0] - mean).abs().max() < 1e-10


def test_one_exact_call_is_that_of_a_flow_map(three: ProductMixture) -> None:
    budget = Budget(length=0, steps=1)
    exact, whole, few = (
        Procedure.of(build_probe(family, options), three).sample(budget, 20, CounterRandomness(0))
        for family, options in (
            ("consistency", {"solver_steps": "exact"}),
            ("flow_map", {}),
            ("consistency", {}),
        )
    )
    assert (exact - whole).abs().max() < 1e-12
    assert (few - whole).abs().max() > 0.1


def test_few_solver_steps_are_suspected_and_found_guilty() -> None:
    found = check(
        "consistency", from_spec("gaussian:tokens=2"), lengths=[2], steps=[1, 2], samples=200
    )
    # v = 1: two cosine steps leave cos(pi/4)^4 = 1/4 of the variance.
    kl = found.cell(Budget(length=2, steps=1)).estimates["kl"].value
    assert kl == pytest.approx(2 * 0.5 * (4 - 1 - np.log(4)))
    (suspect,) = Consistency().suspects()
    assert suspect.probe == Consistency(solver_steps="exact")
    assert suspect.probe.suspects() == ()
    cured = check(
        "consistency",
        from_spec("gaussian:tokens=2"),
        options={"solver_steps": "exact"},
        lengths=[2],
        steps=[1, 2],
        samples=200,
    )
    assert cured.cell(Budget(length=2, steps=2)).estimates["kl"].value == pytest.approx(0, abs=1e-9)
    assert [cell.model_calls for cell in cured.cells] == [1, 2]


def test_the_exact_function_is_certified_by_its_first_call(three: ProductMixture) -> None:
    how: dict[str, Any] = {
        "lengths": [3],
        "steps": [1],
        "samples": 400,
        "divergences": ["wasserstein"],
    }
    found = check("consistency", three, options={"solver_steps": "exact"}, **how)
    assert found.outcome is Outcome.REPRESENTABLE
    assert check("consistency", three, **how).outcome is not Outcome.REPRESENTABLE
    limit = Procedure.of(Consistency(solver_steps="exact"), three).limit(2000, CounterRandomness(0))
    assert limit is not None
    weights = np.array([0.2, 0.5, 0.3])
    law = Gaussians.product(three.means.numpy(), three.scales.numpy(), weights)
    u = law.rosenblatt(limit.numpy())
    assert min(stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-3
    assert Procedure.of(Consistency(), three).limit(5, CounterRandomness(0)) is None


@pytest.mark.parametrize("given", [(0,), (2,), (0, 2)])
@pytest.mark.parametrize("k", [1, 3])
def test_beside_given_tokens_the_exact_function_is_exact(k: int, given: tuple[int, ...]) -> None:
    target, S = from_spec("gaussian:ar1,tokens=4,rho=0.8,std=2"), autoregressive(4, 0.8)
    found = law(target, k, given, solver_steps="exact").covariance.numpy()
    assert found == pytest.approx(4 * S.covariances[0], abs=1e-10)
    distilled = law(target, k, given).covariance.numpy()
    assert np.abs(distilled - 4 * S.covariances[0]).max() > 0.05


@pytest.mark.parametrize("given", [(0,), (1, 3)])
def test_beside_given_tokens_a_distilled_function_is_its_ddim_steps(given: tuple[int, ...]) -> None:
    S = autoregressive(4, 0.8).covariances[0]
    found = law(from_spec("gaussian:ar1,tokens=4,rho=0.8"), 1, given, solver_steps=3)
    rows = reference.pyramid(4 - len(given), 3, lambda i: 0)
    steps = reference.beside(4, given, reference.passes(rows))
    expected = reference.carried(S, steps, start=reference.start_beside(S, given))
    assert found.covariance.numpy() == pytest.approx(expected, abs=1e-10)


def test_any_network_sees_given_tokens_clean_at_every_call() -> None:
    seen = []

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((x_t[:, 1].clone(), t.clone()))
        return x_t[:, [1]].expand_as(x_t) + 1

    target = from_spec("gaussian:ar1,tokens=3,rho=0.8")
    procedure = Procedure.of(Consistency(), target, given=(1,)).with_network(network)
    drawn = procedure.sample(Budget(length=2, steps=3), 4, CounterRandomness(0))
    assert (drawn[:, [0, 2]] - drawn[:, [1]] - 1).abs().max() < 1e-12
    for tokens, levels in seen:
        assert (tokens - drawn[:, 1]).abs().max() < 1e-12
        assert bool((levels[:, 1] == 0).all())
    assert [float(levels[0, 0]) for _, levels in seen] == pytest.approx([1, 2 / 3, 1 / 3])
