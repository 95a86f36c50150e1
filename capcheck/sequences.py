"""What a procedure may know about the sequences it makes: number, kind and size of the tokens.

A probe sees this spec and never the target: only oracles see the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kind = Literal["continuous", "categorical"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceSpec:
    """Sequences x = (x_1..x_N) of one kind of token.

    Attributes:
        tokens: N, at least 1.
        kind: `continuous` (vectors in R^dim) or `categorical` (integers 0..dim-1).
        dim: d of a continuous token, or the size V of the vocabulary.
        mean: (N, dim), mean of each token (of its one-hot vector if categorical).
        variance: (N, dim), variance of each coordinate, in squared units of the tokens.
        grid: (rows, columns) whose product is N, or None for a plain sequence.
        scored: Tokens that count in the divergences, if not all do: the others are auxiliary.
    """

    tokens: int
    kind: Kind
    dim: int
    mean: Tensor
    variance: Tensor
    grid: tuple[int, int] | None = None
    scored: tuple[int, ...] | None = None

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of one token in a tensor of sequences: (d,), or () for an integer."""
        return (self.dim,) if self.kind == "continuous" else ()

    @property
    def counted(self) -> tuple[int, ...]:
        """The tokens that count in the divergences."""
        return tuple(range(self.tokens)) if self.scored is None else self.scored

    @property
    def spread(self) -> float:
        """Root mean square distance of a sequence from the mean sequence, sqrt(tr Cov).

        Over the counted tokens. Its square is the mean Hamming distance of two independent
        sequences where tokens are categorical.
        """
        return float(self.variance[list(self.counted)].sum().sqrt())
