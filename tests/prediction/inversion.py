"""The exact log-density of samples that a trained denoiser makes by DDIM passes.

A pass carries tokens from levels t to levels s: T(x) = alpha_s x0 + sigma_s / sigma_t (x - alpha_t
x0) with x0 = E[x_0 | x_t = x]. If every pass is one-to-one,

    log q(x) = log N(z; 0, I) - sum of log |det dT / dx| over the passes that carry z to x.

Each pass is inverted by damped Newton steps. Nothing here knows of capcheck.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from prediction.networks import Denoiser, amplitudes

__all__ = ["Inverted", "ddim_pass", "log_density", "sample", "schedule"]

CLOSE = 1e-9  # residual of an inverted pass, in units of the tokens
NEWTON = 40  # most Newton steps from one start
HALVINGS = 12  # most halvings of a Newton step
STARTS = 6  # starts for a row that is not inverted: a good guess, then random ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inverted:
    """Log-densities and what was seen of the map.

    Attributes:
        log_q: (n,) nats; minus infinity for rows that no noise is carried to.
        lost: Number of such rows.
        folded: Number of rows at which the determinant of some pass is not positive, where the map
            is not one-to-one and log_q is a lower bound.
    """

    log_q: Tensor
    lost: int
    folded: int


def schedule(tokens: int, steps: int, name: str = "full_sequence") -> Tensor:
    """Levels of all tokens after each pass, (passes + 1, N), falling from 1 to 0.

    Args:
        tokens: N, length of a sequence.
        steps: Passes of each token, on uniform levels.
        name: `full_sequence`: all tokens fall together; `autoregressive`: one after another.
    """
    turn = torch.arange(tokens) * (steps if name == "autoregressive" else 0)
    passes = steps * (tokens if name == "autoregressive" else 1)
    done = torch.arange(passes + 1)[:, None] - turn
    return 1 - done.clamp(0, steps).double() / steps


def ddim_pass(network: Denoiser, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Tokens x (n, N) carried from levels t (N,) to s (N,); a token whose level stays, stays."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = amplitudes(t), amplitudes(s)
    x0 = network.clean(x, t.expand_as(x))
    ratio = sigma_s / torch.where(t > 0, sigma_t, 1)
    return torch.where(t == s, x, alpha_s * x0 + ratio * (x - alpha_t * x0))


def sample(network: Denoiser, levels: Tensor, noise: Tensor) -> Tensor:
    """The samples (n, N) that passes along levels (passes + 1, N) make of noise (n, N)."""
    x = noise
    with torch.no_grad():
        for t, s in itertools.pairwise(levels):
            x = ddim_pass(network, x, t, s)
    return x


def log_density(
    network: Denoiser, levels: Tensor, x: Tensor, rng: torch.Generator, chunk: int = 1_000
) -> Inverted:
    """The log-density at rows x (n, N) of the samples along levels (passes + 1, N).

    Args:
        network: Trained denoiser, in double precision.
        levels: Levels of the tokens after each pass.
        x: Rows at which the density is asked for.
        rng: Source of random starts.
        chunk: Rows that are inverted together.
    """
    parts = [_log_density(network, levels, rows, rng) for rows in x.split(chunk)]
    return Inverted(
        log_q=torch.cat([part.log_q for part in parts]),
        lost=sum(part.lost for part in parts),
        folded=sum(part.folded for part in parts),
    )


def _log_density(network: Denoiser, levels: Tensor, x: Tensor, rng: torch.Generator) -> Inverted:
    total = torch.zeros(len(x), dtype=x.dtype)
    alive = torch.ones(len(x), dtype=torch.bool)
    folded = torch.zeros(len(x), dtype=torch.bool)
    for s, t in itertools.pairwise(levels.flip(0)):

        def carry(rows: Tensor, t: Tensor = t, s: Tensor = s) -> Tensor:
            return ddim_pass(network, rows, t, s)

        x, found = _preimage(carry, x, _starts(network, x, t, s, rng))
        alive &= found
        sign, log_det = torch.linalg.slogdet(_jacobian(carry, x))
        total = total + log_det
        folded |= alive & (sign <= 0)
    log_q = -0.5 * (x.square() + math.log(2 * math.pi)).sum(1) - total
    log_q = torch.where(alive, log_q, -torch.inf)
    return Inverted(log_q=log_q, lost=int((~alive).sum()), folded=int(folded.sum()))


def _starts(
    network: Denoiser, y: Tensor, t: Tensor, s: Tensor, rng: torch.Generator
) -> Callable[[int], Tensor]:
    """Guesses of the tokens at levels t that were carried to y (n, N) at levels s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = amplitudes(t), amplitudes(s)
    with torch.no_grad():
        x0 = torch.where(s > 0, network.clean(y, s.expand_as(y)), y)
    e = torch.where(s > 0, (y - alpha_s * x0) / torch.where(s > 0, sigma_s, 1), 0)

    def start(attempt: int) -> Tensor:
        noise = torch.randn(y.shape, generator=rng, dtype=y.dtype) if attempt else 0.0
        moved = alpha_t * x0 + sigma_t * (e + noise)
        return torch.where(t == s, y, moved)

    return start


def _preimage(
    carry: Callable[[Tensor], Tensor], y: Tensor, start: Callable[[int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Rows that are carried to y (n, N), and whether they were found, (n,)."""
    x, found = _newton(carry, y, start(0))
    for attempt in range(1, STARTS):
        if found.all():
            break
        x, found = _newton(carry, y, torch.where(found[:, None], x, start(attempt)))
    return x, found


@torch.no_grad()
def _newton(carry: Callable[[Tensor], Tensor], y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Damped Newton steps for carry(x) = y; rows that have arrived are left alone."""
    x = x.clone()
    residual = carry(x) - y
    for _ in range(NEWTON):
        todo = (residual.abs().amax(1) > CLOSE).nonzero()[:, 0]
        if not len(todo):
            break
        at, before = x[todo], residual[todo]
        step, failed = torch.linalg.solve_ex(_jacobian(carry, at), before)
        step = torch.where((failed > 0)[:, None] | ~step.isfinite(), before, step)
        size = torch.ones(len(todo), 1, dtype=x.dtype)
        for _ in range(HALVINGS):
            after = carry(at - size * step) - y[todo]
            worse = ~(after.norm(dim=1) < before.norm(dim=1))
            if not worse.any():
                break
            size[worse] /= 2
        x[todo] = at - size * step
        residual[todo] = carry(x[todo]) - y[todo]
    return x, residual.abs().amax(1) <= CLOSE


def _jacobian(carry: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivative of every row's image, (n, N, N)."""

    def of_row(row: Tensor) -> Tensor:
        return carry(row[None])[0]

    with torch.enable_grad():
        found: Tensor = torch.func.vmap(torch.func.jacrev(of_row))(x)
    return found.detach()
