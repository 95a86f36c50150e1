"""The density by inversion, against laws and derivatives that share no code with it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian import GaussianLaw
from capcheck.noise.paths import PATHS
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, ProductMixture, from_spec
from capcheck.targets.continuous.diagonal_mixture import DiagonalMixture
from capcheck.targets.target import ContinuousTarget

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("diffusion", {}),
    ("diffusion", {"path": "linear"}),
    ("diffusion", {"grid": "karras"}),
    ("diffusion", {"levels": "1/0.8/0.1/0"}),
    ("diffusion_forcing", {}),
    ("diffusion_forcing", {"causal": True}),
    ("diffusion_forcing", {"causal": True, "schedule": "pyramid"}),
    ("diffusion_forcing", {"schedule": "autoregressive", "path": "linear"}),
    ("ar_diffusion", {}),
    ("ar_diffusion", {"schedule": "sequential", "path": "linear"}),
    ("rolling_diffusion", {}),
    ("rolling_diffusion", {"window": 2, "n_clean": 1}),
]


def rng() -> CounterRandomness:
    return CounterRandomness(5)


def density(procedure: AnyProcedure, budget: Budget, x: Tensor) -> Tensor:
    found = procedure.log_density(budget, x, rng())
    assert isinstance(found, LogDensity)
    assert not found.bound
    return found.values


class Chosen(Randomness):
    """Normal draws chosen by a test."""

    def __init__(self, z: Tensor) -> None:
        self.z = z

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        raise NotImplementedError

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return self.z.reshape(shape)

    def stream(self, name: str) -> Randomness:
        return self


@pytest.mark.parametrize(("family", "options"), FAMILIES)
@pytest.mark.parametrize("given", [(), (1,)])
def test_on_gaussians_it_is_the_exact_law(
    family: str, options: dict[str, Any], given: tuple[int, ...]
) -> None:
    target = from_spec("gaussian:ar1,tokens=4,rho=0.8")
    x = target.sample(100, rng())
    procedure = Procedure.of(build_probe(family, options), target, given=given)
    for length, steps in [(4 - len(given), 3), (4 - len(given), 5), (2, 3), (0, 3)]:
        budget = Budget(length=length, steps=steps)
        law = procedure.exact_law(budget)
        assert isinstance(law, GaussianLaw)
        torch.testing.assert_close(
            density(procedure, budget, x), law.log_prob(x), atol=1e-8, rtol=1e-8
        )


@pytest.mark.parametrize("family", ["diffusion", "ar_diffusion", "rolling_diffusion"])
def test_in_one_dimension_it_is_the_derivative_of_the_inverse(family: str) -> None:
    target = from_spec("modes:tokens=1,modes=3,gap=5")
    procedure = Procedure.of(build_probe(family), target)
    budget = Budget(length=1, steps=4)
    z = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None, None]
    x = procedure.sample(budget, len(z), Chosen(z))[:, 0, 0]
    assert bool((x.diff() > 0).all())
    slope = torch.gradient(x, spacing=(z[:, 0, 0],), edge_order=2)[0]
    log_normal = -0.5 * (z[:, 0, 0].square() + math.log(2 * math.pi))
    inner = slice(50, -50)
    torch.testing.assert_close(
        density(procedure, budget, x[:, None, None])[inner],
        (log_normal - slope.log())[inner],
        atol=5e-5,
        rtol=1e-5,
    )


def test_it_integrates_to_one_in_one_dimension() -> None:
    procedure = Procedure.of(
        build_probe("diffusion", {"path": "linear"}), from_spec("modes:tokens=1,modes=2,gap=6")
    )
    x = torch.linspace(-14, 14, 28001, dtype=torch.float64)
    log_q = density(procedure, Budget(length=1, steps=5), x[:, None, None])
    assert float(torch.trapezoid(log_q.exp(), x)) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_it_integrates_to_one_in_two_dimensions() -> None:
    target = from_spec("modes:tokens=2,modes=2,gap=3")
    procedure = Procedure.of(build_probe("diffusion_forcing", {"schedule": "pyramid"}), target)
    x = torch.linspace(-8.5, 8.5, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(x, x)[..., None]
    log_q = density(procedure, Budget(length=2, steps=3), grid).reshape(401, 401)
    total = torch.trapezoid(torch.trapezoid(log_q.exp(), x), x)
    assert float(total) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_on_digits_it_agrees_with_differences_of_the_forward_map(
    digits: ProductMixture, family: str, options: dict[str, Any]
) -> None:
    procedure = Procedure.of(build_probe(family, options), digits)
    budget = Budget(length=8, steps=4)
    draws = procedure.sample(budget, 6, rng())
    forward = procedure.log_density_of_draws(budget, 6, rng)
    assert isinstance(forward, LogDensity)
    inverse = density(procedure, budget, draws)
    torch.testing.assert_close(inverse, forward.values, atol=2e-4, rtol=1e-5)


def large_mixtures() -> list[ContinuousTarget]:
    draws = rng()
    basis = draws.normal((12, 270)) * torch.linspace(0.4, 0.05, 12)[:, None]
    means = (draws.normal((160, 12)) @ basis.double()).unflatten(1, (90, 3))
    scales = 0.2 + draws.uniform((10, 90, 3))
    return [DiagonalMixture(4 * means[:10], scales), ProductMixture(means, scales[0])]


@pytest.mark.parametrize("family", ["diffusion", "ar_diffusion"])
@pytest.mark.parametrize("number", range(2))
def test_in_many_numbers_no_matrix_is_written_out(
    monkeypatch: pytest.MonkeyPatch, family: str, number: int
) -> None:
    target = large_mixtures()[number]
    procedure = Procedure.of(build_probe(family), target)
    budget, x = Budget(length=90, steps=4), target.sample(24, rng())
    found = density(procedure, budget, x)
    for place in ("diagonal_mixture", "product_mixture"):
        monkeypatch.setattr(f"capcheck.targets.continuous.{place}.LARGE", 1000)
    expected = density(procedure, budget, x)
    error = (found - expected).std() / len(x) ** 0.5
    assert abs(float((found - expected).mean())) < 4 * float(error) + 1e-6
    estimated = number == 1 and family == "diffusion"  # by random vectors
    spread = (target.log_prob(x) - expected).std() / len(x) ** 0.5
    assert float(error) < (0.5 * float(spread) if estimated else 1e-7)


def test_a_jump_from_noise_to_data_has_no_density(digits: ProductMixture) -> None:
    x = digits.sample(5, rng())
    for family in ("diffusion", "ar_diffusion"):
        procedure = Procedure.of(build_probe(family), digits)
        values = density(procedure, Budget(length=8, steps=1), x)
        assert values.tolist() == [-math.inf] * 5


def _network(slope: float, bend: float) -> Any:
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return slope * x_t + bend * (6 * x_t).sin()

    return denoise


def test_a_network_that_turns_back_is_noticed() -> None:
    target = from_spec("gaussian:tokens=2")
    x, budget = target.sample(50, rng()), Budget(length=2, steps=4)
    procedure = Procedure.of(build_probe("diffusion"), target)
    rising = procedure.with_network(_network(0.5, 0.0)).log_density(budget, x, rng())
    assert isinstance(rising, LogDensity)
    assert not rising.bound
    assert "several starts" in rising.method
    folded = procedure.with_network(_network(0.5, 1.0)).log_density(budget, x, rng())
    assert isinstance(folded, Unavailable) or folded.bound
    three = Procedure.of(build_probe("diffusion"), from_spec("gaussian:tokens=3"))
    falling = three.with_network(_network(-4.0, 0.0))
    zeros = torch.zeros(5, 3, 1, dtype=torch.float64)
    turned = falling.log_density(Budget(length=3, steps=4), zeros, rng())
    assert isinstance(turned, LogDensity)
    assert turned.bound


def test_a_network_without_a_derivative_has_no_density() -> None:
    target = from_spec("gaussian:tokens=2")
    procedure = Procedure.of(build_probe("diffusion"), target)
    deaf = procedure.with_network(lambda x_t, t: (0.5 * x_t).detach())
    found = deaf.log_density(Budget(length=2, steps=3), target.sample(5, rng()), rng())
    assert isinstance(found, Unavailable)
    assert "cannot be differentiated" in found.reason


def _mixtures() -> dict[str, ContinuousTarget]:
    torch.manual_seed(0)
    means, weights = torch.randn(5, 4, 2).double(), torch.rand(5).double()
    root = torch.randn(5, 8, 8).double()
    return {
        "product": ProductMixture(means, torch.rand(4, 2).double() + 0.3, weights),
        "diagonal": DiagonalMixture(means, torch.rand(5, 4, 2).double() + 0.3, weights),
        "full": GaussianMixture(means, root @ root.mT + 0.1 * torch.eye(8).double(), weights),
    }


@pytest.mark.parametrize("name", ["product", "diagonal", "full"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("levels", [(0.5,) * 4, (0, 0.3, 0.9, 1), (0.02, 0.5, 0.5, 1)])
def test_the_derivative_of_a_denoiser_is_that_of_differences(
    name: str, causal: bool, levels: tuple[float, ...]
) -> None:
    target, path = _mixtures()[name], PATHS["cosine"]
    x = torch.randn(6, 4, 2, dtype=torch.float64)
    t = torch.tensor(levels, dtype=torch.float64).expand(6, 4)
    for tokens in ([0, 1, 2, 3], [1, 2], [2]):
        mean, derivative = target.denoise_with_derivative(x, t, path, tokens, causal=causal)
        expected = target.denoise(x, t, path, causal=causal)[:, tokens]
        torch.testing.assert_close(mean, expected, atol=1e-9, rtol=1e-9)
        _, differences = ContinuousTarget.denoise_with_derivative(
            target, x, t, path, tokens, causal=causal
        )
        torch.testing.assert_close(derivative, differences, atol=1e-6, rtol=1e-6)


def test_the_derivative_reads_components_in_parts(
    digits: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, t = digits.sample(20, rng()), torch.full((20, 8), 0.4, dtype=torch.float64)
    path = PATHS["cosine"]

    def found() -> list[Tensor]:
        twin = digits.relative_to(torch.zeros(8, 1), 1.0)
        return [
            each
            for causal in (False, True)
            for each in twin.denoise_with_derivative(x, t, path, [0, 3, 4], causal=causal)
        ]

    whole = found()
    monkeypatch.setattr("capcheck.targets.components.TILE", 1 << 9)
    for one, other in zip(found(), whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)
