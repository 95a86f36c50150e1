"""Prefix predictor: known tokens -> the law of every token given the known ones before it.

One call scores a draft, p(x_i | x_<i) for all of its tokens, where these are shown as known; and it
drafts, p(x_i | x_<j) for all i >= j, where nothing from j on is known. A causal network whose heads
look several tokens ahead gives both.
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


class PrefixPredictor(Protocol):
    """Known tokens -> the law of every token given the known ones before it."""

    def __call__(self, tokens: Tensor, known: Tensor, /) -> TokenLaw:
        """Predict.

        Args:
            tokens: (n, N, d), or (n, N) integers; values of unknown tokens mean nothing.
            known: (n, N) bool.

        Returns:
            The law of every token i of every row; token i and what follows have no say in it, even
            where they are known.
        """


@dataclass(frozen=True)
class PrefixPredictorSignature(Signature[PrefixPredictor]):
    """(tokens, known) -> token law, given what is known before each token."""

    def oracle(self, target: Target) -> PrefixPredictor:
        """The exact conditionals."""

        def predict(tokens: Tensor, known: Tensor) -> TokenLaw:
            return target.marginals(tokens, (~known).to(target.dtype), causal=True)

        return predict

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The tokens, all of whose unknown values look the same, and which are known."""
        tokens, known = shown
        return hidden(tokens, known, spec), known

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)
