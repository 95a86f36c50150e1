"""A GAN generates a sequence by one call of a generator, x = g(z) with z ~ N(0, I).

Source: Goodfellow et al. 2014, "Generative Adversarial Nets", https://arxiv.org/abs/1406.2661; for
a bounded slope Arjovsky et al. 2017, "Wasserstein GAN", https://arxiv.org/abs/1701.07875
Signature: generator z -> x, with one normal per coordinate of a continuous token and one per token
id; given tokens are further arguments, and the generator makes the others.
Assumption: none without a bound on the slope; with a bound, the target has no regions of small
probability between regions of large probability, where the map to it would be steep.
Budgets: both are ignored, since one call places the whole sequence.
The oracle is the triangular map x_i = F_i^-1(Phi(z_i) | x_<i). A bound on the slope, in token units
per standard normal, needs a target of one number, for which the nearest map in W2 is known.
KL: exact if the generator is invertible and states its density, as the oracle does; otherwise
bounded from below by the draws.
Known: 1/2 N(-m, s^2) + 1/2 N(m, s^2) needs a slope of at least s exp(m^2 / (2 s^2)); between atoms
at -m and m a slope of L leaves W1 >= m (2 Phi(m/L) - 1) - 2 L (phi(0) - phi(m/L)) and total
variation >= Phi(2 m/L) - 1/2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.networks.oracles.rosenblatt import Rosenblatt
from capcheck.networks.signatures import (
    Bijection,
    Generator,
    GeneratorSignature,
    TokenPredictor,
)
from capcheck.networks.signatures.generator import normals_for
from capcheck.networks.signatures.given import given_arguments
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row

__all__ = ["GAN"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class GAN(Probe[Generator]):
    """One call of a generator."""

    family: ClassVar[str] = "gan"
    row: ClassVar[Row] = "neither"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset()
    near_oracle: ClassVar[bool] = True

    lipschitz: Annotated[
        float | None,
        Field(
            gt=0, allow_inf_nan=False, description="bound on the generator's slope, in token units"
        ),
    ] = None

    @property
    def signature(self) -> GeneratorSignature:
        """A generator from normals to a sequence."""
        return GeneratorSignature(self.lipschitz)

    def run(
        self, network: Generator, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Make the whole sequence in one iteration."""
        yield start
        x = network(normals_for(spec, start.n, rng), *given_arguments(start.tokens, spec))
        yield start.write(x, ~start.placed)

    def log_density(
        self,
        network: Generator,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """The log-density that the generator states, if it is one-to-one."""
        if not isinstance(network, Bijection):
            return Unavailable(reason="the density of what a generator makes needs its inverse")
        known = given_arguments(x, spec)[1:]
        return LogDensity(values=network.log_prob(x, *known), method="change of variables")

    def suspects(self) -> tuple[Suspect, ...]:
        """The bound on the slope, if there is one; the cure is to remove the bound."""
        if self.lipschitz is None:
            return ()
        free = dataclasses.replace(self, lipschitz=None)
        cure = "no bound on the generator's slope"
        return (Suspect(failure="limited emission", cure=cure, probe=free),)

    def limit(
        self, oracle: Generator, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """The oracle's image of the same normals; None if the bound on the slope limits it."""
        if not isinstance(oracle, Rosenblatt):
            return None
        return oracle(normals_for(spec, start.n, rng), *given_arguments(start.tokens, spec))
