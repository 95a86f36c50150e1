"""The law of a Markov chain on all V^N sequences whose steps draw all tokens independently.

A step from z to x has the probability prod_i p_i(x_i | z), so that the law after it is

    m'(x) = sum_z m(z) prod_i p_i(x_i | z),

a product of a vector and a matrix of V^N x V^N numbers that is made in tiles of rows. Sequences are
in the order of `capcheck.targets.categorical.sequence_law`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.core.tiles import slices
from capcheck.targets.categorical.sequence_law import numbers, sequences

__all__ = ["STATES", "TILE", "SequenceMass", "has_few_sequences"]

STATES = 1 << 11  # most sequences V^N of an exact law: tens of milliseconds a step
TILE = 1 << 21  # most numbers of the matrix that are held at once: 16 MiB


def has_few_sequences(spec: SequenceSpec) -> bool:
    """Whether the sequences V^N are at most `STATES`."""
    return spec.tokens * math.log(spec.dim) <= math.log(STATES) + 1e-9


class SequenceMass:
    """A mass on every sequence; the given tokens of a sequence have mass 1 whatever their values.

    At the start the free tokens are uniform.

    Args:
        spec: Spec of the sequences, at most `STATES` of them.
    """

    def __init__(self, spec: SequenceSpec) -> None:
        self._V, N, device = spec.dim, spec.tokens, spec.mean.device
        self.sequences = torch.cat(list(sequences(spec.dim, N))).to(device)  # (V^N, N)
        share = float(spec.dim) ** -len(spec.free)
        self._mass = torch.full((len(self.sequences),), share, dtype=torch.float64, device=device)

    def step(self, laws: Callable[[Tensor], Tensor]) -> None:
        """Move the mass on by one step.

        Args:
            laws: Function of sequences z (r, N) that returns the probabilities p_i(. | z) of all
                tokens, (r, N, V).
        """
        after = torch.zeros_like(self._mass)
        for rows in slices(len(after), max(1, TILE // len(after))):
            p = laws(self.sequences[rows]).to(after)
            joint = self._mass[rows, None]
            for i in range(p.shape[1]):
                joint = (joint[:, :, None] * p[:, i, None]).flatten(1)  # (r, V^(i+1))
            after += joint.sum(0)
        self._mass = after

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (nats) of the free tokens of x (n, N) given its given tokens, (n,)."""
        return self._mass.log()[numbers(x, self._V)]
