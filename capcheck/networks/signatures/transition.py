"""Transition predictors: map tokens at levels t to the law of every token at lower levels s.

On the linear path y_t = (1 - t) x + t e, a token at level t is a token at level s <= t with more
noise,

    y_t = r y_s + sqrt(t^2 - r^2 s^2) e,    r = (1 - t) / (1 - s).

The law of y_s given the tokens shown is therefore that of a clean token of the target with noise s,
shown at the relative level t' = q / (1 + q). Here q = (1 - s) sqrt(S_t^2 - S_s^2), with
S_t = t / (1 - t) and S_s = s / (1 - s).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import TokenLaw
from capcheck.networks.signatures.denoiser import require_continuous
from capcheck.networks.signatures.signature import Signature
from capcheck.networks.signatures.token_predictor import require_law
from capcheck.targets.target import ContinuousTarget, Target

__all__ = [
    "KEPT",
    "TransitionPredictor",
    "TransitionPredictorSignature",
    "added_noise",
    "relative_level",
]

KEPT = 2  # noisy laws that are kept, each with factors of its own; a pass uses one or two


class TransitionPredictor(Protocol):
    """Noisy tokens and their levels -> the law of every token at lower levels."""

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, /) -> TokenLaw:
        """Return the law of every token at level s.

        Args:
            x: Noisy tokens (1 - t) x_0 + t e, (n, N, d).
            t: Levels of the tokens in [0, 1], (n, N), none below s. A token at level 1 is unseen,
                and a token with t_i = s_i is known at that level, as a given token is at 0.
            s: Levels in [0, 1) to predict at, (N,); 0 is clean.

        Returns:
            The law of every token (1 - s) x_0 + s e' given all tokens seen, an (n, N) law; the
            noise e of x contains e'.
        """


@dataclass(frozen=True)
class TransitionPredictorSignature(Signature[TransitionPredictor]):
    """(x, t, s) -> token law at levels s, on the linear path."""

    noisy: ClassVar[bool] = True

    def oracle(self, target: Target) -> TransitionPredictor:
        """The exact law, from the conditionals of the target with noise s."""
        clean = require_continuous(target, "a transition predictor")

        @functools.lru_cache(maxsize=KEPT)
        def noisy(s: tuple[float, ...]) -> ContinuousTarget:
            return clean.with_noise(torch.tensor(s, dtype=torch.float64, device=clean.device))

        def predict(x: Tensor, t: Tensor, s: Tensor) -> TokenLaw:
            own = t[:1] if t.stride(0) == 0 else t  # rows that share their levels share the rest
            relative, scale = relative_level(own, s)
            levels = relative.expand(len(x), -1)
            return noisy(tuple(s.tolist())).marginals(scale[..., None] * x, levels)

        return predict

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The tokens, with 0 for every token at level 1, and the levels."""
        x, t, s = shown
        return torch.where(t[..., None] == 1, 0, x), t, s

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)


def relative_level(t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The level t' at which y_t shows y_s, and the factor (1 - t') / r that puts y_t on the path.

    Args:
        t: Levels of the tokens, (n, N).
        s: Levels to predict at in [0, 1), (N,), none above t.

    Returns:
        The level t' and the factor, (n, N) each; they are 1 and 0 where t = 1.

    Raises:
        InputError: A level to predict at is 1, or is above the level of the token shown.
    """
    if not bool(((s >= 0) & (s < 1)).all()):
        raise InputError(
            f"s must be in [0, 1), got {s.tolist()}; level 1 leaves nothing to predict."
        )
    if not bool(((t >= s) & (t <= 1)).all()):
        raise InputError(
            f"t must be in [s, 1] token by token, got {(t - s).min().item():.3g} as the smallest "
            "t - s; show tokens at the level s or above it."
        )
    unseen = t == 1
    t = torch.where(unseen, s, t)
    S_t, S_s = t / (1 - t), s / (1 - s)
    q = (1 - s) * ((S_t - S_s) * (S_t + S_s)).sqrt()
    relative = torch.where(unseen, 1, q / (1 + q))
    r = (1 - t) / (1 - s)
    return relative, torch.where(unseen, 0, (1 - relative) / r)


def added_noise(t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The factors r and sqrt(t^2 - r^2 s^2) of y_t = r y_s + sqrt(t^2 - r^2 s^2) e.

    Args:
        t: Levels in [0, 1), none below s.
        s: Levels in [0, 1), of the same shape as t.
    """
    S_t, S_s = t / (1 - t), s / (1 - s)
    return (1 - t) / (1 - s), (1 - t) * ((S_t - S_s) * (S_t + S_s)).sqrt()
