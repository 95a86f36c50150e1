"""A signature: what a family's network is shown and what it returns, and who may stand behind it.

A signature knows how to make its oracle, the population optimum of the family's training objective,
from a target; a fitted module or a user's checkpoint is any other callable of the same shape. Calls
are counted here, by a wrapper around whatever network runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from capcheck.core.errors import CapcheckError, ControlFlow, InputError, NetworkError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.targets.target import Target

NetworkT = TypeVar("NetworkT", bound=Callable[..., Any])


class Signature(ABC, Generic[NetworkT]):
    """The shape of a family's network.

    Attributes:
        noisy: Whether noise of a stated size is added to what the network is shown. The procedure
            then works in the target's own units (see `capcheck.procedures.coordinates`).
    """

    noisy: ClassVar[bool] = False

    @abstractmethod
    def oracle(self, target: Target) -> NetworkT:
        """The population optimum of the training objective on that target.

        Raises:
            UnfitError: There is none for such a target; the sentence says why.
        """

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The arguments of a call, without the values that this signature does not let be seen.

        A log-density is evaluated with the true values in place; a network that read them would
        hand back what it is to predict. An oracle reads none of them.

        Args:
            shown: Arguments of the network.
            spec: Of the sequences in the procedure's coordinates.
        """
        return shown

    def wrap(self, network: NetworkT, wrapper: Wrapper) -> NetworkT:
        """The network with a wrapper around it; all wrappers of a network compose by this rule."""
        return Wrapped(network, wrapper)  # type: ignore[return-value]

    @abstractmethod
    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` has the shape that this signature promises.

        Args:
            answer: What the network returned.
            shown: The first argument that it was called with.
        """


class Wrapper:
    """Stands around a network: changes what is shown or what is answered, or looks at both."""

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The answer of the wrapped network."""
        return network(*shown)

    def together(self, network: Callable[..., Any], inputs: Iterable[Tensor]) -> list[Any]:
        """The answers to inputs none of which waits for the answer to another."""
        return [self.call(network, shown) for shown in inputs]

    def log_prob(self, network: Any, x: Tensor, *known: Tensor) -> Tensor:
        """The log-density of the wrapped network, of signatures whose networks have one: (n,)."""
        density: Tensor = network.log_prob(x, *known)
        return density

    def encode(
        self, network: Any, x: Tensor, rng: Randomness, *known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The encoder of the wrapped network, of signatures whose networks have one."""
        encoded: tuple[Tensor, Tensor] = network.encode(x, rng, *known)
        return encoded


class Wrapped:
    """A network with a wrapper around it.

    Args:
        network: What is wrapped.
        wrapper: What stands around it.
    """

    def __init__(self, network: Callable[..., Any], wrapper: Wrapper) -> None:
        self._network, self._wrapper = network, wrapper

    def __call__(self, *shown: Tensor) -> Any:
        """The wrapper's answer."""
        return self._wrapper.call(self._network, *shown)

    def together(self, inputs: Iterable[Tensor]) -> list[Any]:
        """The wrapper's answers to inputs none of which waits for the answer to another."""
        return self._wrapper.together(self._network, inputs)


@dataclass
class Calls:
    """What a run has cost so far.

    Attributes:
        sequential: Network evaluations that had to wait for each other.
        tokens: Tokens shown to the network, summed over calls and rows.
    """

    sequential: int = 0
    tokens: int = 0


@dataclass(frozen=True, eq=False)
class Counting(Wrapper):
    """Counts the calls of a network and checks the shape of its answers.

    A gradient is recorded only where what is shown asks for one, as a sampler's does that descends
    an energy.

    Attributes:
        signature: Of the network.
        calls: What is counted up.
    """

    signature: Signature[Any]
    calls: Calls

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer; one sequential call more."""
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
        """The network's answers; one sequential call more, since none waits for another."""
        before = self.calls.sequential
        answers = super().together(network, inputs)
        self.calls.sequential = before + bool(answers)
        return answers


@dataclass(frozen=True, eq=False)
class Blinding(Wrapper):
    """Shows a network of the caller no more than its signature means it to see.

    Whatever the network raises is a `NetworkError`.

    Attributes:
        signature: Of the network.
        spec: Of the sequences in the procedure's coordinates.
    """

    signature: Signature[Any]
    spec: SequenceSpec

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer to what it may see."""
        hidden = self.signature.hide(shown, self.spec)
        try:
            return network(*hidden)
        except (CapcheckError, ControlFlow):
            raise
        except Exception as error:
            raise NetworkError(f"network raised {type(error).__name__}: {error}.") from error


def counted(network: NetworkT, signature: Signature[NetworkT], calls: Calls) -> NetworkT:
    """The network, whose calls are counted in `calls` and whose answers' shape is checked."""
    return signature.wrap(network, Counting(signature, calls))


def together(network: Callable[..., Any], inputs: Iterable[Tensor]) -> list[Any]:
    """The answers of a network to inputs none of which waits for the answer to another.

    A counted network counts them as one sequential call: one large batch, cut into tiles so that
    memory stays bounded.

    Args:
        network: Counted or not.
        inputs: The tiles, made one at a time.
    """
    if isinstance(network, Wrapped):
        return network.together(inputs)
    return [network(shown) for shown in inputs]


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
