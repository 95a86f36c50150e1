"""Objectives: what is recorded, the floors of the losses, and a fit through the whole procedure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.fitting import RecordedRun, build, fit, objective_for
from capcheck.fitting.sample_distance import energy_distance
from capcheck.networks.signatures import Signature
from capcheck.probes.length.gpt import GPT
from capcheck.probes.length.maskgit import MaskGIT
from capcheck.probes.length_outer.mar import MAR
from capcheck.probes.neither.gan import GAN
from capcheck.probes.steps.consistency import Consistency
from capcheck.probes.steps.diffusion import Diffusion
from capcheck.probes.steps.ebm import EBM
from capcheck.probes.steps.flow_map import FlowMapSampler
from capcheck.probes.steps_outer.ar_smoothing import ARSmoothing
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.procedure import Procedure
from capcheck.targets import Target, from_spec

BUDGETS = [Budget(length=3, steps=2)]


def run(probe: AnyProbe, target: Target, budgets: list[Budget] | None = None) -> RecordedRun:
    return RecordedRun(Procedure.of(probe, target), budgets=budgets or BUDGETS, seed=0)


def numbers() -> Target:
    return from_spec("modes:tokens=3,modes=2,gap=3")


class Exact(torch.nn.Module):
    """The oracle as a module, which a flow's is called once for each pair of levels."""

    def __init__(self, oracle: Any, by_level: bool) -> None:
        super().__init__()
        self.oracle, self.by_level = oracle, by_level

    def forward(self, *shown: torch.Tensor) -> Any:
        if not self.by_level:
            return self.oracle(*shown)
        levels = torch.stack([level[:, 0] for level in shown[1:]], 1)
        answer = torch.empty_like(shown[0])
        for pair in levels.unique(dim=0):
            rows = (levels == pair).all(1)
            answer[rows] = self.oracle(*(part[rows] for part in shown))
        return answer


class Blurred(Exact):
    """The oracle, shown tokens that are not those that it was given."""

    def forward(self, *shown: torch.Tensor) -> Any:
        x, *more = shown
        return super().forward(x + 1 if x.is_floating_point() else x.roll(1, 0), *more)


def excess(objective: Any, network: torch.nn.Module) -> float:
    batch = objective.draw(256, CounterRandomness(7))
    loss = objective.loss(network, batch, CounterRandomness(8))
    return float(loss.detach()) - float(batch.get("floor", torch.zeros(1)).mean())


@pytest.mark.parametrize(
    ("probe", "target"),
    [
        (GPT(), from_spec("copy:tokens=3,symbols=3")),
        (GPT(), numbers()),
        (MaskGIT(), from_spec("copy:tokens=3,symbols=3")),
        (Diffusion(), numbers()),
        (MAR(), numbers()),
        (FlowMapSampler(), from_spec("gaussian:ar1,tokens=3,rho=0.5")),
        (Consistency(), numbers()),
        (Consistency(solver_steps="exact"), from_spec("gaussian:ar1,tokens=3,rho=0.5")),
        (EBM(), numbers()),
        (EBM(), from_spec("ising:rows=1,columns=3")),
        (ARSmoothing(), numbers()),
    ],
    ids=lambda part: getattr(part, "family", "target"),
)
def test_the_oracle_is_at_the_floor_and_another_network_above(
    probe: AnyProbe, target: Target
) -> None:
    recorded = run(probe, target)
    objective, oracle = objective_for(probe.signature, recorded), recorded.procedure.oracle
    by_level = isinstance(probe, (FlowMapSampler, Consistency))
    assert excess(objective, Exact(oracle, by_level)) == pytest.approx(0, abs=1e-5)
    assert excess(objective, Blurred(oracle, by_level)) > 0.01


def test_prefixes_are_recorded_and_the_next_token_is_what_counts() -> None:
    objective: Any = objective_for(GPT().signature, run(GPT(), numbers()))
    batch = objective.draw(400, CounterRandomness(0))
    known, counts = batch["1"], batch["counts"]
    length = known.sum(1)
    assert bool((known == (torch.arange(3) < length[:, None])).all())
    assert torch.equal(counts, torch.arange(3) == length[:, None])
    # Three calls in equal shares: 400 / 3 with a deviation of 9.4.
    assert length.bincount().tolist() == pytest.approx([400 / 3] * 3, abs=40)


def test_recorded_levels_are_those_of_the_budgets_in_equal_shares() -> None:
    budgets = [Budget(length=0, steps=1), Budget(length=0, steps=4)]
    objective: Any = objective_for(Diffusion().signature, run(Diffusion(), numbers(), budgets))
    t = objective.draw(800, CounterRandomness(0))["1"][:, 0]
    on_grid = torch.isin(t, torch.tensor([0.25, 0.5, 0.75, 1.0]).double())
    assert int((~on_grid).sum()) == 100  # one of eight is uniform
    assert float((t[on_grid] == 1).double().mean()) == pytest.approx(0.5 + 0.5 / 4, abs=0.06)


