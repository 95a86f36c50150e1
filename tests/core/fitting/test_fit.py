"""Fits against closed forms: what can be held is reached, and what cannot keeps its floor."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.fitting import as_network, build, fit
from capcheck.laws import Categorical
from capcheck.probes.length.gpt import GPT
from capcheck.probes.neither.flow import Flow
from capcheck.probes.neither.vae import VAE
from capcheck.probes.steps.diffusion import Diffusion
from capcheck.probes.steps.ebm import EBM
from capcheck.probes.steps.flow_map import FlowMapSampler
from capcheck.procedures.procedure import Procedure
from capcheck.targets import MarkovChain, ProductMixture, Target, from_spec

ONE = [Budget(length=0, steps=1)]


def untrained(module: nn.Module) -> Any:
    return as_network(module.requires_grad_(False), torch.float64)


def gaussian(tokens: int = 2, rho: float = 0.8) -> Target:
    return from_spec(f"gaussian:ar1,tokens={tokens},rho={rho}")


def kl_of_gaussians(m: np.ndarray, S: np.ndarray, C: np.ndarray) -> float:
    """KL(N(0, C) || N(m, S))."""
    logs = np.linalg.slogdet(S)[1] - np.linalg.slogdet(C)[1]
    return float(
        0.5 * (np.trace(np.linalg.solve(S, C)) - len(C) + logs + m @ np.linalg.solve(S, m))
    )


def ar1(tokens: int, rho: float) -> np.ndarray:
    place = np.arange(tokens)
    covariance: np.ndarray = rho ** np.abs(place[:, None] - place[None])
    return covariance


def moments(network: Any, latent: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Offset and matrix of an affine map, by showing it 0 and the unit vectors."""
    shown = torch.cat([torch.zeros(1, latent), torch.eye(latent)]).double()[..., None]
    x = network(shown).reshape(latent + 1, tokens).numpy()
    return x[0], (x[1:] - x[0]).T


def test_a_linear_denoiser_reaches_the_oracle_of_a_gaussian() -> None:
    # E[x_0 | x_t] = alpha C (alpha^2 C + sigma^2)^-1 x_t, by numpy.
    probe, target = Diffusion(), gaussian()
    module = build(probe.signature, target.spec, "mlp:depth=0")
    budgets = [Budget(length=0, steps=k) for k in (1, 4)]
    fitted = fit(probe, target, module, budgets=budgets, steps=500, batch=128, learning_rate=2e-2)
    C, x = ar1(2, 0.8), np.random.default_rng(0).normal(size=(500, 2))

    def error(network: Any) -> float:
        missed = size = 0.0
        for t in (0.25, 0.5, 0.75, 1.0):
            alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
            V = alpha**2 * C + sigma**2 * np.eye(2)
            x_t = x @ np.linalg.cholesky(V).T
            exact = alpha * x_t @ np.linalg.solve(V, C)
            level = torch.full((500, 2), t).double()
            got = network(torch.tensor(x_t)[..., None], level)[..., 0].numpy()
            missed, size = missed + ((got - exact) ** 2).sum(), size + (exact**2).sum()
        return math.sqrt(missed / size)

    assert error(fitted.network) < 1e-3
    assert fitted.validation < 1e-5 < fitted.start
    # Untrained, it is the denoiser of independent tokens.
    assert error(untrained(module)) > 0.1


class SoftmaxTable(nn.Module):
    """Logits of the next token, a row for each place and last token."""

    def __init__(self, tokens: int, vocabulary: int, rank: int | None = None) -> None:
        super().__init__()
        contexts = tokens * vocabulary
        generator = torch.Generator().manual_seed(0)
        r = rank or vocabulary
        self.H = nn.Parameter(0.5 * torch.randn(contexts, r, generator=generator))
        free = 0.5 * torch.randn(vocabulary, r, generator=generator)
        self.W = nn.Parameter(torch.eye(r) if rank is None else free)
        self.W.requires_grad_(rank is not None)
        self.vocabulary = vocabulary

    def forward(self, tokens: Tensor, known: Tensor) -> Categorical:
        length = known.sum(1)
        last = tokens.gather(1, (length - 1).clamp(min=0)[:, None])[:, 0]
        row = length * self.vocabulary + torch.where(length > 0, last, 0)
        logits = self.H[row] @ self.W.T  # of the next token; the others are given the same
        return Categorical(logits[:, None].expand(*tokens.shape, -1))


P1 = np.array([0.5, 0.3, 0.2])
P = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25]])


def chain() -> MarkovChain:
    return MarkovChain([torch.tensor(P1), torch.tensor(P)], tokens=3)


def kl_of_sequences(network: Any) -> float:
    """KL over all 27 sequences of three tokens, by enumeration."""
    total = 0.0
    for x in itertools.product(range(3), repeat=3):
        p = P1[x[0]] * P[x[0], x[1]] * P[x[1], x[2]]
        log_q = 0.0
        for i in range(3):
            known = (torch.arange(3) < i)[None]
            law = network(torch.tensor([x]), known)
            log_q += float(law.log_prob(torch.tensor([x]))[0, i])
        total += p * (math.log(p) - log_q)
    return total


