"""Uniform noise on token ids: a token keeps its value, or is drawn anew from all V symbols.

At level t a token of value x_0 has the law

    q(x_t | x_0) = alpha [x_t = x_0] + (1 - alpha) / V,    alpha = 1 - t,

where alpha is its keep-probability: 1 is a clean token, and 0 tells nothing. From level s up to t
it is kept with probability alpha_t / alpha_s. By Bayes' rule a token goes back from t to s by

    q(x_s | x_t, x_0) = q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0).

Source: Austin, Johnson, Ho, Tarlow & van den Berg 2021, "Structured Denoising Diffusion Models in
Discrete State-Spaces" (D3PM), section 3 and appendix A.2.1, https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness

__all__ = [
    "evidence_floor",
    "log_noised",
    "noised",
    "reversed_laws",
    "reversed_step",
    "share_kept",
]


def share_kept(t: float, s: float) -> float:
    """The probability alpha_t / alpha_s that a token at level s keeps its value up to level t.

    Args:
        t: Level in [0, 1], not below s.
        s: Level in [0, 1).
    """
    return (1 - t) / (1 - s)


def noised(x: Tensor, keep: float, vocabulary: int, rng: Randomness) -> Tensor:
    """The tokens after noise, (n, N) integers.

    Args:
        x: Tokens, (n, N) integers.
        keep: Probability that a token keeps its value, in [0, 1].
        vocabulary: Number V of symbols.
        rng: Source of one draw for each token.
    """
    weights = torch.full((vocabulary + 1,), (1 - keep) / vocabulary, dtype=torch.float64)
    weights[-1] = keep  # the last choice keeps the value
    choice = rng.categorical(weights, tuple(x.shape)).to(x.device)
    return torch.where(choice == vocabulary, x, choice.to(x))


def log_noised(y: Tensor, x: Tensor, keep: float, vocabulary: int) -> Tensor:
    """Log-probability (nats) of every token of y after noise on x, (n, N) float64.

    Args:
        y: Tokens after the noise, (n, N) integers.
        x: Tokens before it, (n, N) integers.
        keep: As for `noised`.
        vocabulary: As for `noised`.
    """
    return (keep * (y == x).double() + (1 - keep) / vocabulary).log()


def evidence_floor(keep: Tensor, vocabulary: int) -> Tensor:
    """The ratio q(x_t | x_0 = v) / q(x_t | x_0 = x_t) for a value v other than x_t.

    It is (1 - alpha) / (1 - alpha + V alpha). A noisy token is evidence for its clean value in
    proportion to floor + (1 - floor) [v = x_t].

    Args:
        keep: Keep-probabilities alpha in [0, 1], of any shape.
        vocabulary: Number V of symbols.
    """
    return (1 - keep) / (1 - keep + vocabulary * keep)


def reversed_step(
    p: Tensor, p_own: Tensor, same: Tensor, *, t: float, s: float, vocabulary: int
) -> Tensor:
    """The mean of q(x_s = y | x_t, x_0) over x_0 of law p, for one value y of each token.

    With w(x_0) = p(x_0) / q(x_t | x_0) and W the sum of w over all values,

        sum over x_0 of p(x_0) q(y | x_t, x_0) = q(x_t | y) (alpha_s w(y) + (1 - alpha_s) W / V).

    Args:
        p: Probability p(x_0 = y) of the value y, (n, N).
        p_own: Probability p(x_0 = x_t) of the noisy token's own value, (n, N).
        same: Whether y = x_t, (n, N) bool.
        t: Level of x_t in (0, 1].
        s: Level of the result in [0, t).
        vocabulary: Number V of symbols.

    Returns:
        Probabilities, (n, N).
    """
    step = _Step(t, s, vocabulary)
    return torch.where(same, step.stays(p_own), step.moves(p, p_own))


def reversed_laws(p: Tensor, x_t: Tensor, *, t: float, s: float) -> Tensor:
    """The mean of q(x_s | x_t, x_0) over x_0 of law p, for all values of each token.

    Args:
        p: Probabilities of the clean values, (n, N, V).
        x_t: Noisy tokens, (n, N) integers.
        t: Level of x_t in (0, 1].
        s: Level of the result in [0, t).

    Returns:
        Probabilities, (n, N, V).
    """
    step, at = _Step(t, s, p.shape[-1]), x_t[..., None]
    p_own = p.gather(-1, at)
    return step.moves(p, p_own).scatter_(-1, at, step.stays(p_own))


@dataclass(frozen=True)
class _Step:
    """The factors of `reversed_step`, where w and W are in units of V / t."""

    t: float
    s: float
    V: int

    def moves(self, p: Tensor, p_own: Tensor) -> Tensor:
        """The probability of a value y other than x_t, with p(x_0 = y) = p."""
        factor = (1 - share_kept(self.t, self.s)) / self.t  # q(x_t | y) V / t
        return (p * (factor * (1 - self.s))).add_(factor * self._rest(p_own))

    def stays(self, p_own: Tensor) -> Tensor:
        """The probability of the value x_t itself."""
        a, V = share_kept(self.t, self.s), self.V
        factor = (a * V + 1 - a) / self.t
        return factor * ((1 - self.s) * self._floor * p_own + self._rest(p_own))

    @property
    def _floor(self) -> float:
        """The ratio q(x_t | other) / q(x_t | x_t)."""
        return self.t / (self.t + self.V * (1 - self.t))

    def _rest(self, p_own: Tensor) -> Tensor:
        """The term (1 - alpha_s) W / V; rounded probabilities may exceed 1."""
        return self.s / self.V * (1 - p_own * (1 - self._floor)).clamp(min=0)
