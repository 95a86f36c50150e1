"""Decoder: a latent of standard normals -> one law per token, independent given the latent.

It draws x ~ p(x | z) with z ~ N(0, I), so that log q(x) = log E[p(x | z)]. Its encoder proposes z
given x for importance weights p(x | z) N(z) / q(z | x); where that is the exact posterior, all
weights equal q(x). Oracles, each with its exact posterior as encoder:

| target | decoder |
|---|---|
| mixture of products | the component is read off z_1 |
| one Gaussian | linear, z of D - 1 numbers and one noise variance: exact |
| token ids | the sequence is read off z, token by token |
| any, limited to `classes` | the best K classes, read off z_1 |
| any numbers, limited to `latent` | linear: probabilistic PCA or factor analysis |
| token ids, without a latent | the marginals |

Where tokens are given the decoder is shown them, too (see `given`), and its oracle is that of the
others' law given them, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import TokenLaw
from capcheck.networks.oracles.decoders import (
    ComponentDecoder,
    ConditionedDecoder,
    DecoderOracle,
    MarginalDecoder,
    Noise,
    linear_decoder,
    unlimited_decoder,
)
from capcheck.networks.oracles.latent_classes import best_classes
from capcheck.networks.signatures.denoiser import require_continuous
from capcheck.networks.signatures.given import hide_given
from capcheck.networks.signatures.signature import Signature, Wrapped, Wrapper
from capcheck.networks.signatures.token_predictor import require_law
from capcheck.targets.target import ContinuousTarget, Target

__all__ = ["AutoEncoder", "Decoder", "DecoderSignature"]


class Decoder(Protocol):
    """Latent -> the law of every token."""

    def __call__(self, z: Tensor, /, *given: Tensor) -> TokenLaw:
        """Decode.

        Args:
            z: (n, q) standard normals.
            given: Nothing, or where tokens are given: tokens (n, N, d) or (n, N), in which the
                values of unknown tokens mean nothing, and known (n, N) bool.

        Returns:
            The (n, N) laws of the tokens, which are independent given z; those of given tokens
            mean nothing.
        """


@runtime_checkable
class AutoEncoder(Protocol):
    """A decoder that knows where the latent of a sequence lies."""

    def __call__(self, z: Tensor, /, *given: Tensor) -> TokenLaw:
        """Decode, as a `Decoder`."""

    def encode(self, x: Tensor, rng: Randomness, /, *known: Tensor) -> tuple[Tensor, Tensor]:
        """Propose a latent for every sequence.

        Args:
            x: (n, N, d), or (n, N) integers.
            rng: Source of every random number.
            known: Nothing, or where tokens are given: (n, N) bool, which of them are.

        Returns:
            The first r <= q numbers of z, (n, r), if the decoder reads no others; and log q(z | x)
            of these, nats, (n,).
        """


@dataclass(frozen=True)
class DecoderSignature(Signature[Decoder]):
    """(z) -> one law per token, or (z, tokens, known) -> one law per token where tokens are given.

    Attributes:
        latent: Numbers q of the latent of a linear decoder, 0 for none; any decoder if None.
        noise: Of a linear decoder: one variance for all numbers, or one for each.
        classes: Number K of values that the decoder may read off its latent, if limited.
    """

    latent: int | None = None
    noise: Noise = "token"
    classes: int | None = None

    def oracle(self, target: Target) -> Decoder:
        """The decoder that maximises the likelihood of the target, with its exact posterior.

        Raises:
            UnfitError: It is not known for such a target.
        """
        return ConditionedDecoder.of(target, self._oracle_of)

    def _oracle_of(self, target: Target) -> DecoderOracle:
        """Of a law whose rows may have laws of their own."""
        if self.latent is not None:
            if self.latent == 0 and not isinstance(target, ContinuousTarget):
                return MarginalDecoder(target)
            continuous = require_continuous(target, "a linear decoder")
            return linear_decoder(continuous, self.latent, self.noise)
        if self.classes is not None:
            return ComponentDecoder(best_classes(target, self.classes))
        return unlimited_decoder(target)

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The latent, and the tokens, all of whose unknown values look the same."""
        return hide_given(shown, spec)

    def wrap(self, network: Decoder, wrapper: Wrapper) -> Decoder:
        """The network with a wrapper around it; it has an encoder if the network does."""
        if isinstance(network, AutoEncoder):
            return _WrappedAutoEncoder(network, wrapper)
        return super().wrap(network, wrapper)

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)


class _WrappedAutoEncoder(Wrapped):
    """A decoder and its encoder with a wrapper around them."""

    def encode(self, x: Tensor, rng: Randomness, *known: Tensor) -> tuple[Tensor, Tensor]:
        """A latent for every sequence, (n, r), and its log-density, nats, (n,)."""
        return self._wrapper.encode(self._network, x, rng, *known)
