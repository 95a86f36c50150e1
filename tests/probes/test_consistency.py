"""Multistep consistency sampling against the factors of a Gaussian coordinate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from reference.diffusion import PATHS, ddim_variance

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.exact.replay import exact_law
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.probes.steps.consistency import Consistency
from capcheck.procedures.registry import build_probe
from capcheck.targets import Target, from_spec


def law(target: Target, k: int, **options: str | int) -> GaussianLaw:
    probe = build_probe("consistency", options)
    found = exact_law(
        probe,
        probe.signature.oracle(target),
        completion=TokenPredictorSignature().oracle(target),
        spec=target.spec,
        budget=Budget(length=0, steps=k),
    )
    assert isinstance(found, GaussianLaw)
    return found


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
    v = 2.25
    found = law(from_spec("gaussian:tokens=1,std=1.5"), 1, path=path, solver_steps=m)
    assert float(found.covariance) == pytest.approx(ddim_variance(v, m, path), abs=1e-10)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(("m", "k"), [(2, 2), (2, 4), (3, 4), (2, 3), (5, 2)])
def test_more_calls_are_the_recursion_of_variances(m: int, k: int, path: str) -> None:
    v, (a, s) = 0.49, PATHS[path]

    def factor(t: float) -> float:
        """Of f(., t): from t along the levels j/m below it."""
        levels = [t, *(j / m for j in range(m - 1, -1, -1) if j / m < t - 1e-6)]
        total = 1.0
        for b, c in itertools.pairwise(levels):
            total *= (a(c) * a(b) * v + s(c) * s(b)) / (a(b) ** 2 * v + s(b) ** 2)
        return total

    variance = factor(1.0) ** 2
    for j in range(k - 1, 0, -1):
        t = j / k
        variance = factor(t) ** 2 * (a(t) ** 2 * variance + s(t) ** 2)
    found = law(from_spec("gaussian:tokens=1,std=0.7"), k, path=path, solver_steps=m)
    assert float(found.covariance) == pytest.approx(variance, abs=1e-10)
    assert abs(variance - v) > 1e-3


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
