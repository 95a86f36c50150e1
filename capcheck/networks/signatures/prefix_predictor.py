"""Prefix predictors: map known tokens to the law of every token given the known tokens before it.

One call scores a draft if its tokens are shown as known: it returns p(x_i | x_<i) for all of them.
One call makes a draft if no token from j on is known: it returns p(x_i | x_<j) for all i >= j. A
causal network whose heads look several tokens ahead can do both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.laws import TokenLaw
from capcheck.networks.signatures.signature import Signature
from capcheck.networks.signatures.token_predictor import hidden, require_law
from capcheck.targets.target import Target

__all__ = ["PrefixPredictor", "PrefixPredictorSignature"]


class PrefixPredictor(Protocol):
    """Known tokens -> the law of every token given the known ones before it."""

    def __call__(self, tokens: Tensor, known: Tensor, /) -> TokenLaw:
        """Return the law of every token given the known tokens before it.

        Args:
            tokens: Tokens, (n, N, d), or (n, N) integers; values of unknown tokens mean nothing.
            known: Whether a token is known, (n, N) bool.

        Returns:
            The law of every token i, an (n, N) law. It does not depend on token i and those after
            it, even if they are known.
        """


@dataclass(frozen=True)
class PrefixPredictorSignature(Signature[PrefixPredictor]):
    """(tokens, known) -> token law, given the known tokens before each token."""

    def oracle(self, target: Target) -> PrefixPredictor:
        """The exact law of every token given the known tokens before it."""

        def predict(tokens: Tensor, known: Tensor) -> TokenLaw:
            return target.marginals(tokens, (~known).to(target.dtype), causal=True)

        return predict

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The tokens, with the same value for every unknown token, and the mask of known ones."""
        tokens, known = shown
        return hidden(tokens, known, spec), known

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)
