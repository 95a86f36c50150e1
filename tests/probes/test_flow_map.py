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
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import ConsistencySignature, FlowMapSignature
from capcheck.noise.paths import PathName
from capcheck.procedures.procedure import Procedure
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
        procedure = Procedure.of(build_probe(family, {"path": path}), target)
        law = procedure.exact_law(Budget(length=0, steps=k))
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
    x = torch.zeros(2, 3, 1).double()
    levels = torch.tensor([[0.5, 0.5, 0.4]] * 2, dtype=torch.float64)
    known = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]], dtype=torch.float64)  # not in one row
    flow_map, few = (
        FlowMapSignature("cosine").oracle(three),
        ConsistencySignature("cosine", solver_steps=2).oracle(three),
    )
    for wrong in (levels, known):
        with pytest.raises(InputError, match="same for all tokens"):
            flow_map(x, wrong, 0 * wrong)
        with pytest.raises(InputError, match="same for all tokens"):
            few(x, wrong)
    t = torch.tensor([[0.5, 0.5, 0.0]] * 2, dtype=torch.float64)
    with pytest.raises(InputError, match="levels to land at"):
        flow_map(x, t, 0.1 + 0 * t)  # the last token would get noise
    assert torch.equal(flow_map(x, t, t), x)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(("t", "s"), LEVELS)
def test_beside_known_tokens_the_conditional_quantiles_are_kept(
    three: ProductMixture, path: PathName, t: float, s: float
) -> None:
    # Token 1 given tokens 0 and 2, of three components: weights by Bayes' rule, F by its mixture.
    known, means, scales = np.array([0.4, -1.0]), three.means.numpy()[..., 0], np.array([0.6, 0.5])
    weights = np.array([0.2, 0.5, 0.3]) * stats.norm.pdf(known, means[:, [0, 2]], scales).prod(1)
    weights /= weights.sum()

    def cdf(x: float, level: float) -> float:
        a, sigma = (f(level) for f in FORMULAS[path])
        return float(weights @ stats.norm.cdf((x - a * means[:, 1]) / np.hypot(a * 0.8, sigma)))

    x = np.linspace(-2, 2, 9)
    expected = [
        optimize.brentq(lambda q, u=u: cdf(q, s) - u, -20, 20) for u in (cdf(v, t) for v in x)
    ]
    tokens = torch.tensor([[known[0], v, known[1]] for v in x])[..., None]
    levels = torch.tensor([0.0, 1.0, 0.0]).double().expand(9, 3)
    found = FlowMapSignature(path).oracle(three)(tokens, t * levels, s * levels)
    assert found[:, 1, 0].tolist() == pytest.approx(expected, abs=2e-4)
    assert torch.equal(found[:, [0, 2]], tokens[:, [0, 2]])
    if (t, s) == (1.0, 0.0):
        few = ConsistencySignature(path, solver_steps=2).oracle(three)(tokens, levels)
        assert torch.equal(few[:, [0, 2]], tokens[:, [0, 2]])
        assert abs(few[:, 1, 0].numpy() - expected).max() > 0.02
        exact = ConsistencySignature(path).oracle(three)(tokens, levels)
        assert (exact - found).abs().max() < 1e-12


@pytest.mark.parametrize("given", [(0,), (1, 2)])
@pytest.mark.parametrize("k", [1, 3])
def test_beside_given_tokens_every_number_of_steps_is_exact(k: int, given: tuple[int, ...]) -> None:
    target = from_spec("gaussian:ar1,tokens=4,rho=0.8,std=1.5")
    distance = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    procedure = Procedure.of(build_probe("flow_map"), target, given=given)
    law = procedure.exact_law(Budget(length=0, steps=k))
    assert isinstance(law, GaussianLaw)
    assert law.covariance.numpy() == pytest.approx(2.25 * 0.8**distance, abs=1e-10)

    def still(x_t: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        assert bool((t[:, list(given)] == 0).all() and (s[:, list(given)] == 0).all())
        return x_t + 5  # which given tokens must not follow

    other = procedure.with_network(still)
    a, b = (
        one.sample(Budget(length=0, steps=k), 5, CounterRandomness(0)) for one in (procedure, other)
    )
    assert torch.equal(a[:, list(given)], b[:, list(given)])


def test_the_limit_is_what_one_step_makes(three: ProductMixture) -> None:
    for given in ((), (1,)):
        procedure = Procedure.of(build_probe("flow_map"), three, given=given)
        last = procedure.sample(Budget(length=0, steps=1), 8, CounterRandomness(0))
        found = procedure.limit(8, CounterRandomness(0))
        assert found is not None
        assert torch.equal(found, last)
