"""Draws of masked diffusion by Gumbel noise, as published: one draw decides value and masking.

The value is that of the largest log-probability plus Gumbel noise, and the token stays masked if
that of staying masked is larger still. The noise has the working precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec

__all__ = ["carried", "revealed_by_gumbel"]


def carried(log_p: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
    """Log-probabilities (n, N, V) in which known tokens keep their values with certainty."""
    held = torch.full_like(log_p, -torch.inf).scatter(-1, tokens[..., None], 0)
    return torch.where(known[..., None], held, log_p)


def revealed_by_gumbel(
    log_p: Tensor, chance: Tensor, spec: SequenceSpec, rng: Randomness
) -> tuple[Tensor, Tensor]:
    """Draw values (n, N) and whether each is revealed (n, N), with Gumbel noise.

    Args:
        log_p: Log-probabilities of the values in nats, (n, N, V).
        chance: Probability that a token is revealed, (n, N).
        spec: Spec of the sequences, in the working precision.
        rng: Source of the uniform draws.
    """
    dtype = spec.mean.dtype
    revealed = log_p.double() + chance.log()[..., None]
    choices = torch.cat([revealed, (1 - chance).log()[..., None]], -1).to(dtype)
    # The uniforms are multiples of 2^-p below 1, as libraries make them; 0 is raised to `tiny`.
    grid = 2 / torch.finfo(dtype).eps
    u = (rng.uniform(tuple(choices.shape)) * grid).floor().div(grid).to(dtype)
    u = u.clamp(min=torch.finfo(dtype).tiny)
    noisy = choices - (-u.log()).log()
    return noisy[..., :-1].argmax(-1), noisy.argmax(-1) < spec.dim
