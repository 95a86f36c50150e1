"""Schedules: at which noise level every token stands after each denoising pass.

A schedule is a tensor (rows, N) of levels that starts with a row of ones (pure noise), never rises
along a column and ends with a row of zeros (clean). The pass from row t to row s shows the network
all tokens at their levels and moves those that change by DDIM, token by token:

    x_s,i = alpha(s_i) x0_i + sigma(s_i) / sigma(t_i) (x_t,i - alpha(t_i) x0_i).

Levels are whole multiples of 1/k; rows that move nothing are left out, since they cost no pass.
With a network that sees all tokens, any schedule carries noise to data exactly in the limit where
its longest jump goes to 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.networks.signatures import Denoiser
from capcheck.noise.flow import ddim_step
from capcheck.noise.paths import NoisePath
from capcheck.procedures.probe import State


def _separate(value: object) -> object:
    """The numbers of a text such as 1/0.7/0.3/0, in which a list stands at the shell."""
    return value.split("/") if isinstance(value, str) else value


def _falling(levels: tuple[float, ...]) -> tuple[float, ...]:
    if any(s >= t for t, s in itertools.pairwise(levels)):
        raise ValueError("levels must fall from one to the next")
    return levels


def _from_noise_to_data(levels: tuple[float, ...]) -> tuple[float, ...]:
    if len(levels) < 2 or (levels[0], levels[-1]) != (1, 0):
        raise ValueError("levels must go from 1 (noise) to 0 (clean)")
    return _falling(levels)


Levels = Annotated[
    tuple[float, ...], BeforeValidator(_separate), AfterValidator(_from_noise_to_data)
]
"""An option that lists falling levels from 1 to 0, as a sequence or as text with / in between."""

InnerLevels = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1)], ...],
    BeforeValidator(_separate),
    AfterValidator(_falling),
]
"""An option that lists falling levels between 1 and 0, likewise."""


def resampled(levels: Sequence[float], steps: int) -> list[float]:
    """So many steps along a list of levels: the list itself if it has as many.

    Other numbers of steps are spread evenly along the line through the list's entries.

    Args:
        levels: Falling, at least two.
        steps: At least 1; there is one level more.

    Example:
        >>> resampled([1, 0.5, 0], 2), resampled([1, 0.2, 0], 4)
        ([1, 0.5, 0], [1.0, 0.6, 0.2, 0.1, 0.0])
    """
    if len(levels) == steps + 1:
        return list(levels)
    at = np.linspace(0, len(levels) - 1, steps + 1)
    found: list[float] = np.interp(at, np.arange(len(levels)), levels).tolist()
    return found


def pyramid(tokens: int, steps: int, *, uncertainty: float) -> Tensor:
    """K[m, i] = clip(S + floor(i u) - m, 0, S) / S: token i waits floor(i u) passes.

    u = 0 moves the full sequence at once; u >= S finishes each token before the next one starts.

    Args:
        tokens: N.
        steps: S, passes that each token takes.
        uncertainty: u >= 0, passes from one token's start to the next one's.

    Returns:
        (rows, N) levels.

    Source: Chen et al. 2024, "Diffusion Forcing", section 3.3 and the official sampler.
    """
    u = min(uncertainty, steps)  # beyond S there is nothing left to wait for
    # The epsilon keeps products that are whole numbers whole.
    delays = [math.floor(i * u + 1e-9) for i in range(tokens)]
    m = torch.arange(steps + delays[-1] + 1)[:, None]
    K = (steps + torch.tensor(delays) - m).clamp(0, steps)
    return _levels(K, steps)


def full_sequence(tokens: int, steps: int) -> Tensor:
    """K[m, i] = S - m: all tokens at once, (S + 1, N)."""
    return pyramid(tokens, steps, uncertainty=0)


def autoregressive(tokens: int, steps: int) -> Tensor:
    """Each token takes its S passes before the next one starts, (N S + 1, N)."""
    return pyramid(tokens, steps, uncertainty=steps)


def anchors(tokens: int, steps: int) -> Tensor:
    """AR-Diffusion's two-phase schedule: left tokens move faster, and finish earlier.

    At global step s = N+T-1..0, with T = k+1, levels lie on the line from the anchor (n_s, t_s) =
    (clip(N-1-s, 0), clip(s-(N-1), 0)) to the end point (n_e, t_e) = (2N, T-1):

        t(n, s) = clip(round((n - n_e) / (n_s - n_e) (t_s - t_e) + t_e), 0, T-1), level t / k.

    Args:
        tokens: N.
        steps: k, passes that bring the first token to level 0.

    Returns:
        (rows, N) levels; halves are rounded to even.

    Source: Wu et al. 2023, "AR-Diffusion", section 4 and the official sampler.
    """
    s = torch.arange(tokens + steps, -1, -1)[:, None]  # T = k + 1
    n, n_s, t_s = torch.arange(tokens), (tokens - 1 - s).clamp(min=0), s - (tokens - 1)
    n_e, t_e = 2 * tokens, steps
    below = (n_e - n) * (t_e - t_s.clamp(min=0)) / (n_e - n_s)  # whole numbers: halves are exact
    return _levels((t_e - below.double()).round().clamp(0, steps), steps)


def rolling(tokens: int, steps: int, *, window: int) -> Tensor:
    """A window of W tokens at rising levels, which moves on when its front token is clean.

    Token f + w of the window whose front is f has level (w + t) / W while t goes from 1 to 0 in k
    passes. The first window is filled in k passes by clip(w / W + t, 0, 1), and the last ones
    shrink.

    Args:
        tokens: N.
        steps: k, passes until the window moves on.
        window: W >= 1.

    Returns:
        (rows, N) levels.

    Source: Ruhe et al. 2024, "Rolling Diffusion Models", section 3 ("Rolling Diffusion").
    """
    i, left = torch.arange(tokens), torch.arange(steps, -1, -1)[:, None]  # left = k t
    filling = i * steps + window * left  # numerators over W k
    fronts = [(i - f) * steps + left for f in range(1, tokens)]
    return _levels(torch.cat([filling, *fronts]).clamp(0, window * steps), window * steps)


def within(schedule: Tensor, length: int) -> Tensor:
    """The schedule of the first tokens only: those after them stay unseen, at level 1."""
    outside = torch.arange(schedule.shape[1]) >= length
    return _without_idle_rows(torch.where(outside, 1.0, schedule))


def beside_given(schedule: Tensor, spec: SequenceSpec) -> Tensor:
    """The schedule of the free tokens among all: given tokens are clean from the first row on.

    Args:
        schedule: (rows, F) levels of the free tokens.
        spec: Of the sequences.

    Returns:
        (rows, N) levels.
    """
    whole = schedule.new_zeros(len(schedule), spec.tokens)
    whole[:, list(spec.free)] = schedule
    return whole


def starting_noise(spec: SequenceSpec, n: int, rng: Randomness) -> Tensor:
    """Every token at level 1, (n, N, d), in one draw."""
    return rng.normal((n, spec.tokens, spec.dim)).to(spec.mean)


def denoised_along(
    schedule: Tensor,
    network: Denoiser,
    *,
    start: State,
    noise: Tensor,
    path: NoisePath,
    eta: float = 0.0,
    rng: Randomness | None = None,
) -> Iterator[State]:
    """The start, then one state per pass, in which the tokens that changed their level are written.

    Args:
        schedule: (rows, N) levels, 1 in the first row for all tokens but the given ones.
        network: Denoiser of that path.
        start: The rows, with the given tokens placed; these are shown at level 0.
        noise: (n, N, d), every token at level 1.
        path: The noise path.
        eta: Share of fresh noise; see `capcheck.noise.flow.ddim_step`.
        rng: Where the fresh noise is drawn, if there is any.
    """
    state = start.filled(noise)
    yield state
    shape = noise.shape[:2]
    for t, s in itertools.pairwise(schedule.to(noise)):
        moves = t != s  # (N,)
        x0 = network(state.tokens, t.expand(shape))
        # Tokens that stay are not written: their levels need only be numbers.
        t_i, s_i = torch.where(moves, t, 1)[:, None], torch.where(moves, s, 0)[:, None]
        z = rng.normal(tuple(noise.shape)).to(noise) if eta and rng is not None else None
        x_s = ddim_step(state.tokens, x0, t_i, s_i, path, eta=eta, z=z)
        state = state.write(x_s, moves.expand(shape))
        yield state


def _levels(numerators: Tensor, whole: int) -> Tensor:
    return _without_idle_rows(numerators.double() / whole)


def _without_idle_rows(schedule: Tensor) -> Tensor:
    moved = (schedule[1:] != schedule[:-1]).any(1)
    return torch.cat([schedule[:1], schedule[1:][moved]])
