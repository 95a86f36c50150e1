"""Densities of implicit samplers by their derivative, against closed forms and quadrature."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.exact import change_of_variables as module
from capcheck.laws.gaussian import GaussianLaw
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import from_spec
from capcheck.targets.target import Target

AR1 = from_spec("gaussian:ar1,tokens=3,rho=0.8")
MODES = from_spec("modes:tokens=1,modes=2,gap=3")


def density(probe: AnyProbe, target: Target, steps: int) -> LogDensity | Unavailable:
    source = functools.partial(CounterRandomness, 0, name="model")
    budget = Budget(length=0, steps=steps)
    return Procedure.of(probe, target).log_density_of_draws(budget, 200, source)


def samples(probe: AnyProbe, target: Target, steps: int) -> torch.Tensor:
    rng = CounterRandomness(0, name="model")
    return Procedure.of(probe, target).sample(Budget(length=0, steps=steps), 200, rng)


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_on_a_gaussian_it_is_the_density_of_the_replayed_law(solver: str) -> None:
    probe = build_probe("diffusion", {"solver": solver})
    found = density(probe, AR1, 4)
    assert isinstance(found, LogDensity)
    law = Procedure.of(probe, AR1).exact_law(Budget(length=0, steps=4))
    assert isinstance(law, GaussianLaw)
    exact = law.log_prob(samples(probe, AR1, 4))
    assert (found.values - exact).abs().max() < 1e-6
    assert (found.values - exact - 0.01).abs().min() > 1e-3  # a twin that is off by a hundredth


def test_in_single_precision_the_derivative_is_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    target = AR1.to(device="cpu", dtype=torch.float32)
    probe = build_probe("diffusion")
    found = density(probe, target, 4)
    assert isinstance(found, LogDensity)
    law = Procedure.of(probe, AR1).exact_law(Budget(length=0, steps=4))
    assert isinstance(law, GaussianLaw)
    exact = law.log_prob(samples(probe, target, 4))
    error = float((found.values - exact).abs().max())
    assert error < 1e-3
    monkeypatch.setitem(module.STEP, torch.float32, module.STEP[torch.float64])
    noisy = density(probe, target, 4)
    assert isinstance(noisy, LogDensity)
    assert float((noisy.values - exact).abs().max()) > 10 * error


def test_in_one_dimension_it_gives_the_reverse_kl_of_quadrature() -> None:
    """Steps of Heun on two modes: x = F(z) is monotone, and q(F(z)) F'(z) = N(z)."""
    procedure = Procedure.of(build_probe("diffusion", {"solver": "heun"}), MODES)

    def x_of(z: torch.Tensor) -> torch.Tensor:
        class Fixed(CounterRandomness):
            def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
                return z.reshape(shape)

        return procedure.sample(Budget(length=0, steps=4), len(z), Fixed(0))

    z = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    slope = (x_of(z + 1e-4) - x_of(z - 1e-4)).flatten() / 2e-4
    assert bool((slope > 0).all())
    log_normal = -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
    log_ratio = log_normal - slope.log() - MODES.log_prob(x_of(z))
    expected = float(torch.trapezoid(log_normal.exp() * log_ratio, z))
    probe = build_probe("diffusion", {"solver": "heun"})
    direct = density(probe, MODES, 4)
    assert isinstance(direct, LogDensity)
    log_ratio = direct.values - MODES.log_prob(samples(probe, MODES, 4))
    error = float(log_ratio.std()) / math.sqrt(len(log_ratio))
    assert float(log_ratio.mean()) == pytest.approx(expected, abs=4 * error)
    found = check(
        "diffusion", MODES, options={"solver": "heun"}, lengths=[0], steps=[4],
        divergences=["kl", "reverse_kl"], samples=2000,
    )  # fmt: skip
    estimate = found.cells[0].estimates["reverse_kl"]
    assert estimate.kind == "lower bound"
    assert "a preimage under the whole procedure" in estimate.method
    assert estimate.value == pytest.approx(expected, abs=4 * 0.03)
    assert estimate.low is not None
    assert estimate.low <= expected


@pytest.mark.parametrize("family", ["gpt", "maskgit"])
def test_procedures_with_other_draws_are_refused_with_the_reason(family: str) -> None:
    found = density(build_probe(family), MODES, 1)
    assert isinstance(found, Unavailable)
    assert "draws" in found.reason


def test_a_collapsed_map_has_infinite_density() -> None:
    found = density(build_probe("diffusion"), AR1, 1)  # one step returns the mean
    assert isinstance(found, LogDensity)
    assert bool((found.values > 10).all())
