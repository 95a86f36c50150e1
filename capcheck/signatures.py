"""Signatures: what a family's network is shown and what it returns, and who may stand behind one.

A signature knows how to make its oracle, the population optimum of the family's training objective,
from a target; a fitted module or a user's checkpoint is any other callable of the same shape. Calls
are counted here, by a wrapper around whatever network runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from capcheck.errors import InputError
from capcheck.laws import TokenLaw
from capcheck.paths import PATHS, PathName
from capcheck.targets.target import ContinuousTarget, Target


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


class Denoiser(Protocol):
    """Noisy tokens and their levels -> the mean of the clean tokens."""

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Tensor:
        """Denoise.

        Args:
            x_t: (n, N, d), every token alpha(t) x_0 + sigma(t) e.
            t: (n, N), levels in [0, 1]; 0 is clean and 1 pure noise.

        Returns:
            E[x_0 | x_t], (n, N, d).
        """


NetworkT = TypeVar("NetworkT", TokenPredictor, Denoiser)


class Signature(ABC, Generic[NetworkT]):
    """The shape of a family's network."""

    @abstractmethod
    def oracle(self, target: Target) -> NetworkT:
        """The population optimum of the training objective on that target."""

    @abstractmethod
    def require(self, answer: object, tokens: Tensor) -> None:
        """Raise InputError unless `answer` has the shape that this signature promises."""


@dataclass(frozen=True)
class TokenPredictorSignature(Signature[TokenPredictor]):
    """(tokens, known) -> token law."""

    def oracle(self, target: Target) -> TokenPredictor:
        """The exact marginal of every token given the known ones."""

        def predict(tokens: Tensor, known: Tensor) -> TokenLaw:
            return target.marginals(tokens, (~known).to(target.dtype))

        return predict

    def require(self, answer: object, tokens: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        if not isinstance(answer, TokenLaw):
            raise InputError(
                "network must return a capcheck.laws.TokenLaw for every token, "
                f"got {type(answer).__name__}; wrap its output."
            )


@dataclass(frozen=True)
class DenoiserSignature(Signature[Denoiser]):
    """(x_t, t) -> E[x_0 | x_t] on a stated noise path.

    Attributes:
        path: Noise path that the network was trained on.
        causal: Token i is shown tokens up to and including i only.
    """

    path: PathName
    causal: bool = False

    def oracle(self, target: Target) -> Denoiser:
        """The exact posterior mean."""
        if not isinstance(target, ContinuousTarget):
            raise InputError("a denoiser needs continuous tokens, got categorical ones.")

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return target.denoise(x_t, t, PATHS[self.path], causal=self.causal)

        return denoise

    def require(self, answer: object, tokens: Tensor) -> None:
        """Raise InputError unless `answer` is a tensor of the tokens' shape."""
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        if shape != tuple(tokens.shape):
            raise InputError(
                f"network must return a tensor of shape {tuple(tokens.shape)} like x_t, "
                f"got {shape}; return the mean of the clean tokens."
            )


@dataclass
class Calls:
    """What a run has cost so far.

    Attributes:
        sequential: Network evaluations that had to wait for each other.
        tokens: Tokens shown to the network, summed over calls and sample rows.
    """

    sequential: int = 0
    tokens: int = 0


def counted(
    network: Callable[..., Any], signature: Signature[Any], calls: Calls
) -> Callable[..., Any]:
    """Wrap a network so that each call is counted in `calls` and its answer's shape is checked."""

    def call(tokens: Tensor, *shown: Tensor) -> Any:
        calls.sequential += 1
        calls.tokens += tokens.shape[0] * tokens.shape[1]
        with torch.no_grad():
            answer = network(tokens, *shown)
        signature.require(answer, tokens)
        return answer

    return call
