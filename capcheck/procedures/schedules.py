"""A schedule holds the noise level of every token after each denoising pass.

A schedule is a tensor (rows, N) of levels. Its first row is 1 (pure noise), its columns never rise,
and its last row is 0 (clean). The pass from row t to row s shows the network all tokens at their
levels, and moves the tokens whose level changes by DDIM:

    x_s,i = alpha(s_i) x0_i + sigma(s_i) / sigma(t_i) (x_t,i - alpha(t_i) x0_i).

Levels are whole multiples of 1/k. Rows that move no token are left out, as they need no pass. With
a network that sees all tokens, every schedule carries noise to data exactly in the limit where its
longest jump goes to 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.inversion import density_along
from capcheck.networks.signatures import (
    Denoiser,
    OracleDenoiser,
    TokenPredictor,
    with_derivative,
)
from capcheck.noise.flow import ddim_step
from capcheck.noise.paths import NoisePath
from capcheck.procedures.probe import State

__all__ = [
    "InnerLevels",
    "Levels",
    "anchors",
    "autoregressive",
    "beside_given",
    "denoised_along",
    "density_along_schedule",
    "full_sequence",
    "pyramid",
    "resampled",
    "rolling",
    "starting_noise",
    "within",
]


def _separate(value: object) -> object:
    """Splits a text such as 1/0.7/0.3/0, the form of a list on the command line."""
    return value.split("/") if isinstance(value, str) else value


def _falling(levels: tuple[float, ...]) -> tuple[float, ...]:
    if not all(s < t for t, s in itertools.pairwise(levels)):  # NaN falls nowhere
        raise ValueError("levels must fall from one to the next")
    return levels


def _from_noise_to_data(levels: tuple[float, ...]) -> tuple[float, ...]:
    if len(levels) < 2 or (levels[0], levels[-1]) != (1, 0):
        raise ValueError("levels must go from 1 (noise) to 0 (clean)")
    return _falling(levels)


Levels = Annotated[
    tuple[float, ...], BeforeValidator(_separate), AfterValidator(_from_noise_to_data)
]
"""The type of an option that lists falling levels from 1 to 0, as a sequence or as text with /."""

InnerLevels = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1)], ...],
    BeforeValidator(_separate),
    AfterValidator(_falling),
]
"""The type of an option that lists falling levels strictly between 1 and 0, in the same forms."""


def resampled(levels: Sequence[float], steps: int) -> list[float]:
    """Resamples a list of levels to a number of steps, by linear interpolation between its entries.

    A list that has this number of steps is returned unchanged.

    Args:
        levels: At least two falling levels.
        steps: Number of steps, at least 1; the result has one level more.

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
    """The pyramid schedule K[m, i] = clip(S + floor(i u) - m, 0, S) / S.

    Token i waits for floor(i u) passes before it starts. The case u = 0 moves the full sequence at
    once; u >= S finishes each token before the next one starts.

    Args:
        tokens: N, number of tokens.
        steps: S, number of passes of each token.
        uncertainty: u >= 0, number of passes between the starts of neighbouring tokens.

    Returns:
        (rows, N) levels.

    Source: Chen et al. 2024, "Diffusion Forcing", section 3.3, https://arxiv.org/abs/2407.01392,
    and the official sampler.
    """
    u = min(uncertainty, steps)  # beyond S there is nothing left to wait for
    # The epsilon keeps products that are whole numbers whole.
    delays = [math.floor(i * u + 1e-9) for i in range(tokens)]
    m = torch.arange(steps + delays[-1] + 1)[:, None]
    K = (steps + torch.tensor(delays) - m).clamp(0, steps)
    return _levels(K, steps)


def full_sequence(tokens: int, steps: int) -> Tensor:
    """The schedule that moves all tokens at once, in S passes; returns (S + 1, N) levels."""
    return pyramid(tokens, steps, uncertainty=0)


def autoregressive(tokens: int, steps: int) -> Tensor:
    """The schedule that finishes each token before the next starts; returns (N S + 1, N) levels."""
    return pyramid(tokens, steps, uncertainty=steps)


def anchors(tokens: int, steps: int) -> Tensor:
    """The two-phase schedule of AR-Diffusion, on which left tokens move faster and finish earlier.

    At global step s = N+T-1..0, with T = k+1, the levels lie on the line from the anchor (n_s, t_s)
    = (clip(N-1-s, 0), clip(s-(N-1), 0)) to the end point (n_e, t_e) = (2N, T-1):

        t(n, s) = clip(round((n - n_e) / (n_s - n_e) (t_s - t_e) + t_e), 0, T-1), level t / k.

    Args:
        tokens: N, number of tokens.
        steps: k, number of passes after which the first token is clean.

    Returns:
        (rows, N) levels; halves are rounded to even.

    Source: Wu et al. 2023, "AR-Diffusion", section 4, https://arxiv.org/abs/2305.09515, and the
    official sampler.
    """
    s = torch.arange(tokens + steps, -1, -1)[:, None]  # T = k + 1
    n, n_s, t_s = torch.arange(tokens), (tokens - 1 - s).clamp(min=0), s - (tokens - 1)
    n_e, t_e = 2 * tokens, steps
    below = (n_e - n) * (t_e - t_s.clamp(min=0)) / (n_e - n_s)  # whole numbers: halves are exact
    return _levels((t_e - below.double()).round().clamp(0, steps), steps)


