"""A VAE draws a latent z ~ N(0, I_q), calls a decoder once, and draws all tokens independently.

Source: Kingma & Welling 2014, "Auto-Encoding Variational Bayes", https://arxiv.org/abs/1312.6114;
for the bound on the density Burda et al. 2016, "Importance Weighted Autoencoders",
https://arxiv.org/abs/1509.00519
Signature: decoder z -> one law per token, with an encoder that proposes z given x; given tokens are
further arguments, and the decoder makes the laws of the others.
Assumption: the tokens are independent given the information that the decoder takes from z.
Budgets: both are ignored, since one call places the whole sequence.
The latent is unlimited, or limited to `classes` values, or to `latent` numbers of a linear decoder
with one noise variance (`noise=shared`) or one for each coordinate (`noise=token`). Without a
latent (`latent=0`), continuous tokens are independent Gaussians, and token ids have their
marginals. Classes that are not the target's own components are fitted to its table, or to 20,000
draws if the table is too large. With M draws of the encoder,
log q(x) >= E[log 1/M sum p(x|z) N(z) / q(z|x)], with equality if all weights are equal.
KL: bounded from above by importance weights, and exact if all weights are equal.
Known: an unlimited decoder is exact on mixtures of products, where z determines the component; on a
Gaussian with eigenvalues l_1 >= .. >= l_D, a linear decoder with shared noise leaves
1/2 [(D-q) ln(mean of l_{q+1..D}) - sum_{i>q} ln l_i], and one with noise for each coordinate
(factor analysis) leaves at most that; a decoder without a latent leaves the total correlation, and
one with K classes leaves (N-1) ln(V/K) on a copied symbol, if K divides V.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.exact.hidden_draws import between_bounds
from capcheck.laws import LOG_2PI
from capcheck.networks.signatures import (
    AutoEncoder,
    Decoder,
    DecoderSignature,
    Noise,
    TokenPredictor,
)
from capcheck.networks.signatures.given import given_arguments
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row

__all__ = ["ROUNDINGS", "VAE"]

ROUNDINGS = 1024  # relative difference of log-weights, in machine epsilons, that counts as 0


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class VAE(Probe[Decoder]):
    """One call of a decoder, followed by one draw of every token."""

    family: ClassVar[str] = "vae"
    row: ClassVar[Row] = "neither"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset()
    near_oracle: ClassVar[bool] = True

    classes: Annotated[
        int | None, Field(ge=1, description="number K of classes that the latent may distinguish")
    ] = None
    latent: Annotated[
        int | None, Field(ge=0, description="number q of latent numbers of a linear decoder")
    ] = None
    noise: Annotated[
        Noise, Field(description="noise of a linear decoder: one variance, or one per number")
    ] = "token"
    importance_samples: Annotated[
        int, Field(ge=1, description="number M of encoder draws per sequence, for the density")
    ] = 16

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        """The latent is limited in one way or not at all."""
        if self.latent is not None and self.classes is not None:
            raise ValueError("latent and classes limit the latent in two ways; give one of them")
        return self

    @property
    def signature(self) -> DecoderSignature:
        """A decoder from a latent to the law of every token."""
        return DecoderSignature(latent=self.latent, noise=self.noise, classes=self.classes)

    def run(
        self, network: Decoder, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Make the whole sequence in one iteration."""
        yield start
        law = network(self._prior(spec, start.n, rng), *given_arguments(start.tokens, spec))
        yield start.write(law.sample(rng), ~start.placed)

    def log_density(
        self,
        network: Decoder,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity:
        """The log-density between bounds by M importance weights, exact if all are equal.

        If the first two weights are equal in every row, no further ones are drawn.
        """
        M = self.importance_samples
        found: list[Tensor] = []
        for m in range(M):
            found.append(self._log_weight(network, spec, x, rng))
            log_w = torch.stack(found)  # (m + 1, n)
            if m == 1 and isinstance(network, AutoEncoder) and _alike(log_w):
                method = "the exact posterior of the latent"
                return LogDensity(values=log_w.logsumexp(0) - math.log(2), method=method)
        return between_bounds(log_w, f"{M} importance weights")

    def suspects(self) -> tuple[Suspect, ...]:
        """The limit of the latent, if there is one; the cure is to remove the limit."""
        if self.classes is None and self.latent is None:
            return ()
        free = dataclasses.replace(self, classes=None, latent=None)
        cure = "an unlimited latent and decoder"
        return (Suspect(failure="limited emission", cure=cure, probe=free),)

    def _log_weight(
        self, network: Decoder, spec: SequenceSpec, x: Tensor, rng: Randomness
    ) -> Tensor:
        """One log-weight log p(x | z) + log N(z) - log q(z | x) for each row, nats, (n,)."""
        given = given_arguments(x, spec)
        if isinstance(network, AutoEncoder):
            z, log_proposal = network.encode(x, rng, *given[1:])
        else:
            z = self._prior(spec, len(x), rng)
            log_proposal = _log_normal(z)
        free = list(spec.free)
        log_p = network(z, *given).select(free).log_prob(x[:, free]).sum(1)
        log_w = log_p + _log_normal(z) - log_proposal
        return torch.where(log_w.isnan(), -torch.inf, log_w)

    def _prior(self, spec: SequenceSpec, n: int, rng: Randomness) -> Tensor:
        """Latents from the prior, (n, q); without a limit, q is the size of a sequence."""
        numbers = spec.tokens * (spec.dim if spec.kind == "continuous" else 1)
        q = numbers if self.latent is None else self.latent
        return rng.normal((n, q)).to(spec.mean)


def _alike(log_w: Tensor) -> bool:
    """Whether both log-weights of every row are equal, so that the encoder is the posterior."""
    widest, narrowest = log_w.amax(0), log_w.amin(0)
    rounding = ROUNDINGS * torch.finfo(log_w.dtype).eps * (1 + widest.abs())
    return bool(((widest == narrowest) | (widest - narrowest <= rounding)).all())


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + LOG_2PI).sum(1)
