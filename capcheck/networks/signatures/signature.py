"""A signature states the arguments of a family's network, its answer, and its oracle.

The oracle is the population optimum of the family's training objective on a target. A fitted module
or a user's checkpoint is any other callable with the same arguments and answer. Wrappers stand
around a network, for instance to count its calls (`Counting`) or to hide values (`Blinding`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from capcheck.core.errors import CapcheckError, ControlFlow, InputError, NetworkError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.targets.target import CategoricalTarget, Target

__all__ = [
    "Blinding",
    "ByValue",
    "Calls",
    "Counting",
    "NetworkT",
    "Signature",
    "Wrapped",
    "Wrapper",
    "counted",
    "of_values",
    "require_like",
    "together",
]

NetworkT = TypeVar("NetworkT", bound=Callable[..., Any])


class Signature(ABC, Generic[NetworkT]):
    """The arguments and the answer of a family's network.

    Attributes:
        noisy: Whether the network is shown tokens with noise of a stated size. The procedure then
            works in the target's own units (see `capcheck.procedures.coordinates`).
    """

    noisy: ClassVar[bool] = False

    @abstractmethod
    def oracle(self, target: Target) -> NetworkT:
        """The population optimum of the training objective on a target.

        Raises:
            UnfitError: There is no oracle for the target; the message says why.
        """

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The arguments of a call without the values that the network must not see.

        A log-density is evaluated with the true values in place, and a network that read them could
        return the values that it should predict. An oracle ignores them by construction.

        Args:
            shown: Arguments of the network.
            spec: Spec of the sequences in the procedure's coordinates.
        """
        return shown

    def cost(self, target: CategoricalTarget) -> float:
        """Multiply-adds of the oracle's answer to one row; 0 if few."""
        return target.conditional_cost

    def wrap(self, network: NetworkT, wrapper: Wrapper) -> NetworkT:
        """The network with a wrapper around it; wrappers compose from the inside out."""
        return Wrapped(network, wrapper)  # type: ignore[return-value]

    @abstractmethod
    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless an answer has the type and shape that this signature promises.

        Args:
            answer: Answer of the network.
            shown: First argument of the call.
        """


class Wrapper:
    """Stands around a network, and may change or inspect its arguments and answers."""

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The answer of the wrapped network."""
        return network(*shown)

    def together(self, network: Callable[..., Any], inputs: Iterable[Tensor]) -> list[Any]:
        """The answers to inputs that do not depend on each other's answers."""
        return [self.call(network, shown) for shown in inputs]

    def of_values(self, network: Callable[..., Any], x: Tensor, token: int) -> Tensor | None:
        """See `of_values`; a wrapper that changes answers has no shortcut to them."""
        return None

    def log_prob(self, network: Any, x: Tensor, *known: Tensor) -> Tensor:
        """The log-density (nats) of the wrapped network, if such networks have one: (n,)."""
        density: Tensor = network.log_prob(x, *known)
        return density

    def encode(
        self, network: Any, x: Tensor, rng: Randomness, *known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The answer of the wrapped network's encoder, if such networks have one."""
        encoded: tuple[Tensor, Tensor] = network.encode(x, rng, *known)
        return encoded


class Wrapped:
    """A network with a wrapper around it.

    Args:
        network: Network inside.
        wrapper: Wrapper around the network.
    """

    def __init__(self, network: Callable[..., Any], wrapper: Wrapper) -> None:
        self._network, self._wrapper = network, wrapper

    def __call__(self, *shown: Tensor) -> Any:
        """The wrapper's answer."""
        return self._wrapper.call(self._network, *shown)

    def together(self, inputs: Iterable[Tensor]) -> list[Any]:
        """The wrapper's answers to inputs that do not depend on each other's answers."""
        return self._wrapper.together(self._network, inputs)

    def of_values(self, x: Tensor, token: int) -> Tensor | None:
        """The wrapper's answers for every value of one token."""
        return self._wrapper.of_values(self._network, x, token)


@runtime_checkable
class ByValue(Protocol):
    """A network that tells its answers for every value of one token at once."""

    def of_values(self, x: Tensor, token: int, /) -> Tensor | None:
        """See the function `of_values`."""


@dataclass
class Calls:
    """The cost of a run so far.

    Attributes:
        sequential: Number of network calls that had to wait for each other.
        tokens: Number of tokens shown to the network, summed over calls and rows.
    """

    sequential: int = 0
    tokens: int = 0


@dataclass(frozen=True, eq=False)
class Counting(Wrapper):
    """Counts the calls of a network and checks its answers.

    A gradient is recorded only if the first argument requires one, as in samplers that descend an
    energy.

    Attributes:
        signature: Signature of the network.
        calls: Counters to increase.
    """

    signature: Signature[Any]
    calls: Calls

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer; counts as one sequential call."""
        self.calls.sequential += 1
        self.calls.tokens += shown[0].shape[0] * shown[0].shape[1]
        with torch.set_grad_enabled(shown[0].requires_grad):
            answer = network(*shown)
        try:
            self.signature.require(answer, shown[0])
        except InputError as error:
            raise NetworkError(str(error)) from None
        return answer

    def together(self, network: Callable[..., Any], inputs: Iterable[Tensor]) -> list[Any]:
        """The network's answers; count as one sequential call, since none waits for another."""
        before = self.calls.sequential
        answers = super().together(network, inputs)
        self.calls.sequential = before + bool(answers)
        return answers

    def of_values(self, network: Callable[..., Any], x: Tensor, token: int) -> Tensor | None:
        """The network's answers, which count as one call on a sequence for each value."""
        found = of_values(network, x, token)
        if found is not None:
            self.calls.sequential += 1
            self.calls.tokens += found.numel() * x.shape[1]
        return found


@dataclass(frozen=True, eq=False)
class Blinding(Wrapper):
    """Hides from a caller's network the values that its signature does not show.

    Exceptions that the network raises become a `NetworkError`.

    Attributes:
        signature: Signature of the network.
        spec: Spec of the sequences in the procedure's coordinates.
    """

    signature: Signature[Any]
    spec: SequenceSpec

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer to the arguments without the hidden values."""
        hidden = self.signature.hide(shown, self.spec)
        try:
            return network(*hidden)
        except (CapcheckError, ControlFlow):
            raise
        except Exception as error:
            raise NetworkError(f"network raised {type(error).__name__}: {error}.") from error


def counted(network: NetworkT, signature: Signature[NetworkT], calls: Calls) -> NetworkT:
    """The network with its calls counted in `calls` and its answers checked."""
    return signature.wrap(network, Counting(signature, calls))


def together(network: Callable[..., Any], inputs: Iterable[Tensor]) -> list[Any]:
    """The answers of a network to inputs that do not depend on each other's answers.

    A counted network counts them as one sequential call: they are one large batch, which is cut
    into tiles so that memory stays bounded.

    Args:
        network: Network, counted or not.
        inputs: Tiles of the batch, made one at a time.
    """
    if isinstance(network, Wrapped):
        return network.together(inputs)
    return [network(shown) for shown in inputs]


def of_values(network: Callable[..., Any], x: Tensor, token: int) -> Tensor | None:
    """The answers of a network to x with each value of one token, if it has a shortcut to them.

    Args:
        network: Network of one number for each sequence, counted or not.
        x: Sequences, (n, N) integers.
        token: Index of the token.

    Returns:
        The answers (n, V), or None.
    """
    return network.of_values(x, token) if isinstance(network, ByValue) else None


def require_like(answer: object, shown: Tensor, meaning: str) -> None:
    """Raise InputError unless an answer is a tensor of the shape of the network's input.

    Args:
        answer: Answer of the network.
        shown: Input of the network.
        meaning: Meaning of the answer in words, which ends the message.
    """
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if shape != tuple(shown.shape):
        raise InputError(
            f"network must return a tensor of shape {tuple(shown.shape)} like its input, "
            f"got {shape}; return {meaning}."
        )
