"""The sample distance: the energy distance between draws of a fitted procedure and of the target.

It is 2 E|X - Y| - E|X - X'| - E|Y - Y'| for draws X of the procedure and Y of the target, and its
gradient goes through the whole procedure. It needs no oracle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.fitting.generators import Relaxed
from capcheck.fitting.networks import as_network
from capcheck.fitting.objectives import Batch, Objective
from capcheck.networks.signatures import (
    BijectionSignature,
    ConsistencySignature,
    DenoiserSignature,
    FlowMapSignature,
    GeneratorSignature,
)
from capcheck.networks.signatures.generator import normals_for
from capcheck.networks.signatures.given import given_arguments
from capcheck.procedures.procedure import AnyProcedure

__all__ = [
    "DIFFERENTIABLE",
    "EQUAL",
    "FEWEST",
    "PRODUCTS",
    "SampleDistance",
    "energy_distance",
]

FEWEST = 64  # fewest draws of a batch
PRODUCTS = 2.5e8  # most products of two numbers for the distances of a batch
EQUAL = 1e-12  # squared distance, as a share of the longest row's square, of rows that are equal

DIFFERENTIABLE = (
    DenoiserSignature,
    FlowMapSignature,
    ConsistencySignature,
    GeneratorSignature,
    BijectionSignature,
)


def energy_distance(x: Tensor, y: Tensor, *, one_hot: bool = False) -> Tensor:
    """The U-statistic of 2 E|X - Y| - E|X - X'| - E|Y - Y'| from rows x (n, D) and y (m, D).

    Args:
        x: Rows, (n, D).
        y: Rows, (m, D).
        one_hot: Whether the rows consist of one-hot vectors, whose products are whole numbers that
            need no double precision.
    """
    dtype = x.dtype
    if one_hot:
        x, y, smallest = x.float(), y.float(), 0.5
    else:
        x, y = x.double(), y.double()
        smallest = EQUAL * float(max(z.detach().square().sum(1).amax() for z in (x, y)))

    def distances(a: Tensor, b: Tensor) -> Tensor:
        lengths = a.square().sum(1)[:, None] + b.square().sum(1)
        squared = torch.addmm(lengths, a, b.T, alpha=-2)
        # Of equal rows the products leave rounding noise, whose root has no useful gradient.
        apart = squared > smallest
        return torch.where(apart, squared, 1).sqrt() * apart

    with torch.autocast(x.device.type, enabled=False):  # products of bfloat16 would be too coarse
        within = [distances(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
        return (2 * distances(x, y).mean() - within[0] - within[1]).to(dtype)


@dataclass(kw_only=True, eq=False)
class SampleDistance(Objective):
    """The energy distance between the output of a procedure with the module and target draws.

    Attributes:
        procedure: Procedure, whose network is replaced by the module.
        budget: Budget at which the procedure is run.
    """

    large = 0
    procedure: AnyProcedure
    budget: Budget
    _relaxed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Raise InputError if the procedure cannot be differentiated."""
        self.target = self.procedure.coordinates.target
        signature = self.procedure.probe.signature
        tokens = self.target.spec.kind
        generates = isinstance(signature, GeneratorSignature)
        if not isinstance(signature, DIFFERENTIABLE) or (tokens != "continuous" and not generates):
            raise InputError(
                f"objective end_to_end needs a procedure that can be differentiated, got "
                f"{self.procedure.probe.family} on {tokens} tokens; leave it out."
            )
        self._relaxed = tokens == "categorical"

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Draw sequences `x` of the target, fewer than n if they are of very many numbers."""
        spec = self.target.spec
        most = max(FEWEST, math.isqrt(int(PRODUCTS / (spec.tokens * spec.dim))))
        return {"x": self.target.sample(min(n, most), rng.stream("target"))}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """The energy distance in units of the tokens' deviations, or of one-hot vectors."""
        spec, x = self.target.spec, batch["x"]
        if self._relaxed:
            y = self._one_hot(module, len(x), rng)
            x = nn.functional.one_hot(x.long(), spec.dim).to(y)
            return energy_distance(y.flatten(1), x.flatten(1), one_hot=True)
        network: Any = as_network(module, spec.mean.dtype)
        *_, state = self.procedure.with_network(network).run_for_gradient(self.budget, len(x), rng)
        if not bool(state.placed.all()):
            raise InputError(
                f"budgets must place every token for objective end_to_end, got {self.budget}; "
                f"give length {spec.tokens}."
            )
        deviation = torch.where(spec.variance > 0, spec.variance, 1).sqrt()
        made, own = ((v.to(deviation) / deviation).flatten(1) for v in (state.tokens, x))
        return energy_distance(made, own)

    def _one_hot(self, module: nn.Module, n: int, rng: Randomness) -> Tensor:
        """One-hot vectors (n, N, V) from a generator of token ids, with a gradient."""
        if not isinstance(module, Relaxed):
            raise InputError(
                "network of token ids must have a method relaxed(z), which returns one-hot vectors "
                f"with a gradient, got {type(module).__name__}; add one."
            )
        spec = self.procedure.spec
        start = self.procedure.start(n, rng)
        z = normals_for(spec, n, rng).to(next(module.parameters()))
        return module.relaxed(z, *given_arguments(start.tokens, spec))
