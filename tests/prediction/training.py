"""Training the ordinary way: draws of the data, the usual loss, Adam with a falling rate.

Nothing here knows of capcheck. Losses: cross entropy of masked tokens (a uniform number of tokens
is masked), of the next token, and by h heads of the h tokens behind a uniform place; squared error
of v at the levels of the sampler; squared error of the end points of a trained denoiser's
probability flow; negative evidence lower bound with one reparametrised draw.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from prediction.networks import (
    CausalDenoiser,
    Denoiser,
    FlowMap,
    Heads,
    LinearVAE,
    MaskedMixtures,
    MaskedSymbols,
    Window,
    amplitudes,
)
from prediction.run import Run

__all__ = ["Batches", "Rows", "flow_ends", "train"]

Batches = Iterator[Tensor]
"""Batches of draws that have not been seen before, (batch, N) integers or (batch, N, 1)."""
Rows = Callable[[Tensor], Tensor]
"""The loss of a batch."""

RATE = 2e-3  # of Adam at the start; it falls to 0 along a half cosine
PAIRS = 1 << 17  # noise and data of the probability flow, of which a flow map is made
HEUN = 32  # steps of the flow's integration


def train(run: Run, batches: Batches, *, tokens: int, symbols: int) -> nn.Module:
    """The trained network of a run.

    Args:
        run: The run.
        batches: Draws of the target, at least as many batches as the run has updates.
        tokens: N, length of a sequence.
        symbols: V, number of symbols, or 1 for numbers.
    """
    rng = torch.Generator().manual_seed(run.seed)
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)  # torch initialises layers from its own state only
        if run.kind == "flow_map":
            return _flow_map(run, batches, tokens, rng)
        network = _network(run, tokens, symbols)
    _fit(network, _loss(run, network, rng), batches, run.updates)
    return network


def _network(run: Run, tokens: int, symbols: int) -> nn.Module:
    if run.kind == "masked":
        if symbols == 1:
            return MaskedMixtures(tokens, run.width)
        return MaskedSymbols(tokens, symbols, run.width, smooth=run.smooth)
    if run.kind == "heads":
        return Heads(tokens, symbols, int(run.options["heads"]), run.width)
    if run.kind == "window":
        return Window(tokens, symbols, int(run.options["window"]), run.width)
    if run.kind == "vae":
        return LinearVAE(tokens, run.width)
    return (CausalDenoiser if run.kind == "causal" else Denoiser)(tokens, run.width)


def _loss(run: Run, network: nn.Module, rng: torch.Generator) -> Rows:
    """The loss of a batch."""
    if isinstance(network, (MaskedSymbols, MaskedMixtures)):
        return lambda x: _masked(network, x, rng)
    if isinstance(network, Window):
        return lambda x: -network.log_prob(x).mean()
    if isinstance(network, Heads):
        return lambda x: -network.log_prob(x, _places(x, rng)).sum(1).mean()
    if isinstance(network, Denoiser):
        return _noisy(run, network, rng)
    assert isinstance(network, LinearVAE)
    return lambda x: _evidence(network, x[..., 0], rng)


def _noisy(run: Run, network: Denoiser, rng: torch.Generator) -> Rows:
    """The loss of a denoiser at the levels of a run."""

    def loss(x: Tensor) -> Tensor:
        return _denoising(network, x[..., 0], _levels(run, len(x), x.shape[1], rng), rng)

    return loss


def _fit(network: nn.Module, loss: Rows, batches: Batches, updates: int) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    fall = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: 0.5 * (1 + math.cos(math.pi * min(i / updates, 1)))
    )
    for _ in range(updates):
        optimiser.zero_grad()
        loss(next(batches)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        fall.step()


def _places(x: Tensor, rng: torch.Generator) -> Tensor:
    """A uniform place in each row."""
    return torch.randint(x.shape[1], (len(x),), generator=rng)


def _masked(network: MaskedSymbols | MaskedMixtures, x: Tensor, rng: torch.Generator) -> Tensor:
    """Cross entropy of the masked tokens; their number is uniform in 1..N."""
    n, N = x.shape[:2]
    rank = torch.rand(n, N, generator=rng).argsort(1)
    masked = rank < torch.randint(1, N + 1, (n, 1), generator=rng)
    log_p = network.log_prob(x, ~masked)
    return -torch.where(masked, log_p, 0).sum() / masked.sum()


def _denoising(network: Denoiser, x: Tensor, t: Tensor, rng: torch.Generator) -> Tensor:
    """Squared error of v at levels t (n, N); a token of level 0 is known, and asks for nothing."""
    e = torch.randn(x.shape, generator=rng)
    alpha, sigma = amplitudes(t)
    v = alpha * e - sigma * x
    error: Tensor = network.velocity(alpha * x + sigma * e, t) - v
    return torch.where(t > 0, error.square(), 0).mean()


def _levels(run: Run, n: int, tokens: int, rng: torch.Generator) -> Tensor:
    """Levels of training, (n, N): those of the sampler, each as often, or all of [0, 1].

    Diffusion has one level in a row, of 1/k .. 1 (Ho, Jain & Abbeel 2020, algorithm 1). Diffusion
    Forcing has one for each token, of 0 .. 1 (Chen et al. 2024, algorithm 1).
    """
    if run.continuous:
        return torch.rand(n, 1, generator=rng).expand(n, tokens)
    if run.family == "diffusion_forcing":
        return torch.randint(run.steps + 1, (n, tokens), generator=rng) / run.steps
    return (torch.randint(run.steps, (n, 1), generator=rng).expand(n, tokens) + 1) / run.steps


def _evidence(network: LinearVAE, x: Tensor, rng: torch.Generator) -> Tensor:
    """Negative evidence lower bound, nats per row without constants."""
    mean, log_s = network.encoder(x), network.log_spread
    z = mean + log_s.exp() * torch.randn(mean.shape, generator=rng)
    log_noise = network.log_noise
    error = (x - network.decoder(z)).square().sum(1)
    reconstruction = 0.5 * error * (-2 * log_noise).exp() + x.shape[1] * log_noise
    divergence = 0.5 * (mean.square() + (2 * log_s).exp() - 2 * log_s - 1).sum(1)
    bound: Tensor = reconstruction + divergence
    return bound.mean()


def _flow_map(run: Run, batches: Batches, tokens: int, rng: torch.Generator) -> FlowMap:
    """A map of noise to the ends of a trained denoiser's flow; each part takes half the updates.

    Source: Luhman & Luhman 2021, https://arxiv.org/abs/2101.02388.
    """
    half = run.updates // 2
    teacher, network = Denoiser(tokens, run.width), FlowMap(tokens, run.width)
    everywhere = dataclasses.replace(run, continuous=True)
    _fit(teacher, _noisy(everywhere, teacher, rng), batches, half)
    noise = torch.randn(PAIRS, tokens, generator=rng)
    pairs = torch.stack([noise, flow_ends(teacher, noise)], 1)  # (pairs, 2, N)

    def some() -> Batches:
        while True:
            yield pairs[torch.randint(PAIRS, (run.batch,), generator=rng)]

    _fit(network, lambda b: functional.mse_loss(network(b[:, 0]), b[:, 1]), some(), half)
    return network


@torch.no_grad()
def flow_ends(denoiser: Denoiser, noise: Tensor) -> Tensor:
    """The ends of the probability flow dx/dt = pi/2 v from noise (n, N), by Heun's method."""
    ends = []
    for x in noise.split(1 << 14):
        for j in range(HEUN, 0, -1):
            t, s = (torch.full_like(x, i / HEUN) for i in (j, j - 1))
            slope = 0.5 * math.pi * denoiser.velocity(x, t)
            ahead = 0.5 * math.pi * denoiser.velocity(x - slope / HEUN, s)
            x = x - 0.5 * (slope + ahead) / HEUN
        ends.append(x)
    return torch.cat(ends)
