"""A normalising flow generates x = f(z) from normals z by an invertible map with a known density.

Source: Rezende & Mohamed 2015, "Variational Inference with Normalizing Flows",
https://arxiv.org/abs/1505.05770
Signature: bijection z -> x with log q(x) = log N(f^-1(x)) - log |det df/dz|; given tokens are
further arguments, and the normals of the other tokens are mapped.
Assumption: none with triangular layers, which can represent any triangular map; a single affine
layer generates a Gaussian.
Budgets: both are ignored, since one call places the whole sequence.
The oracle is the triangular map x_i = F_i^-1(Phi(z_i) | x_<i), whose density is the target's, or,
for an affine layer, the affine map with the target's mean and covariance.
KL: exact, by the change of variables that the network knows.
Known: a triangular flow is exact; one affine layer leaves the negentropy, which is
1/2 ln(2 pi e Var) - h(p) in one dimension, and 0 for a Gaussian.
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
from capcheck.networks.signatures import Bijection, BijectionSignature, Layer, TokenPredictor
from capcheck.networks.signatures.generator import normals_for
from capcheck.networks.signatures.given import given_arguments
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row

__all__ = ["Flow"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Flow(Probe[Bijection]):
    """One call of an invertible map."""

    family: ClassVar[str] = "flow"
    row: ClassVar[Row] = "neither"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset()
    near_oracle: ClassVar[bool] = True

    layer: Annotated[
        Layer, Field(description="kind of map: any triangular map, or one affine layer")
    ] = "triangular"

    @property
    def signature(self) -> BijectionSignature:
        """A bijection from normals to a sequence."""
        return BijectionSignature(self.layer)

    def run(
        self, network: Bijection, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Make the whole sequence in one iteration."""
        yield start
        x = network(normals_for(spec, start.n, rng), *given_arguments(start.tokens, spec))
        yield start.write(x, ~start.placed)

    def log_density(
        self,
        network: Bijection,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """The log-density that the map states."""
        if not isinstance(network, Bijection):
            return Unavailable(reason="the network has no method log_prob(x), as a flow's has")
        known = given_arguments(x, spec)[1:]
        return LogDensity(values=network.log_prob(x, *known), method="change of variables")

    def suspects(self) -> tuple[Suspect, ...]:
        """The affine layer, if the map is one; the cure is a triangular map."""
        if self.layer == "triangular":
            return ()
        free = dataclasses.replace(self, layer="triangular")
        cure = "triangular layers in place of an affine one"
        return (Suspect(failure="limited emission", cure=cure, probe=free),)

    def limit(
        self, oracle: Bijection, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """The triangular oracle's image of the same normals; None for an affine layer."""
        if self.layer != "triangular":
            return None
        return oracle(normals_for(spec, start.n, rng), *given_arguments(start.tokens, spec))
