"""A decoder maps a latent z of standard normals to one law per token, independent given z.

A sequence is drawn as x ~ p(x | z) with z ~ N(0, I), so that log q(x) = log E[p(x | z)]. An encoder
proposes z given x for importance weights p(x | z) N(z) / q(z | x); if it is the exact posterior,
all weights equal q(x). The oracles, each with its exact posterior as encoder, are:

| target | decoder |
|---|---|
| mixture of products | z_1 determines the component |
| one Gaussian | linear, with D - 1 latent numbers and one noise variance: exact |
| token ids | z determines the sequence, token by token |
| any, limited to `classes` | z_1 determines one of the best K classes |
| continuous tokens, limited to `latent` | linear: probabilistic PCA or factor analysis |
| token ids, without a latent | the marginals |

If tokens are given, they are further arguments of the decoder (see `given`), and its oracle is that
of the law of the other tokens given them, row by row.
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
    """A map from a latent to the law of every token."""

    def __call__(self, z: Tensor, /, *given: Tensor) -> TokenLaw:
        """Decode.

        Args:
            z: Latents of standard normals, (n, q).
            given: Nothing, or, if tokens are given, two tensors: tokens (n, N, d) or (n, N), in
                which the values of unknown tokens mean nothing, and known (n, N) bool.

        Returns:
            The (n, N) laws of the tokens, which are independent given z; the laws of given tokens
            are ignored.
        """


@runtime_checkable
class AutoEncoder(Protocol):
    """A decoder with an encoder, which proposes latents for a sequence."""

    def __call__(self, z: Tensor, /, *given: Tensor) -> TokenLaw:
        """Decode, as a `Decoder` does."""

    def encode(self, x: Tensor, rng: Randomness, /, *known: Tensor) -> tuple[Tensor, Tensor]:
        """Propose a latent for every sequence.

        Args:
            x: Sequences, (n, N, d), or (n, N) integers.
            rng: Source of every random number.
            known: Nothing, or, if tokens are given, which of them are, (n, N) bool.

        Returns:
            The first r numbers of z, (n, r), where r <= q and the decoder ignores all others; and
            their log-density log q(z | x) (nats), (n,).
        """


@dataclass(frozen=True)
class DecoderSignature(Signature[Decoder]):
    """(z) -> one law per token, or (z, tokens, known) -> one law per token where tokens are given.

    Attributes:
        latent: Number q of latent numbers of a linear decoder, 0 for no latent; None for a decoder
            that need not be linear.
        noise: Noise of a linear decoder: `shared`, one variance for all numbers of a sequence, or
            `token`, one variance for each.
        classes: Number K of different answers that the decoder may give, or None for no limit.
    """

    latent: int | None = None
    noise: Noise = "token"
    classes: int | None = None

    def oracle(self, target: Target) -> Decoder:
        """The decoder that maximises the likelihood of the target, with its exact posterior.

        Raises:
            UnfitError: No such decoder is known for the target.
        """
        return ConditionedDecoder.of(target, self._oracle_of)

    def _oracle_of(self, target: Target) -> DecoderOracle:
        """The oracle without given tokens, for a target whose rows may have different laws."""
        if self.latent is not None:
            if self.latent == 0 and not isinstance(target, ContinuousTarget):
                return MarginalDecoder(target)
            continuous = require_continuous(target, "a linear decoder")
            return linear_decoder(continuous, self.latent, self.noise)
        if self.classes is not None:
            return ComponentDecoder(best_classes(target, self.classes))
        return unlimited_decoder(target)

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The arguments, with the same value for every unknown token."""
        return hide_given(shown, spec)

    def wrap(self, network: Decoder, wrapper: Wrapper) -> Decoder:
        """The network with a wrapper around it; the result has `encode` if the network has it."""
        if isinstance(network, AutoEncoder):
            return _WrappedAutoEncoder(network, wrapper)
        return super().wrap(network, wrapper)

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)


class _WrappedAutoEncoder(Wrapped):
    """A decoder and its encoder with a wrapper around them."""

    def encode(self, x: Tensor, rng: Randomness, *known: Tensor) -> tuple[Tensor, Tensor]:
        """A latent for each sequence, (n, r), and its log-density (nats), (n,)."""
        return self._wrapper.encode(self._network, x, rng, *known)
