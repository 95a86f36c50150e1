"""Flow maps against a Gaussian's factors and against quantiles in one dimension."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.diffusion import PATHS as FORMULAS
from reference.diffusion import flow_map_factor
from scipy import optimize, stats

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.exact.replay import exact_law
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import (
    ConsistencySignature,
    FlowMapSignature,
    TokenPredictorSignature,
)
from capcheck.noise.paths import PathName
from capcheck.procedures.registry import build_probe
from capcheck.targets import ProductMixture, from_spec

MEANS, WEIGHTS, SCALE = np.array([-2.0, 0.5, 3.0]), np.array([0.2, 0.5, 0.3]), 0.4
LEVELS = [(1.0, 0.0), (1.0, 0.4), (0.6, 0.25), (0.25, 0.0), (0.5, 0.5)]


@pytest.fixture(scope="module")
def modes() -> ProductMixture:
    return ProductMixture(
        torch.tensor(MEANS)[:, None, None],
        torch.full((1, 1), SCALE).double(),
        torch.tensor(WEIGHTS),
    )


def carry(
    target: ProductMixture, x: torch.Tensor, t: float, s: float, path: PathName
) -> np.ndarray:
    flow_map = FlowMapSignature(path).oracle(target)
    found: np.ndarray = flow_map(x, torch.full_like(x[..., 0], t), torch.full_like(x[..., 0], s))[
        ..., 0
    ].numpy()
    return found


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(("t", "s"), LEVELS)
def test_in_one_dimension_quantiles_are_kept(
    modes: ProductMixture, path: PathName, t: float, s: float
) -> None:
    a, sigma = FORMULAS[path]

    def cdf(x: float, level: float) -> float:
        width = np.hypot(a(level) * SCALE, sigma(level))
        return float(WEIGHTS @ stats.norm.cdf((x - a(level) * MEANS) / width))

    x = np.linspace(-2.5, 2.5, 21) * np.hypot(sigma(t), a(t) * 1.5)
    expected = [
        optimize.brentq(lambda q, u=u: cdf(q, s) - u, -20, 20) for u in (cdf(v, t) for v in x)
    ]
    found = carry(modes, torch.tensor(x)[:, None, None], t, s, path)[:, 0]
    assert found.tolist() == pytest.approx(expected, abs=2e-4)
    if (t, s) == (1.0, 0.0):  # a map of two DDIM steps lands elsewhere
        few = ConsistencySignature(path, solver_steps=2).oracle(modes)
        x_0 = few(torch.tensor(x)[:, None, None], torch.ones(21, 1).double())[:, 0, 0]
        assert abs(x_0.numpy() - expected).max() > 0.05


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("v", [0.25, 4.0])
@pytest.mark.parametrize(("t", "s"), LEVELS)
def test_a_gaussian_is_scaled(path: PathName, v: float, t: float, s: float) -> None:
    target = from_spec(f"gaussian:tokens=2,std={v**0.5}")
    x = CounterRandomness(0).normal((5, 2, 1))
    found = carry(target, x, t, s, path)  # type: ignore[arg-type]
    assert found == pytest.approx(flow_map_factor(v, t, s, path) * x[..., 0].numpy(), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_every_number_of_steps_is_exact(k: int, path: str) -> None:
    target = from_spec("gaussian:ar1,tokens=3,rho=0.8,std=1.5")
    distance = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    probes = [("flow_map", 1e-12, False), ("diffusion", 1e-2, True)]
    for family, tolerance, misses in probes:
        probe = build_probe(family, {"path": path})
        law = exact_law(
            probe,
            probe.signature.oracle(target),
            completion=TokenPredictorSignature().oracle(target),
            spec=target.spec,
            budget=Budget(length=0, steps=k),
        )
        assert isinstance(law, GaussianLaw)
        miss = np.abs(law.covariance.numpy() - 2.25 * 0.8**distance).max()
        assert (miss > tolerance) == misses


def test_no_row_has_a_say_in_another(modes: ProductMixture) -> None:
    x = CounterRandomness(2).normal((9, 1, 1))
    alone = np.concatenate([carry(modes, row[None], 1.0, 0.0, "cosine") for row in x])
    assert np.abs(alone - carry(modes, x, 1.0, 0.0, "cosine")).max() < 1e-12


def test_two_maps_in_turn_are_one(modes: ProductMixture) -> None:
    x = CounterRandomness(2).normal((50, 1, 1))
    middle = torch.tensor(carry(modes, x, 1.0, 0.3, "cosine"))[..., None]
    whole = carry(modes, x, 1.0, 0.0, "cosine")
    assert np.abs(carry(modes, middle, 0.3, 0.0, "cosine") - whole).max() < 2e-4
    assert np.abs(carry(modes, middle, 0.35, 0.0, "cosine") - whole).max() > 1e-2


def test_tokens_at_different_levels_are_refused(three: ProductMixture) -> None:
    x = torch.zeros(1, 3, 1).double()
    levels = torch.tensor([[0.5, 0.5, 0.4]], dtype=torch.float64)
    with pytest.raises(InputError, match="same for all tokens"):
        FlowMapSignature("cosine").oracle(three)(x, levels, 0 * levels)
    with pytest.raises(InputError, match="same for all tokens"):
        ConsistencySignature("cosine", solver_steps=2).oracle(three)(x, levels)


def test_the_limit_is_what_one_step_makes(three: ProductMixture) -> None:
    probe = build_probe("flow_map")
    oracle, budget = probe.signature.oracle(three), Budget(length=0, steps=1)
    *_, last = probe.run(oracle, three.spec, budget, 8, CounterRandomness(0))
    found = probe.limit(oracle, three.spec, 8, CounterRandomness(0))
    assert found is not None
    assert torch.equal(found, last.tokens)
