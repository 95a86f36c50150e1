"""A sequence spec states the number, kind and size of the tokens that a procedure produces.

A probe sees the spec and never the target; only oracles see the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

__all__ = ["Kind", "SequenceSpec"]

Kind = Literal["continuous", "categorical"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceSpec:
    """The specification of sequences x = (x_1..x_N) with one kind of token.

    Attributes:
        tokens: N, number of tokens, at least 1.
        kind: `continuous` (vectors in R^dim) or `categorical` (integers 0..dim-1).
        dim: Dimension d of a continuous token, or size V of the vocabulary.
        mean: (N, dim), mean of each token (of its one-hot vector if categorical).
        variance: (N, dim), variance of each coordinate, in squared token units.
        grid: (rows, columns) whose product is N, or None for a plain sequence.
        scored: Indices of the tokens that count in the divergences, or None if all count; the other
            tokens are auxiliary.
        narrowest: Standard deviation of the target's narrowest component along its narrowest axis,
            in token units, or None if the target has no components. Samplers choose their step
            sizes by it.
        places: (row, column) of each token if the tokens are a part of a larger grid, or None.
        given: Indices of the tokens that are known from the start, in rising order; a procedure
            draws the others.
        estimated_from: Number of draws over which `mean` and `variance` are means, or None if they
            are exact.
    """

    tokens: int
    kind: Kind
    dim: int
    mean: Tensor
    variance: Tensor
    grid: tuple[int, int] | None = None
    scored: tuple[int, ...] | None = None
    narrowest: float | None = None
    places: tuple[tuple[int, int], ...] | None = None
    given: tuple[int, ...] = ()
    estimated_from: int | None = None

    @property
    def free(self) -> tuple[int, ...]:
        """Indices of the tokens that a procedure draws, in rising order; lengths count these."""
        return tuple(i for i in range(self.tokens) if i not in self.given)

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of one token in a tensor of sequences: (d,), or () for an integer."""
        return (self.dim,) if self.kind == "continuous" else ()

    @property
    def layout(self) -> tuple[tuple[int, int], ...]:
        """(row, column) of each token; without a grid, on the most square one (8 = 2 x 4)."""
        if self.places is not None:
            return self.places
        if self.grid is not None:
            columns = self.grid[1]
        else:
            rows = next(r for r in range(math.isqrt(self.tokens), 0, -1) if self.tokens % r == 0)
            columns = self.tokens // rows
        return tuple(divmod(i, columns) for i in range(self.tokens))

    @property
    def smallest_variance(self) -> float:
        """Variance of the narrowest component, or if unknown of the narrowest coordinate."""
        return float(self.variance.min()) if self.narrowest is None else self.narrowest**2

    @property
    def counted(self) -> tuple[int, ...]:
        """Indices of the tokens that count in the divergences."""
        return tuple(range(self.tokens)) if self.scored is None else self.scored

    @property
    def spread(self) -> float:
        """Root mean square distance of a sequence from the mean sequence, sqrt(tr Cov).

        Only counted tokens contribute. For categorical tokens the square of the spread is the mean
        Hamming distance of two independent sequences.
        """
        return float(self.variance[list(self.counted)].sum().sqrt())