def test_a_softmax_table_reaches_a_markov_chain() -> None:
    module = SoftmaxTable(3, 3)
    fitted = fit(GPT(), chain(), module, budgets=[Budget(length=3, steps=1)], steps=100, batch=256)
    assert kl_of_sequences(fitted.network) < 1e-4
    assert kl_of_sequences(untrained(module)) > 0.05


def test_a_softmax_of_rank_one_keeps_the_optimum_of_such_tables() -> None:
    module = SoftmaxTable(3, 3, rank=1)
    fitted = fit(
        GPT(),
        chain(),
        module,
        budgets=[Budget(length=3, steps=1)],
        steps=200,
        batch=256,
        learning_rate=3e-2,
    )
    # All seven contexts: none, and a last token at two places.
    second = P1 @ P
    laws = np.vstack([P1, P, P])
    weights = np.concatenate([[1.0], P1, second])

    def kl(theta: np.ndarray) -> float:
        logits = theta[:7, None] * theta[None, 7:]
        log_q = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return float((weights[:, None] * laws * (np.log(laws) - log_q)).sum())

    generator = np.random.default_rng(1)
    starts = generator.normal(size=(20, 10))
    best = min(optimize.minimize(kl, start).fun for start in starts)
    assert best > 0.05
    assert kl_of_sequences(fitted.network) == pytest.approx(best, rel=0.05)


def test_an_affine_flow_reaches_a_gaussian() -> None:
    probe, target = Flow(layer="affine"), gaussian()
    module = build(probe.signature, target.spec, "mlp")
    fitted = fit(probe, target, module, budgets=ONE, steps=500, batch=256)
    m, R = moments(fitted.network, 2, 2)
    assert kl_of_gaussians(m, R @ R.T, ar1(2, 0.8)) < 1e-3
    m, R = moments(untrained(module), 2, 2)
    assert kl_of_gaussians(m, R @ R.T, ar1(2, 0.8)) > 0.1


def test_an_affine_flow_keeps_the_negentropy_of_two_modes() -> None:
    # 1/2 ln(2 pi e Var) - h(p), with Var = 2^2 + 0.5^2 and h by quadrature.
    target = ProductMixture(
        torch.tensor([[[-2.0]], [[2.0]]]).double(), torch.full((1, 1), 0.5).double()
    )
    procedure = Procedure.of(Flow(layer="affine"), target)
    module = build(procedure.probe.signature, procedure.spec, "mlp")
    fitted = fit(procedure.probe, target, module, budgets=ONE, steps=200, batch=256)
    x = np.linspace(-8, 8, 4001)
    p = 0.5 * stats.norm.pdf(x, -2, 0.5) + 0.5 * stats.norm.pdf(x, 2, 0.5)
    h = -np.trapezoid(p * np.log(p), x)
    floor = 0.5 * math.log(2 * math.pi * math.e * 4.25) - h
    network: Any = fitted.network
    found = procedure.with_trusted_network(network).log_density(
        ONE[0], torch.tensor(x)[:, None, None], CounterRandomness(0)
    )
    assert isinstance(found, LogDensity)
    log_q = found.values.numpy()
    assert np.trapezoid(p * (np.log(p) - log_q), x) == pytest.approx(floor, rel=0.05)
    assert not fitted.diverged


def test_a_linear_vae_keeps_the_floor_of_probabilistic_pca() -> None:
    probe, target = VAE(latent=1, noise="shared"), gaussian(3, 0.9)
    module = build(probe.signature, target.spec, "mlp")
    fitted = fit(probe, target, module, budgets=ONE, steps=200, batch=256, learning_rate=2e-2)
    # 1/2 [(D - q) ln(mean of the last eigenvalues) - sum of their logarithms]
    values = np.sort(np.linalg.eigvalsh(ar1(3, 0.9)))
    floor = 0.5 * (2 * math.log(values[:2].mean()) - np.log(values[:2]).sum())
    shown = torch.tensor([[0.0], [1.0]]).double()
    law = fitted.network(shown)
    m, W = law.mean()[0, :, 0].numpy(), (law.mean()[1] - law.mean()[0]).numpy()
    S = W @ W.T + np.diag(law.variance()[0, :, 0].numpy())
    assert kl_of_gaussians(m, S, ar1(3, 0.9)) == pytest.approx(floor, rel=0.05)


def test_an_energy_and_a_flow_map_come_near_their_oracles() -> None:
    target = from_spec("modes:tokens=2,modes=2,gap=3")
    budgets = [Budget(length=0, steps=k) for k in (1, 2)]
    for probe in (EBM(), FlowMapSampler()):
        module = build(probe.signature, target.spec, "mlp:width=32,depth=1")
        fitted = fit(probe, target, module, budgets=budgets, steps=25, batch=64, learning_rate=2e-2)
        assert 0 <= fitted.validation < 0.5 * fitted.start