def test_the_energy_distance_is_that_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 3)), generator.normal(1.0, 1.0, size=(30, 3))
    x[1] = x[0]  # a pair at distance 0
    expected = (
        2 * cdist(x, y).mean() - cdist(x, x).sum() / (40 * 39) - cdist(y, y).sum() / (30 * 29)
    )
    X = torch.tensor(x, requires_grad=True)
    found = energy_distance(X, torch.tensor(y))
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-12)
    found.backward()
    assert X.grad is not None
    assert bool(X.grad.isfinite().all())


def test_the_energy_distance_of_token_ids_needs_no_double_precision() -> None:
    generator = np.random.default_rng(0)
    x, y = (generator.integers(0, 5, size=(n, 60)) for n in (40, 30))
    x[1] = x[0]  # a pair at distance 0
    apart = [np.sqrt(2 * (a[:, None] != b).sum(-1)) for a, b in ((x, y), (x, x), (y, y))]
    expected = 2 * apart[0].mean() - apart[1].sum() / (40 * 39) - apart[2].sum() / (30 * 29)
    X, Y = (torch.eye(5)[torch.tensor(z)].flatten(1) for z in (x, y))
    X.requires_grad_()
    found = energy_distance(X, Y, one_hot=True)
    assert float(found.detach()) == pytest.approx(float(expected), abs=1e-5)
    found.backward()
    assert X.grad is not None
    exact = X.detach().double().requires_grad_()
    energy_distance(exact, Y.double()).backward()
    assert exact.grad is not None
    assert torch.allclose(X.grad.double(), exact.grad, atol=1e-6)


def test_end_to_end_one_step_of_diffusion_need_not_return_the_mean() -> None:
    # One DDIM step returns the network's answer at t = 1: the oracle's is the mean, of variance 0.
    target, budget = from_spec("gaussian:ar1,tokens=2,rho=0.8"), Budget(length=0, steps=1)
    procedure = Procedure.of(Diffusion(), target)
    module = build(procedure.probe.signature, procedure.spec, "mlp:width=16,depth=1")
    more: dict[str, Any] = {"budgets": [budget], "batch": 128, "learning_rate": 2e-2}

    def covariance(objective: Any, steps: int) -> np.ndarray:
        fitted = fit(Diffusion(), target, module, steps=steps, objective=objective, **more)
        own = procedure.with_network(fitted.network)
        return np.cov(own.sample(budget, 4000, CounterRandomness(9))[..., 0].numpy().T)

    assert covariance("end_to_end", 300) == pytest.approx(np.array([[1, 0.8], [0.8, 1]]), abs=0.15)
    assert np.abs(covariance("oracle", 50)).max() < 0.02


def test_a_generator_of_token_ids_learns_a_law() -> None:
    target = from_spec("copy:tokens=2,symbols=2")
    module = build(GAN().signature, target.spec, "mlp:width=16,depth=1")
    fitted = fit(GAN(), target, module, budgets=BUDGETS, steps=150, batch=256, learning_rate=1e-2)
    z = CounterRandomness(3).normal((2000, 2, 1))
    x = fitted.network(z)
    assert float((x[:, 0] == x[:, 1]).double().mean()) > 0.9
    assert float(x.double().mean()) == pytest.approx(0.5, abs=0.1)
    assert not math.isnan(fitted.validation)


@pytest.mark.parametrize("probe", [EBM(), GPT()])
def test_a_procedure_without_gradient_is_not_fitted_end_to_end(probe: AnyProbe) -> None:
    module = build(probe.signature, numbers().spec, "mlp:width=4,depth=1")
    with pytest.raises(InputError, match="can be differentiated"):
        fit(probe, numbers(), module, budgets=BUDGETS, steps=2, objective="end_to_end")


def test_budgets_without_a_call_are_refused() -> None:
    nothing = [Budget(length=0, steps=1)]
    with pytest.raises(InputError, match="at least once"):
        objective_for(GPT().signature, run(GPT(), numbers(), nothing))


def test_a_signature_without_objective_is_refused() -> None:
    class Unknown(Signature[Any]):
        def oracle(self, target: Target) -> Any:
            return None

        def require(self, answer: object, shown: torch.Tensor) -> None:
            return None

    with pytest.raises(InputError, match="no objective for Unknown"):
        objective_for(Unknown(), run(GPT(), numbers()))
