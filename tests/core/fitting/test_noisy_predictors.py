"""Fitted noisy predictors: the loss's floor, what the module reads, and a fit that comes near."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.fitting import RecordedRun, as_network, build, fit, objective_for
from capcheck.networks.signatures import NoisyPredictorSignature
from capcheck.probes.steps.uniform_diffusion import UniformDiffusion
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.targets import from_spec, from_table

TARGET = from_spec("copy:tokens=3,symbols=3")
BUDGETS = [Budget(length=3, steps=4)]


class Told(nn.Module):
    """The oracle as a module, told keep-probabilities that are a little wrong."""

    def __init__(self, oracle: Any, factor: float) -> None:
        super().__init__()
        self.oracle, self.factor = oracle, factor

    def forward(self, tokens: Tensor, keep: Tensor) -> Any:
        return self.oracle(tokens, self.factor * keep)


def excess(procedure: AnyProcedure, network: nn.Module) -> float:
    run = RecordedRun(procedure, budgets=BUDGETS, seed=0)
    objective = objective_for(procedure.probe.signature, run)
    batch = objective.draw(512, CounterRandomness(7))
    loss = objective.loss(network, batch, CounterRandomness(8))
    return float(loss.detach()) - float(batch["floor"].mean())


@pytest.mark.parametrize("given", [(), (1,)])
def test_the_oracle_is_at_the_floor_and_another_network_above(given: tuple[int, ...]) -> None:
    procedure = Procedure.of(UniformDiffusion(), TARGET, given=given)
    assert excess(procedure, Told(procedure.oracle, 1.0)) == pytest.approx(0, abs=1e-9)
    assert excess(procedure, Told(procedure.oracle, 0.8)) > 0.01


def test_recorded_levels_are_those_of_the_steps_and_given_tokens_do_not_count() -> None:
    procedure = Procedure.of(UniformDiffusion(), TARGET, given=(1,))
    run = RecordedRun(procedure, budgets=BUDGETS, seed=0)
    batch = objective_for(procedure.probe.signature, run).draw(400, CounterRandomness(0))
    assert batch["1"][:, 0].unique().tolist() == [0, 0.25, 0.5, 0.75]
    assert bool((batch["1"][:, 1] == 1).all())
    assert batch["counts"].tolist() == [[True, False, True]] * 400


@pytest.mark.parametrize("text", ["mlp:width=8,depth=1", "transformer:width=8,depth=1"])
def test_a_module_reads_what_it_is_shown_and_no_more(text: str) -> None:
    module = build(NoisyPredictorSignature(), TARGET.spec, text)
    x = torch.tensor([[0, 1, 2], [2, 0, 1]])
    keep = torch.tensor([[0.0, 0.5, 1.0]]).expand(2, -1)
    law = module(x, keep).mean()
    hidden, moved, sharper = x.clone(), x.clone(), keep.clone()
    hidden[:, 0] = -1  # tells nothing at keep-probability 0
    moved[:, 1] = (x[:, 1] + 1) % 3
    sharper[:, 1] = 0.9
    assert torch.equal(module(hidden, keep).mean(), law)
    assert not torch.equal(module(moved, keep).mean(), law)
    assert not torch.equal(module(x, sharper).mean(), law)
    clean = law[torch.arange(2), 2, x[:, 2]]
    assert clean.tolist() == pytest.approx([1, 1], abs=1e-6)


def test_a_fit_comes_near_the_oracle() -> None:
    target = from_table(torch.tensor([[0.4, 0.1], [0.05, 0.45]]).double())
    procedure = Procedure.of(UniformDiffusion(), target)
    module = build(NoisyPredictorSignature(), target.spec, "mlp:width=16,depth=1")
    before = excess(procedure, Told(as_network(module, torch.float64), 1.0))
    fitted = fit(UniformDiffusion(), target, module, budgets=BUDGETS, steps=150)
    after = excess(procedure, Told(fitted.network, 1.0))
    assert after < 0.01 < before
    assert np.isfinite(after)
