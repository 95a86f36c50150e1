"""A generator maps standard normals to a sequence in one call; a bijection also has a density.

If tokens are given, they are further arguments (see `given`), and the network makes the others. Any
law is the image of standard normals under its triangular map (see `rosenblatt`), which is the
oracle of both signatures. If the class of maps is limited, the oracle is the best map of bounded
slope (see `bounded_slope`) or the best affine map (see `affine`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.networks.oracles.affine import ConditionedAffine
from capcheck.networks.oracles.bounded_slope import bounded_slope
from capcheck.networks.oracles.rosenblatt import Rosenblatt
from capcheck.networks.signatures.denoiser import require_continuous
from capcheck.networks.signatures.given import hide_given
from capcheck.networks.signatures.signature import Signature, Wrapped, Wrapper
from capcheck.targets.target import Target

__all__ = [
    "Bijection",
    "BijectionSignature",
    "Generator",
    "GeneratorSignature",
    "Layer",
    "normals_for",
    "require_sequences",
]

Layer = Literal["triangular", "affine"]


class Generator(Protocol):
    """Standard normals -> a sequence."""

    def __call__(self, z: Tensor, /, *given: Tensor) -> Tensor:
        """Generate.

        Args:
            z: Standard normals, (n, N, d), or (n, N, 1) for categorical tokens.
            given: Nothing, or, if tokens are given, two tensors: tokens (n, N, d) or (n, N), in
                which the values of unknown tokens mean nothing, and known (n, N) bool.

        Returns:
            Tokens, (n, N, d), or (n, N) integers; the values of given tokens are ignored.
        """


@runtime_checkable
class Bijection(Protocol):
    """An invertible map from standard normals to a sequence; normals of given tokens are unused."""

    def __call__(self, z: Tensor, /, *given: Tensor) -> Tensor:
        """Generate tokens (n, N, d) from normals z (n, N, d), as a `Generator` does."""

    def log_prob(self, x: Tensor, /, *known: Tensor) -> Tensor:
        """Log-density (nats) of sequences under the image of the normals.

        Args:
            x: Sequences, (n, N, d).
            known: Nothing, or, if tokens are given, which of them are, (n, N) bool.

        Returns:
            Log-density (nats) of the unknown tokens given the known ones, (n,).
        """


@dataclass(frozen=True)
class GeneratorSignature(Signature[Generator]):
    """(z) -> x, or (z, tokens, known) -> x where tokens are given.

    Attributes:
        lipschitz: Bound L on the slope of the map, in token units per standard normal, or None.
    """

    lipschitz: float | None = None

    def oracle(self, target: Target) -> Generator:
        """The triangular map, or the W2-nearest map of bounded slope (for sequences of one number).

        Raises:
            UnfitError: There is a bound, and sequences have more than one number.
        """
        if self.lipschitz is None:
            return Rosenblatt(target=target)
        return bounded_slope(target, self.lipschitz)

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The arguments, with the same value for every unknown token."""
        return hide_given(shown, spec)

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is one sequence for each row of normals."""
        require_sequences(answer, shown)


@dataclass(frozen=True)
class BijectionSignature(Signature[Bijection]):
    """(z) -> x and the log-density of x, or (z, tokens, known) -> x where tokens are given.

    Attributes:
        layer: `triangular`: any triangular map; `affine`: one affine layer.
    """

    layer: Layer = "triangular"

    def oracle(self, target: Target) -> Bijection:
        """The triangular map, or the affine map with the target's mean and covariance.

        Raises:
            UnfitError: The tokens are categorical, or the covariance is not available.
        """
        continuous = require_continuous(target, "an invertible map")
        if self.layer == "affine":
            return ConditionedAffine.of(continuous)
        return Rosenblatt(target=target)

    def wrap(self, network: Bijection, wrapper: Wrapper) -> Bijection:
        """The network with a wrapper around it; the result has `log_prob` if the network has it."""
        if isinstance(network, Bijection):
            return _WrappedBijection(network, wrapper)
        return super().wrap(network, wrapper)

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The arguments, with the same value for every unknown token."""
        return hide_given(shown, spec)

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is one sequence for each row of normals."""
        require_sequences(answer, shown)


class _WrappedBijection(Wrapped):
    """A bijection with a wrapper around it."""

    def log_prob(self, x: Tensor, *known: Tensor) -> Tensor:
        """Log-density (nats) of x (n, N, d): (n,)."""
        return self._wrapper.log_prob(self._network, x, *known)


def normals_for(spec: SequenceSpec, n: int, rng: Randomness) -> Tensor:
    """The input of a generator: standard normals, (n, N, d), or (n, N, 1) for token ids."""
    d = spec.dim if spec.kind == "continuous" else 1
    return rng.normal((n, spec.tokens, d)).to(spec.mean)


def require_sequences(answer: object, shown: Tensor) -> None:
    """Raise InputError unless `answer` is tokens: of the shape of `shown`, or (n, N) integers."""
    if isinstance(answer, Tensor):
        whole = tuple(shown.shape) if answer.is_floating_point() else tuple(shown.shape[:2])
        if tuple(answer.shape) == whole:
            return
    got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    raise InputError(
        f"network must return a sequence for every row, {tuple(shown.shape)} or integers of shape "
        f"{tuple(shown.shape[:2])}, got {got}; return the tokens."
    )