def rolling(tokens: int, steps: int, *, window: int) -> Tensor:
    """The rolling schedule: a window of W tokens at rising levels, which moves on token by token.

    In the window whose first token is f, token f + w has level (w + t) / W while t goes from 1 to 0
    in k passes; then token f is clean and the window moves on by one. The first window starts from
    noise, in k passes with levels clip(w / W + t, 0, 1). At the end of the sequence the windows
    shrink.

    Args:
        tokens: N, number of tokens.
        steps: k, number of passes until the window moves on.
        window: W >= 1, number of tokens in the window.

    Returns:
        (rows, N) levels.

    Source: Ruhe et al. 2024, "Rolling Diffusion Models", section 3,
    https://arxiv.org/abs/2402.09470.
    """
    i, left = torch.arange(tokens), torch.arange(steps, -1, -1)[:, None]  # left = k t
    filling = i * steps + window * left  # numerators over W k
    fronts = [(i - f) * steps + left for f in range(1, tokens)]
    return _levels(torch.cat([filling, *fronts]).clamp(0, window * steps), window * steps)


def within(schedule: Tensor, length: int) -> Tensor:
    """Restricts a schedule to the first `length` tokens; the others stay at level 1, unseen."""
    outside = torch.arange(schedule.shape[1]) >= length
    return _without_idle_rows(torch.where(outside, 1.0, schedule))


def beside_given(schedule: Tensor, spec: SequenceSpec) -> Tensor:
    """Extends the schedule of the free tokens to all tokens; given tokens stay at level 0.

    Args:
        schedule: (rows, F) levels of the free tokens.
        spec: Specification of the sequences.

    Returns:
        (rows, N) levels.
    """
    whole = schedule.new_zeros(len(schedule), spec.tokens)
    whole[:, list(spec.free)] = schedule
    return whole


def starting_noise(spec: SequenceSpec, n: int, rng: Randomness) -> Tensor:
    """Standard normal noise for every token, (n, N, d), in one draw."""
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
    """Denoises along a schedule; yields the start, then one state per pass.

    The state of a pass has written exactly the tokens whose level changed.

    Args:
        schedule: (rows, N) levels; the first row is 1 for all tokens but the given ones.
        network: Denoiser of the noise path.
        start: The state before the first pass, with the given tokens placed; the network is shown
            these at level 0.
        noise: (n, N, d) standard normal noise of every token.
        path: The noise path.
        eta: Share of fresh noise in [0, 1]; see `capcheck.noise.flow.ddim_step`.
        rng: Source of the fresh noise; needed where eta is above 0.
    """
    state = start.filled(noise)
    yield state
    shape = noise.shape[:2]
    for t, s in itertools.pairwise(schedule.to(noise)):
        moves = t != s  # (N,)
        x0 = network(state.tokens, t.expand(shape))
        # Levels of tokens that stay are replaced, as DDIM would divide by 0 at level 0.
        t_i, s_i = torch.where(moves, t, 1)[:, None], torch.where(moves, s, 0)[:, None]
        z = rng.normal(tuple(noise.shape)).to(noise) if eta and rng is not None else None
        x_s = ddim_step(state.tokens, x0, t_i, s_i, path, eta=eta, z=z)
        state = state.write(x_s, moves.expand(shape))
        yield state


def density_along_schedule(
    schedule: Tensor,
    network: Denoiser,
    completion: TokenPredictor,
    *,
    x: Tensor,
    path: NoisePath,
    shown: Callable[[Tensor], Tensor] = lambda t: t,
) -> LogDensity | Unavailable:
    """Log-density of what `denoised_along` samples without fresh noise, completed by marginals.

    Args:
        schedule: (rows, N) levels; tokens at level 0 in the first row are given.
        network: Denoiser of the noise path.
        completion: The predictor of the tokens that take no part.
        x: (n, N, d) sequences.
        path: The noise path.
        shown: Function from the levels of the tokens (n, N) to those that the network is told.

    Returns:
        The log-density (nats) of all tokens but the given ones, (n,), or the reason why there is
        none; see `capcheck.exact.inversion`.
    """

    def derivative(
        x_t: Tensor, t: Tensor, tokens: Sequence[int], rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        return with_derivative(network, x_t, shown(t), tokens)

    trusted = isinstance(network, OracleDenoiser)
    try:
        found = density_along(schedule, derivative, x, path, trusted=trusted)
    except RuntimeError as error:
        if trusted:
            raise
        said = str(error).splitlines()[0]
        return Unavailable(reason=f"the network cannot be differentiated: {said}")
    if isinstance(found, Unavailable):
        return found
    values = found.values
    placed = (schedule[-1] == 0).to(x.device)
    if rest := (~placed).nonzero()[:, 0].tolist():
        law = completion(x, placed.expand(x.shape[:2])).select(rest)
        values = values + law.log_prob(x[:, rest]).sum(1)
    return replace(found, values=values)


def _levels(numerators: Tensor, whole: int) -> Tensor:
    return _without_idle_rows(numerators.double() / whole)


def _without_idle_rows(schedule: Tensor) -> Tensor:
    moved = (schedule[1:] != schedule[:-1]).any(1)
    return torch.cat([schedule[:1], schedule[1:][moved]])
