"""Token predictors: map the known tokens of a sequence to the law of every token.

The oracle is the exact conditional marginal of each token given the known tokens. Where tokens are
drawn independently of each other, no other network has a smaller forward KL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import TokenLaw
from capcheck.networks.signatures.signature import Signature
from capcheck.targets.target import Target

__all__ = ["TokenPredictor", "TokenPredictorSignature", "hidden", "require_law"]


class TokenPredictor(Protocol):
    """Known tokens -> the law of every token."""

    def __call__(self, tokens: Tensor, known: Tensor, /) -> TokenLaw:
        """Return the law of every token.

        Args:
            tokens: Tokens, (n, N, d), or (n, N) integers; values of unknown tokens mean nothing.
            known: Whether a token is known, (n, N) bool.

        Returns:
            The marginal law of every token given the known tokens of its row, an (n, N) law.
        """


@dataclass(frozen=True)
class TokenPredictorSignature(Signature[TokenPredictor]):
    """(tokens, known) -> token law."""

    def oracle(self, target: Target) -> TokenPredictor:
        """The exact marginal law of every token given the known tokens."""

        def predict(tokens: Tensor, known: Tensor) -> TokenLaw:
            return target.marginals(tokens, (~known).to(target.dtype))

        return predict

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The tokens, with the same value for every unknown token, and the mask of known ones."""
        tokens, known = shown
        return hidden(tokens, known, spec), known

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)


def hidden(tokens: Tensor, known: Tensor, spec: SequenceSpec) -> Tensor:
    """The tokens, with unknown ones replaced by their mean, or by symbol 0.

    Args:
        tokens: Tokens, (n, N, d), or (n, N) integers.
        known: Whether a token is known, (n, N) bool.
        spec: Spec of the sequences.
    """
    if spec.kind == "categorical":
        return torch.where(known, tokens, 0)
    return torch.where(known[..., None], tokens, spec.mean.to(tokens))


def require_law(answer: object) -> None:
    """Raise InputError unless `answer` is a TokenLaw."""
    if not isinstance(answer, TokenLaw):
        raise InputError(
            "network must return a capcheck.laws.TokenLaw for every token, "
            f"got {type(answer).__name__}; wrap its output in capcheck.laws.Categorical(logits) or "
            "MixtureOfGaussians(log_weights, means, variances)."
        )
