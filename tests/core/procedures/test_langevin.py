"""Densities of Langevin chains against quadrature of their kernels."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian import GaussianLaw
from capcheck.probes.steps.ebm import EBM
from capcheck.procedures.procedure import Procedure
from capcheck.targets import ProductMixture, from_spec

Array = NDArray[np.float64]
Sampler = Literal["ula", "mala"]

MODES, WEIGHTS, DEVIATION = (-1.5, 1.5), (0.3, 0.7), 0.7
STEP, STEPS = 1.2, 3
GRID = np.linspace(-9, 9, 1201)
TWO_MODES = ProductMixture(
    torch.tensor(MODES, dtype=torch.float64)[:, None, None],
    torch.tensor([[DEVIATION]], dtype=torch.float64),
    torch.tensor(WEIGHTS, dtype=torch.float64),
)


def law_of_chain(adjusted: bool) -> Array:
    """The density on the grid after all steps, by quadrature of the kernel."""
    x, dx = GRID, GRID[1] - GRID[0]
    parts = [w * stats.norm.pdf(x, m, DEVIATION) for w, m in zip(WEIGHTS, MODES, strict=True)]
    p = sum(parts)
    pulls = [(x - m) / DEVIATION**2 * q for m, q in zip(MODES, parts, strict=True)]
    ahead = x - STEP / 2 * sum(pulls) / p
    kernel = stats.norm.pdf(x[None], ahead[:, None], STEP**0.5)  # of x' given x, [x, x']
    if adjusted:
        with np.errstate(divide="ignore", invalid="ignore"):
            odds = p[None] * kernel.T / (p[:, None] * kernel)
        kernel = kernel * np.minimum(1, np.nan_to_num(odds, nan=0, posinf=1))
    mean = sum(w * m for w, m in zip(WEIGHTS, MODES, strict=True))
    variance = DEVIATION**2 + sum(w * m**2 for w, m in zip(WEIGHTS, MODES, strict=True)) - mean**2
    q = stats.norm.pdf(x, mean, variance**0.5)
    for _ in range(STEPS):
        stay = 1 - kernel.sum(1) * dx if adjusted else 0
        q = (q @ kernel) * dx + q * stay
    return np.asarray(q)


def found(sampler: Sampler, points: Array, seed: int, chains: int) -> LogDensity:
    more = 8 if sampler == "mala" else 1  # it has an eighth of them
    probe = EBM(sampler=sampler, step_size=STEP, chains=more * chains)
    x = torch.from_numpy(points)[:, None, None]
    rng = CounterRandomness(seed)
    density = Procedure.of(probe, TWO_MODES).log_density(Budget(length=1, steps=STEPS), x, rng)
    assert isinstance(density, LogDensity)
    assert density.bound
    return density


@pytest.mark.parametrize("sampler", ["ula", "mala"])
def test_the_mean_density_is_that_of_the_kernel(sampler: Sampler) -> None:
    points = GRID[200:1001:40]
    each = [found(sampler, points, seed, 500).values.exp().numpy() for seed in range(60)]
    error = np.std(each, 0, ddof=1) / len(each) ** 0.5
    exact = law_of_chain(sampler == "mala")[200:1001:40]
    assert (np.abs(np.mean(each, 0) - exact) < 4.5 * error + 1e-9).all()
    assert (error < 0.05 * exact.max()).all()  # so that the test sees something
    other = law_of_chain(sampler != "mala")[200:1001:40]
    assert (np.abs(np.mean(each, 0) - other) > 6 * error).any()


def test_an_estimate_of_ula_is_a_density() -> None:
    q = found("ula", GRID, 0, 300).values.exp().numpy()
    assert np.trapezoid(q, GRID) == pytest.approx(1, abs=1e-6)


def test_the_error_that_all_rows_share_is_known() -> None:
    x = TWO_MODES.sample(400, CounterRandomness(99))[:, 0, 0].numpy()
    each = [found("ula", x, seed, 400) for seed in range(120)]
    means = [float(one.values.mean()) for one in each]
    claimed = [float(one.shared[0].std()) / 400**0.5 for one in each]
    assert np.std(means, ddof=1) == pytest.approx(np.mean(claimed), rel=0.25)


@pytest.mark.parametrize("steps", [1, 4])
def test_kl_of_ula_on_a_gaussian_is_bounded_tightly(steps: int) -> None:
    target, chains = from_spec("gaussian:ar1,tokens=2,rho=0.5"), 4_000
    procedure, budget = Procedure.of(EBM(chains=chains), target), Budget(length=2, steps=steps)
    law = procedure.exact_law(budget)
    assert isinstance(law, GaussianLaw)
    x = target.sample(4_000, CounterRandomness(3))
    density = procedure.log_density(budget, x, CounterRandomness(4))
    assert isinstance(density, LogDensity)
    short = law.log_prob(x) - density.values
    error = float(density.shared[0].std()) / chains**0.5
    assert -3 * error < float(short.mean()) < 0.01 + 3 * error


def test_given_tokens_have_no_bound() -> None:
    target = from_spec("gaussian:ar1,tokens=2,rho=0.5")
    procedure, x = Procedure.of(EBM(), target, given=[0]), target.sample(5, CounterRandomness(3))
    density = procedure.log_density(Budget(length=2, steps=2), x, CounterRandomness(4))
    assert isinstance(density, Unavailable)
    assert "chains" in density.reason


@pytest.mark.parametrize("sampler", ["ula", "mala"])
def test_chains_that_diverge_count_as_far_away(sampler: Sampler) -> None:
    target = from_spec("gaussian:tokens=2")
    probe = EBM(sampler=sampler, step_size=1e200, chains=64)
    x = target.sample(5, CounterRandomness(3))
    procedure = Procedure.of(probe, target)
    found = procedure.log_density(Budget(length=2, steps=3), x, CounterRandomness(4))
    assert isinstance(found, LogDensity)
    assert not bool(found.values.isnan().any())
    assert sampler == "mala" or bool((found.values < -100).all())
