"""Causal predictor: all tokens at once -> the law of every token given the tokens before it.

One call gives the N conditionals p(x_i | x_<i) of an autoregressive model, as teacher forcing does.
Where the tokens before i are impossible together, its oracle returns the unconditional marginal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from capcheck.laws import TokenLaw
from capcheck.signatures.signature import Signature
from capcheck.signatures.token_predictor import require_law
from capcheck.targets.target import Target


class CausalPredictor(Protocol):
    """Tokens -> the law of every token given those before it."""

    def __call__(self, tokens: Tensor, /) -> TokenLaw:
        """Predict.

        Args:
            tokens: (n, N, d), or (n, N) integers.

        Returns:
            p(x_i | x_<i) of every token i of every row; token i and what follows have no say in it.
        """


@dataclass(frozen=True)
class CausalPredictorSignature(Signature[CausalPredictor]):
    """tokens -> one TokenLaw per token, given the tokens before it."""

    def oracle(self, target: Target) -> CausalPredictor:
        """The exact conditionals."""

        def predict(tokens: Tensor) -> TokenLaw:
            known = tokens.new_zeros(tokens.shape[:2], dtype=target.dtype)
            return target.marginals(tokens, known, causal=True)

        return predict

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)
