"""Denoisers: map noisy tokens and their levels to the mean of the clean tokens.

Every token has its own level. A denoiser has one of three views: every token sees all tokens
(`all`), token i sees the tokens up to itself (`causal`), or token i sees itself and the clean
tokens, as a diffusion head per token on top of a masked model does (`own`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.networks.signatures.signature import Signature, require_like
from capcheck.noise.paths import PATHS, PathName
from capcheck.targets.target import ContinuousTarget, Target

__all__ = ["Denoiser", "DenoiserSignature", "View", "require_continuous"]

View = Literal["all", "causal", "own"]


class Denoiser(Protocol):
    """Noisy tokens and their levels -> the mean of the clean tokens."""

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Tensor:
        """Return the posterior mean of the clean tokens.

        Args:
            x_t: Noisy tokens alpha(t) x_0 + sigma(t) e, (n, N, d).
            t: Levels of the tokens in [0, 1], (n, N); 0 is clean and 1 pure noise.

        Returns:
            The mean E[x_0 | x_t], (n, N, d).
        """


@dataclass(frozen=True)
class DenoiserSignature(Signature[Denoiser]):
    """(x_t, t) -> E[x_0 | what token i sees of x_t] on a stated noise path.

    Attributes:
        path: Noise path that the network was trained on.
        view: Tokens that token i sees: `all` tokens, those up to itself (`causal`), or itself and
            the tokens at level 0 (`own`).
    """

    noisy: ClassVar[bool] = True
    path: PathName
    view: View = "all"

    def oracle(self, target: Target) -> Denoiser:
        """The exact posterior mean of the clean tokens."""
        continuous = require_continuous(target, "a denoiser")
        path = PATHS[self.path]

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return continuous.denoise(x_t, t, path, causal=self.view == "causal")

        def denoise_own(x_t: Tensor, t: Tensor) -> Tensor:
            law = continuous.marginals(x_t, (t > 0).to(t))
            return law.denoise(x_t, t, path)

        return denoise_own if self.view == "own" else denoise

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a tensor of the tokens' shape."""
        require_like(answer, shown, "the mean of the clean tokens")


def require_continuous(target: Target, what: str) -> ContinuousTarget:
    """Return the target if its tokens are continuous.

    Args:
        target: Target of any kind.
        what: Name of the network that needs continuous tokens, with its article.

    Raises:
        UnfitError: The tokens are categorical.
    """
    if not isinstance(target, ContinuousTarget):
        raise UnfitError(f"{what} needs continuous tokens, got categorical ones.")
    return target
