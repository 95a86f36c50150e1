"""Noisy token predictors: map token ids with uniform noise to the law of every clean token.

Every token has its own keep-probability alpha_i: it is the clean token with probability alpha_i,
and a symbol drawn uniformly otherwise. The oracle is p(x_0i | x), the posterior of each clean token
given all noisy tokens, its own included. It has the least cross-entropy to clean tokens of all
networks that return one law for each token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import TokenLaw
from capcheck.networks.signatures.signature import Signature
from capcheck.networks.signatures.token_predictor import require_law
from capcheck.targets.target import CategoricalTarget, Target

__all__ = ["NoisyPredictor", "NoisyPredictorSignature"]


class NoisyPredictor(Protocol):
    """Noisy tokens and their keep-probabilities -> the law of every clean token."""

    def __call__(self, tokens: Tensor, keep: Tensor, /) -> TokenLaw:
        """Return the law of every clean token.

        Args:
            tokens: Noisy tokens, (n, N) integers; values where `keep` is 0 mean nothing.
            keep: Keep-probabilities alpha, (n, N) in [0, 1]; a token with 1 is clean.

        Returns:
            The law of every clean token given all noisy ones, an (n, N) law.
        """


@dataclass(frozen=True)
class NoisyPredictorSignature(Signature[NoisyPredictor]):
    """(tokens, keep) -> law of every clean token."""

    def oracle(self, target: Target) -> NoisyPredictor:
        """The exact posterior of every clean token given all noisy tokens.

        Raises:
            UnfitError: The tokens are continuous, or the target has no such posteriors.
        """
        if not isinstance(target, CategoricalTarget):
            raise UnfitError("uniform noise needs token ids, got continuous tokens; use diffusion.")
        known = target  # a name of the narrower type, for the function below

        def predict(tokens: Tensor, keep: Tensor) -> TokenLaw:
            if bool(((keep == 0) | (keep == 1)).all()):
                return known.marginals(tokens, 1 - keep)  # often cheaper: no token is noisy
            law = known.noisy_marginals(tokens, keep)
            if law is None:
                raise UnfitError(
                    f"uniform noise needs the posteriors of noisy tokens, and "
                    f"{type(known).__name__} has none; implement noisy_marginals."
                )
            return law

        nothing = torch.zeros(1, target.spec.tokens, dtype=torch.int64, device=target.device)
        predict(nothing, torch.full_like(nothing, 0.5, dtype=target.dtype))
        return predict

    def cost(self, target: CategoricalTarget) -> float:
        """That of posteriors given noisy tokens."""
        return target.noisy_cost

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The tokens, with symbol 0 for every token that tells nothing, and `keep`."""
        tokens, keep = shown
        return torch.where(keep > 0, tokens, 0), keep

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)
