"""A target in another unit, and moved: every refining family has the same law, up to the unit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import UnitDraws
from reference.gaussians import autoregressive

from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.laws.gaussian import GaussianLaw
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, ProductMixture

S = autoregressive(3, 0.7).covariances[0]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("diffusion", {}),
    ("diffusion", {"eta": 0.5}),
    ("diffusion", {"solver": "heun", "grid": "karras"}),
    ("diffusion", {"solver": "dpm_solver", "grid": "log_snr"}),
    ("diffusion", {"solver": "ddpm_large_noisy"}),
    ("consistency", {}),
    ("consistency", {"solver_steps": "exact"}),
    ("flow_map", {}),
    ("ebm", {}),
    ("ar_diffusion", {}),
    ("rolling_diffusion", {"n_clean": 1}),
    ("mar", {"order": "fixed"}),
    ("diffusion_forcing", {"schedule": "pyramid"}),
    ("ar_smoothing", {"last": "tweedie"}),
]
UNITS = [(1 / 255, 0.5), (10.0, -3.0), (100.0, 128.0)]


def gaussian(unit: float, origin: float) -> GaussianMixture:
    means = torch.full((1, 3, 1), origin, dtype=torch.float64)
    return GaussianMixture(means, unit**2 * torch.tensor(S)[None])


def mixture(unit: float, origin: float) -> ProductMixture:
    means = torch.tensor([[[-1.0], [0.5], [2.0]], [[0.3], [-0.7], [-1.0]]], dtype=torch.float64)
    scales = torch.tensor([[0.6], [0.8], [0.5]], dtype=torch.float64)
    return ProductMixture(origin + unit * means, unit * scales)


@pytest.mark.parametrize(("unit", "origin"), UNITS)
@pytest.mark.parametrize(("family", "options"), CASES)
def test_the_exact_law_moves_with_the_unit(
    family: str, options: dict[str, Any], unit: float, origin: float
) -> None:
    probe, budget = build_probe(family, options), Budget(length=3, steps=3)
    one, other = (
        Procedure.of(probe, target).exact_law(budget)
        for target in (gaussian(1, 0), gaussian(unit, origin))
    )
    assert isinstance(one, GaussianLaw)
    assert isinstance(other, GaussianLaw), other
    assert ((other.covariance / unit**2) - one.covariance).abs().max() < 1e-8
    assert ((other.mean - origin) / unit - one.mean).abs().max() < 1e-8


def test_without_coordinates_the_law_would_hang_on_the_unit() -> None:
    # The twin: DDIM of the probe by itself, from noise of size 1 whatever the tokens' unit.
    probe, variances = build_probe("diffusion"), {}
    for unit in (1.0, 10.0):
        target = gaussian(unit, 0)
        start = State.blank(target.spec, 4)
        oracle, budget = probe.signature.oracle(target), Budget(length=3, steps=3)
        *_, last = probe.run(oracle, target.spec, budget, start, UnitDraws())
        columns = (last.tokens[1:] - last.tokens[0])[..., 0]
        variances[unit] = float(columns.square().sum(0)[0]) / unit**2
    assert abs(variances[10.0] - variances[1.0]) > 0.05


@pytest.mark.parametrize(("unit", "origin"), UNITS[::2])
@pytest.mark.parametrize("given", [(), (1,)])
@pytest.mark.parametrize(
    ("family", "options"), [*CASES, ("ebm", {"sampler": "mala"}), ("mar", {}), ("ar_smoothing", {})]
)
def test_draws_and_limits_move_with_the_unit(
    family: str, options: dict[str, Any], given: tuple[int, ...], unit: float, origin: float
) -> None:
    probe, n = build_probe(family, options), 20
    budget = Budget(length=3 - len(given), steps=3)
    one, other = (
        Procedure.of(probe, target, given=given)
        for target in (mixture(1, 0), mixture(unit, origin))
    )
    draws = one.sample(budget, n, CounterRandomness(0))
    moved = (other.sample(budget, n, CounterRandomness(0)) - origin) / unit
    assert (moved - draws).abs().max() < 1e-6
    limits = [procedure.limit(n, CounterRandomness(0)) for procedure in (one, other)]
    if limits[0] is None or limits[1] is None:
        assert limits == [None, None]
    else:
        assert ((limits[1] - origin) / unit - limits[0]).abs().max() < 1e-3
