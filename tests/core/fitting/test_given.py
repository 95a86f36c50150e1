"""Fits under given tokens: every kind of network learns what its conditional oracle answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.fitting import build
from capcheck.fitting.fit import Fitted, fit_procedure
from capcheck.fitting.named import placed
from capcheck.probes.length.gpt import GPT
from capcheck.probes.neither.flow import Flow
from capcheck.probes.neither.gan import GAN
from capcheck.probes.neither.vae import VAE
from capcheck.probes.steps.diffusion import Diffusion
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.targets import from_spec

CHAIN = from_spec("gaussian:ar1,tokens=3,rho=0.8")
C = 0.8 ** np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
FULL = Budget(length=2, steps=2)


def fitted(procedure: AnyProcedure, text: str, steps: int, **more: Any) -> Fitted:
    """The fit of a default module for a procedure."""
    module = build(procedure.probe.signature, procedure.spec, text)
    budgets = [FULL]
    more = {"batch": 128, "learning_rate": 1e-2, **more}
    return fit_procedure(procedure, module, budgets=budgets, steps=steps, **more)


def kl(procedure: AnyProcedure, n: int = 4000) -> float:
    """Mean of log p - log q over draws of the chain, nats."""
    x = CHAIN.sample(n, CounterRandomness(5))
    found = procedure.log_density(FULL, x, CounterRandomness(6))
    assert isinstance(found, LogDensity)
    return float((CHAIN.log_prob(x) - found.values).mean())


def test_a_predictor_is_fitted_to_what_it_is_shown_with_given_tokens() -> None:
    procedure = Procedure.of(GPT(), CHAIN, given=(0,))
    found = fitted(procedure, "mlp:width=32,depth=1", 200)
    network: Any = found.network
    x = CHAIN.sample(200, CounterRandomness(0))
    one = torch.tensor([[True, False, False]]).expand(200, 3)
    mean = network(x, one).mean()[:, 1, 0]
    assert (mean - 0.8 * x[:, 0, 0]).abs().mean() < 0.1
    assert (mean - 0.8 * x[:, 2, 0]).abs().mean() > 0.2  # twin
    two = torch.tensor([[True, True, False]]).expand(200, 3)
    assert (network(x, two).mean()[:, 2, 0] - 0.8 * x[:, 1, 0]).abs().mean() < 0.1


def test_a_denoiser_is_fitted_at_the_levels_that_given_tokens_have() -> None:
    procedure = Procedure.of(Diffusion(), CHAIN, given=(0,))
    found = fitted(procedure, "mlp:width=32,depth=1", 300)
    assert found.validation < 0.02 < found.start
    x = CHAIN.sample(300, CounterRandomness(0))
    level = torch.tensor([[0.0, 1.0, 1.0]]).double().expand(300, 3)
    network: Any = found.network
    noise = CounterRandomness(1).normal((300, 3, 1))
    shown = torch.where(level[..., None] == 0, x, noise)
    # From pure noise the others' means given the clean token: 0.8 x_0 and 0.64 x_0.
    answer = network(shown, level)[..., 0]
    for i, share in ((1, 0.8), (2, 0.64)):
        assert (answer[:, i] - share * x[:, 0, 0]).abs().mean() < 0.1
        assert (answer[:, i] + share * x[:, 0, 0]).abs().mean() > 0.5  # twin


@pytest.mark.parametrize("text", ["mlp:depth=0", "mlp:width=16,depth=1"])
def test_a_flow_is_fitted_to_the_others_given_some(text: str) -> None:
    if text != "mlp:depth=0":
        pytest.importorskip("zuko")
    procedure: AnyProcedure = Procedure.of(Flow(), CHAIN, given=(1,))
    found = fitted(procedure, text, 200)
    assert found.validation < 0.05
    assert kl(procedure.with_network(found.network)) < 0.05
    untrained = build(procedure.probe.signature, procedure.spec, text)
    assert kl(procedure.with_network(placed(untrained, procedure.spec, name="it"))) > 0.2  # twin


def test_a_decoder_is_fitted_to_the_others_given_some() -> None:
    # Given the middle token the ends are independent: a decoder needs no latent for them.
    procedure = Procedure.of(VAE(), CHAIN, given=(1,))
    found = fitted(procedure, "mlp:width=16,depth=1", 200)
    after = kl(procedure.with_network(found.network), 500)
    assert -0.02 < after < 0.1
    assert found.start > 0.2


def test_a_generator_is_fitted_to_the_joint_law_of_given_and_made_tokens() -> None:
    procedure = Procedure.of(GAN(), CHAIN, given=(0,))
    found = fitted(procedure, "mlp:width=32,depth=1", 150)
    x = procedure.with_network(found.network).sample(FULL, 4000, CounterRandomness(3))[..., 0]
    assert np.cov(x.numpy().T) == pytest.approx(C, abs=0.15)
    ids = Procedure.of(GAN(), from_spec("copy:tokens=2,symbols=2"), given=(0,))
    found = fitted(ids, "mlp:width=16,depth=1", 80, batch=256)
    made = ids.with_network(found.network).sample(
        Budget(length=1, steps=1), 2000, CounterRandomness(3)
    )
    assert float((made[:, 0] == made[:, 1]).double().mean()) > 0.9


@pytest.mark.parametrize("probe", [GAN(), Flow(), Flow(layer="affine")])
def test_default_modules_leave_given_tokens_as_they_are(probe: Any) -> None:
    if probe == Flow():
        pytest.importorskip("zuko")
    procedure = Procedure.of(probe, CHAIN, given=(0, 2))
    module = build(probe.signature, procedure.spec, "mlp:width=8,depth=1").double()
    x = CHAIN.sample(5, CounterRandomness(0))
    known = torch.tensor([[True, False, True]]).expand(5, 3)
    made = module(torch.zeros_like(x), x, known)
    assert torch.equal(made[known], x[known])
    moved = module(torch.zeros_like(x), x + torch.tensor([[[0.0], [9.0], [0.0]]]), known)
    assert torch.equal(made, moved)  # the values of unknown tokens mean nothing
