"""Procedures in the principal axes of a Gaussian: the same draws and laws, against numpy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from capcheck.core.budget import Budget
from capcheck.core.errors import ProbeError
from capcheck.core.randomness import CounterRandomness
from capcheck.laws.gaussian import GaussianLaw
from capcheck.probes.steps.diffusion import Diffusion
from capcheck.procedures.principal_axes import LEAST, RotatedNoise
from capcheck.procedures.probe import OPTIONS
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.procedures.registry import build_probe, families
from capcheck.targets import GaussianMixture
from capcheck.testing.checks import check_declaration

N, D = 32, 2
Array = NDArray[np.float64]


def covariance() -> Array:
    factors = np.random.default_rng(0).standard_normal((N * D, 5))
    found: Array = factors @ factors.T + 0.2 * np.eye(N * D)
    return found


def gaussian(C: Array) -> GaussianMixture:
    mean = torch.from_numpy(np.random.default_rng(1).standard_normal((1, N, D)))
    return GaussianMixture(mean, torch.from_numpy(C)[None])


def both(name: str, **options: object) -> tuple[AnyProcedure, AnyProcedure]:
    plain: AnyProcedure = Procedure.of(build_probe(name, options), gaussian(covariance()))
    return plain, plain.in_quickest_coordinates


CASES = [
    ("diffusion", {"solver": solver})
    for solver in ("ddim", "ddpm_small", "ddpm_large", "ddpm_large_noisy", "heun", "dpm_solver")
]
CASES += [("diffusion", {"eta": "0.5"}), ("diffusion", {"grid": "karras"})]
CASES += [("diffusion", {"grid": "log_snr"}), ("flow_map", {}), ("consistency", {})]
CASES += [("consistency", {"solver_steps": "exact"})]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_draws_and_law_are_those_of_the_tokens_own_coordinates(
    name: str, options: dict[str, str]
) -> None:
    plain, rotated = both(name, **options)
    assert rotated.rotated
    assert not plain.rotated
    budget = Budget(length=0, steps=3)
    x, y = (one.sample(budget, 7, CounterRandomness(2)) for one in (plain, rotated))
    assert torch.allclose(x, y, rtol=0, atol=1e-9)
    law, other = (one.exact_law(budget) for one in (plain, rotated))
    assert isinstance(law, GaussianLaw)
    assert isinstance(other, GaussianLaw)
    assert torch.allclose(law.covariance, other.covariance, rtol=0, atol=1e-9)


def test_the_law_of_ddim_is_that_of_each_eigenvalue() -> None:
    C = covariance()
    unit = np.trace(C) / (N * D)
    values, axes = np.linalg.eigh(C / unit)
    factor = np.ones_like(values)
    for t, s in ((1.0, 0.5), (0.5, 0.0)):
        a, b = (np.cos(np.pi * level / 2) for level in (t, s))
        e, g = (np.sin(np.pi * level / 2) for level in (t, s))
        gain = a * values / (a**2 * values + e**2)  # of E[x_0 | x_t]
        factor = factor * (b * gain + g * (1 - a * gain) / e)
    law = both("diffusion")[1].exact_law(Budget(length=0, steps=2))
    assert isinstance(law, GaussianLaw)
    expected = unit * (axes * factor**2) @ axes.T
    assert np.allclose(law.covariance.numpy(), expected, rtol=0, atol=1e-10)


def test_networks_given_tokens_and_small_or_ill_scaled_laws_stay_as_they_are() -> None:
    plain = both("diffusion")[0]
    assert not plain.with_network(plain.oracle).in_quickest_coordinates.rotated
    assert not plain.rounded("float32").in_quickest_coordinates.rotated
    assert not plain.perturbed("noise", 0.1).in_quickest_coordinates.rotated
    given = Procedure.of(build_probe("diffusion"), gaussian(covariance()), given=(0,))
    assert not given.in_quickest_coordinates.rotated
    ill = covariance()
    ill[0], ill[:, 0] = 0, 0
    ill[0, 0] = 1e-9
    assert not Procedure.of(Diffusion(), gaussian(ill)).in_quickest_coordinates.rotated
    small = GaussianMixture(torch.zeros(1, LEAST - 1, 1), torch.eye(LEAST - 1)[None])
    assert not Procedure.of(Diffusion(), small).in_quickest_coordinates.rotated


def test_rotated_noise_is_rotated_row_by_row_in_every_stream() -> None:
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    plain, turned = CounterRandomness(4), RotatedNoise(CounterRandomness(4), basis)
    for source, other in ((plain, turned), (plain.stream("a"), turned.stream("a"))):
        z, c = source.normal((3, 2, 3)), other.normal((3, 2, 3))
        expected = np.einsum("ij,nj->ni", basis.double().numpy(), z.flatten(1).numpy())
        assert np.allclose(c.flatten(1).numpy(), expected, rtol=0, atol=1e-12)
    assert torch.equal(plain.uniform((3, 2)), turned.uniform((3, 2)))


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Clipped(Diffusion):
    """Diffusion that clips numbers, and so treats axes differently."""

    rotates: ClassVar[bool] = True

    def run(self, *arguments: object, **keywords: object):  # type: ignore[no-untyped-def]
        for state in super().run(*arguments, **keywords):  # type: ignore[arg-type]
            yield state.write(state.tokens.clamp(-0.5, 0.5), ~state.placed | state.placed)


@pytest.mark.parametrize("name", sorted(families()))
def test_what_families_declare_holds(name: str) -> None:
    check_declaration(build_probe(name))


def test_a_wrong_declaration_is_refused() -> None:
    with pytest.raises(ProbeError, match="rotat"):
        check_declaration(Clipped())
