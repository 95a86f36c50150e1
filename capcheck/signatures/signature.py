"""A signature: what a family's network is shown and what it returns, and who may stand behind it.

A signature knows how to make its oracle, the population optimum of the family's training objective,
from a target; a fitted module or a user's checkpoint is any other callable of the same shape. Calls
are counted here, by a wrapper around whatever network runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from capcheck.errors import InputError
from capcheck.sequences import SequenceSpec
from capcheck.targets.target import Target

NetworkT = TypeVar("NetworkT", bound=Callable[..., Any])


class Signature(ABC, Generic[NetworkT]):
    """The shape of a family's network."""

    @abstractmethod
    def oracle(self, target: Target) -> NetworkT:
        """The population optimum of the training objective on that target.

        Raises:
            InputError: There is none for such a target; the sentence says why.
        """

    def blind(self, network: NetworkT, spec: SequenceSpec) -> NetworkT:
        """The network, shown no more than the signature means it to see; the oracle needs none.

        Args:
            network: Of this signature.
            spec: Of the sequences in the procedure's coordinates.
        """
        return network

    @abstractmethod
    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` has the shape that this signature promises.

        Args:
            answer: What the network returned.
            shown: The first argument that it was called with.
        """


@dataclass
class Calls:
    """What a run has cost so far.

    Attributes:
        sequential: Network evaluations that had to wait for each other.
        tokens: Tokens shown to the network, summed over calls and rows.
    """

    sequential: int = 0
    tokens: int = 0


def counted(
    network: Callable[..., Any], signature: Signature[Any], calls: Calls
) -> Callable[..., Any]:
    """Wrap a network so that each call is counted in `calls` and its answer's shape is checked.

    A gradient is recorded only where what is shown asks for one, as a sampler's does that descends
    an energy.
    """

    def call(shown: Tensor, *more: Tensor) -> Any:
        calls.sequential += 1
        calls.tokens += shown.shape[0] * shown.shape[1]
        with torch.set_grad_enabled(shown.requires_grad):
            answer = network(shown, *more)
        signature.require(answer, shown)
        return answer

    return call


def require_like(answer: object, shown: Tensor, meaning: str) -> None:
    """Raise InputError unless `answer` is a tensor of the shape of what was shown.

    Args:
        answer: What the network returned.
        shown: What it was shown.
        meaning: What its answer should be, to end the sentence with.
    """
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if shape != tuple(shown.shape):
        raise InputError(
            f"network must return a tensor of shape {tuple(shown.shape)} like its input, "
            f"got {shape}; return {meaning}."
        )
