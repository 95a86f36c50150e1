"""Token predictor: known tokens -> the law of every token.

Its oracle is the exact conditional marginal of each token given the known ones, which is also the
best of all networks in forward KL wherever tokens are drawn independently of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from capcheck.errors import InputError
from capcheck.laws import TokenLaw
from capcheck.signatures.signature import Signature
from capcheck.targets.target import Target


class TokenPredictor(Protocol):
    """Known tokens -> the law of every token."""

    def __call__(self, tokens: Tensor, known: Tensor, /) -> TokenLaw:
        """Predict.

        Args:
            tokens: (n, N, d), or (n, N) integers; values of unknown tokens mean nothing.
            known: (n, N) bool.

        Returns:
            The marginal law of every token given the known ones of its row.
        """


@dataclass(frozen=True)
class TokenPredictorSignature(Signature[TokenPredictor]):
    """(tokens, known) -> token law."""

    def oracle(self, target: Target) -> TokenPredictor:
        """The exact marginal of every token given the known ones."""

        def predict(tokens: Tensor, known: Tensor) -> TokenLaw:
            return target.marginals(tokens, (~known).to(target.dtype))

        return predict

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)


def require_law(answer: object) -> None:
    """Raise InputError unless `answer` is a TokenLaw."""
    if not isinstance(answer, TokenLaw):
        raise InputError(
            "network must return a capcheck.laws.TokenLaw for every token, "
            f"got {type(answer).__name__}; wrap its output."
        )
