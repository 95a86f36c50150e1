"""A schedule holds the noise level of every token after each denoising pass.

A schedule is a tensor (rows, N) of levels. Its first row is 1 (pure noise), its columns never rise,
and its last row is 0 (clean); `denoising` says what a pass from row to row does. Levels are whole
multiples of 1/k. Rows that move no token are left out, as they need no pass.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec

__all__ = [
    "anchors",
    "autoregressive",
    "beside_given",
    "full_sequence",
    "pyramid",
    "rolling",
    "within",
]


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


def _levels(numerators: Tensor, whole: int) -> Tensor:
    return _without_idle_rows(numerators.double() / whole)


def _without_idle_rows(schedule: Tensor) -> Tensor:
    moved = (schedule[1:] != schedule[:-1]).any(1)
    return torch.cat([schedule[:1], schedule[1:][moved]])
