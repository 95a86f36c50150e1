"""Coordinates carry points, densities and laws to the tokens: against explicit arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic.dataclasses import dataclass
from reference.mixtures import Mixture

from capcheck.core.errors import InputError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian import GaussianLaw
from capcheck.laws.gaussian_orders import MixtureLaw
from capcheck.probes.length.gpt import GPT
from capcheck.procedures.coordinates import Coordinates, coordinates_of
from capcheck.procedures.probe import OPTIONS
from capcheck.procedures.registry import build_probe
from capcheck.targets import DiagonalMixture, GaussianMixture, ProductMixture, from_spec

UNITS = np.array([0.5, 2.0])
MEAN = np.array([0.1, 1.4])
H = math.sqrt(0.5) * np.array([[1, 1], [1, -1]])


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Turned(GPT):
    """GPT that wants a basis on whatever tokens."""

    def basis(self, spec: SequenceSpec) -> torch.Tensor | None:
        return torch.eye(spec.tokens)


@pytest.fixture
def uneven() -> ProductMixture:
    means = torch.tensor([[[1.0], [-1.0]], [[-0.5], [3.0]]], dtype=torch.float64)
    return ProductMixture(
        means, torch.tensor(UNITS)[:, None], torch.tensor([0.4, 0.6], dtype=torch.float64)
    )


@pytest.fixture
def inside(uneven: ProductMixture) -> Coordinates:
    return coordinates_of(build_probe("var"), uneven)


def test_coordinates_are_those_of_the_basis_in_units(inside: Coordinates) -> None:
    x = torch.tensor([[[1.0], [4.0]], [[-2.0], [0.5]]], dtype=torch.float64)
    c = inside.coordinates(x)
    # The means are 0.4 - 0.3 = 0.1 and -0.4 + 1.8 = 1.4.
    # (0.9 / 0.5 + 2.6 / 2) / sqrt 2 = 3.1 / sqrt 2, and their difference is 0.5 / sqrt 2.
    assert c[0, :, 0].tolist() == pytest.approx([3.1 / math.sqrt(2), 0.5 / math.sqrt(2)])
    expected = (x[..., 0].numpy() - MEAN) / UNITS @ H.T
    assert np.allclose(c[..., 0].numpy(), expected, rtol=0, atol=1e-14)
    assert torch.allclose(inside.tokens(c), x, rtol=0, atol=1e-14)


def test_draws_of_the_coordinates_are_draws_of_the_tokens(
    inside: Coordinates, uneven: ProductMixture
) -> None:
    x = inside.tokens(inside.target.sample(20_000, CounterRandomness(0)))
    error = (uneven.spec.variance / 20_000).sqrt()
    assert bool(((x.mean(0) - uneven.spec.mean).abs() < 5 * error).all())
    assert torch.allclose(x.var(0), uneven.spec.variance, rtol=0.05)


def test_densities_gain_the_volume(inside: Coordinates, uneven: ProductMixture) -> None:
    x = uneven.sample(20, CounterRandomness(1))
    log_p = inside.target.log_prob(inside.coordinates(x))
    found = inside.density_of_tokens(LogDensity(values=log_p, method="exact", bound=True))
    assert isinstance(found, LogDensity)
    reference = Mixture(uneven.means[..., 0].numpy(), UNITS, np.array([0.4, 0.6]))
    expected = np.array([reference.log_prob(row) for row in x[..., 0].numpy()])
    assert np.allclose(found.values.numpy(), expected, rtol=0, atol=1e-12)
    assert found.bound
    volume = math.log(0.5 * 2)
    assert np.allclose(found.values - log_p, -volume, rtol=0, atol=1e-12)


def test_the_volume_is_that_of_the_units() -> None:
    units = torch.tensor([[3.0], [5.0]], dtype=torch.float64)
    target = ProductMixture(torch.zeros(1, 2, 1, dtype=torch.float64), units)
    inside = coordinates_of(build_probe("var"), target)
    zero = torch.zeros(1, 2, 1, dtype=torch.float64)
    log_p = inside.target.log_prob(zero)
    found = inside.density_of_tokens(LogDensity(values=log_p, method="exact"))
    assert isinstance(found, LogDensity)
    assert float(log_p) == pytest.approx(-math.log(2 * math.pi))
    assert float(found.values) == pytest.approx(-math.log(2 * math.pi) - math.log(15))
    nothing = Unavailable(reason="none")
    assert inside.density_of_tokens(nothing) is nothing


def test_laws_are_carried_back(inside: Coordinates) -> None:
    rng = np.random.default_rng(0)
    roots, means = rng.normal(size=(2, 2, 2)), rng.normal(size=(2, 2))
    laws = [
        GaussianLaw(mean=torch.tensor(m), covariance=torch.tensor(root @ root.T))
        for m, root in zip(means, roots, strict=True)
    ]
    one = inside.law_of_tokens(laws[0])
    both = inside.law_of_tokens(
        MixtureLaw(weights=torch.tensor([0.3, 0.7], dtype=torch.float64), laws=tuple(laws))
    )
    back = np.diag(UNITS) @ H.T
    assert isinstance(one, GaussianLaw)
    assert isinstance(both, MixtureLaw)
    for law, m, root in zip([one, *both.laws], means[[0, 0, 1]], roots[[0, 0, 1]], strict=True):
        assert np.allclose(law.mean, MEAN + back @ m, rtol=0, atol=1e-12)
        assert np.allclose(law.covariance, back @ root @ root.T @ back.T, rtol=0, atol=1e-12)
        assert not np.allclose(law.covariance, root @ root.T, rtol=0, atol=1e-3)
    nothing = Unavailable(reason="none")
    assert inside.law_of_tokens(nothing) is nothing


def test_coordinates_of_vectors_are_interleaved() -> None:
    C = np.cov(np.random.default_rng(0).normal(size=(4, 50)))
    target = GaussianMixture(torch.zeros(1, 2, 2).double(), torch.tensor(C)[None])
    inside = coordinates_of(build_probe("var"), target)
    x = torch.tensor([[[1.0, 10.0], [3.0, 30.0]]], dtype=torch.float64)
    unit = math.sqrt(np.trace(C) / 4)  # the mean variance is 1 in it
    expected = [[4, 40], [-2, -20]] / np.sqrt(2) / unit
    assert np.allclose(inside.coordinates(x)[0], expected, rtol=0, atol=1e-14)
    moments = inside.target.gaussian()  # type: ignore[attr-defined]
    basis = np.kron(H, np.eye(2))
    assert np.allclose(moments[1], basis @ C @ basis.T / unit**2, rtol=0, atol=1e-12)


def test_without_a_basis_they_centre_and_divide_by_one_number(uneven: ProductMixture) -> None:
    assert coordinates_of(build_probe("gpt"), uneven).target is uneven  # it adds no noise
    inside = coordinates_of(build_probe("diffusion"), uneven)
    x = uneven.sample(3, CounterRandomness(0))
    assert torch.allclose(inside.target.spec.mean, torch.zeros(2, 1).double(), atol=1e-14)
    assert float(inside.target.spec.variance.mean()) == pytest.approx(1, abs=1e-14)
    assert torch.allclose(inside.tokens(inside.coordinates(x)), x, rtol=0, atol=1e-14)
    assert inside.units is not None
    assert inside.units.unique().numel() == 1
    law = inside.law_of_tokens(
        GaussianLaw(mean=torch.zeros(2).double(), covariance=torch.eye(2).double())
    )
    assert isinstance(law, GaussianLaw)
    assert np.allclose(law.mean, MEAN, rtol=0, atol=1e-14)
    assert torch.allclose(law.covariance, torch.eye(2).double() * inside.units[0] ** 2)


def test_ids_have_no_basis() -> None:
    with pytest.raises(InputError, match="categorical tokens do not have"):
        coordinates_of(Turned(), from_spec("copy:tokens=4"))


def test_a_diagonal_mixture_has_covariances_in_another_basis() -> None:
    scales = torch.tensor([[[1.0], [2.0]], [[3.0], [1.0]]], dtype=torch.float64)
    target = DiagonalMixture(torch.tensor([[[0.0], [1.0]], [[2.0], [0.0]]]).double(), scales)
    coordinates = coordinates_of(build_probe("var"), target)
    assert isinstance(coordinates.target, GaussianMixture)
    x = target.sample(20, CounterRandomness(0))
    inside = coordinates.target.log_prob(coordinates.coordinates(x))
    found = coordinates.density_of_tokens(LogDensity(values=inside, method=""))
    assert isinstance(found, LogDensity)
    torch.testing.assert_close(found.values, target.log_prob(x), rtol=1e-11, atol=1e-11)
