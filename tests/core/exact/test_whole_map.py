"""Densities of whole maps against closed forms and quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.exact.whole_map import density_by_preimage
from capcheck.laws.gaussian import GaussianLaw
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import Target, from_spec

SOLVERS = ["heun", "dpm_solver"]


def density(target: Target, solver: str, k: int, x: Tensor) -> LogDensity | Unavailable:
    procedure = Procedure.of(build_probe("diffusion", {"solver": solver}), target)
    return procedure.log_density(Budget(length=0, steps=k), x, CounterRandomness(3))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("k", [2, 3, 8])
def test_on_a_gaussian_the_density_is_that_of_the_exact_law(solver: str, k: int) -> None:
    target = from_spec("gaussian:ar1,tokens=3,rho=0.7,std=2")
    procedure = Procedure.of(build_probe("diffusion", {"solver": solver}), target)
    law = procedure.exact_law(Budget(length=0, steps=k))
    assert isinstance(law, GaussianLaw)
    x = target.sample(40, CounterRandomness(1))
    found = density(target, solver, k, x)
    assert isinstance(found, LogDensity)
    assert found.bound
    torch.testing.assert_close(found.values, law.log_prob(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("k", [3, 6])
def test_on_one_number_the_density_is_that_of_the_map(solver: str, k: int) -> None:
    # The map of one number is increasing: its density is that of the quantiles' spacing.
    target = from_spec("modes:tokens=1,modes=2,gap=5")
    probe = build_probe("diffusion", {"solver": solver})
    procedure, z = Procedure.of(probe, target), np.linspace(-6, 6, 24_001)

    class Known(CounterRandomness):
        def normal(self, shape: tuple[int, ...]) -> Tensor:
            return torch.from_numpy(z).reshape(shape)

    y = procedure.sample(Budget(length=0, steps=k), len(z), Known(0))[:, 0, 0].numpy()
    assert (np.diff(y) > 0).all()
    exact = stats.norm.logpdf(z[1:-1]) - np.log((y[2:] - y[:-2]) / (z[2:] - z[:-2]))
    x = target.sample(60, CounterRandomness(1))
    inside = x[(x[:, 0, 0] > y[10]) & (x[:, 0, 0] < y[-10])]
    found = density(target, solver, k, inside)
    assert isinstance(found, LogDensity)
    expected = np.interp(inside[:, 0, 0].numpy(), y[1:-1], exact)
    assert found.values.numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_is_a_point_mass_and_given_tokens_have_no_density(solver: str) -> None:
    target = from_spec("gaussian:ar1,tokens=2")
    x = target.sample(4, CounterRandomness(1))
    found = density(target, solver, 1, x)
    assert isinstance(found, LogDensity)
    assert bool((found.values == -torch.inf).all())
    procedure = Procedure.of(build_probe("diffusion", {"solver": solver}), target, given=[0])
    beside = procedure.log_density(Budget(length=0, steps=3), x, CounterRandomness(3))
    assert isinstance(beside, Unavailable)


def test_points_outside_the_image_and_folds_are_told_apart() -> None:
    z = CounterRandomness(5).normal((500, 1))
    x = torch.tensor([[4.0], [0.25]], dtype=torch.float64)
    # z^2 is a chi-square number, and both preimages +-z have half of its density each.
    folded = density_by_preimage(lambda u: u.square(), x, z)
    assert isinstance(folded, LogDensity)
    half = stats.chi2.logpdf(x[:, 0].numpy(), 1) - np.log(2)
    assert folded.values.numpy() == pytest.approx(half, abs=1e-6)
    outside = density_by_preimage(lambda u: u.square(), -x, z)
    assert isinstance(outside, Unavailable)
    assert "2 of 2 draws" in outside.reason
