"""Laws of Jacobi and Jacobi-Gauss-Seidel iterations of an autoregressive model, on a grid of noise.

Token i is updated to the value whose interval of cumulative probabilities of p(x_i | x_<i) contains
u_i, and u_i stays the same in all iterations. Where all these probabilities are multiples of 1/m,
nothing changes while u_i stays within a cell of width 1/m, so that the law is that of the m^F
middles of the cells, each as likely as the others. All is exact: cumulative probabilities are
whole numbers, and the iterations are run once for every point of the grid.

Source: Song, Meng, Liao & Ermon 2021, https://arxiv.org/abs/2002.03629, algorithms 1 and 4.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Prefix = tuple[int, ...]
Counts = Callable[[Prefix], Sequence[int]]


def updated(x: list[int], counts: Counts, cell: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """The tokens after one parallel update of some of them, each from what stood before it.

    Args:
        x: The tokens.
        counts: Function from a prefix to the whole numbers m p(v | prefix) of the next token.
        cell: The cell of each token's noise, 0..m-1.
        tokens: The tokens that are updated.
    """
    after = list(x)
    for i in tokens:
        reached = 0
        for value, count in enumerate(counts(tuple(x[:i]))):
            reached += count
            if cell[i] < reached:
                after[i] = value
                break
    return after


def solved(
    guess: Sequence[int], counts: Counts, cell: Sequence[int], free: Sequence[int], k: int, b: int
) -> Prefix:
    """The tokens after k iterations with blocks of b free tokens, which are updated in turn."""
    x = list(guess)
    for _ in range(k):
        for r in range(b):
            x = updated(x, counts, cell, free[r::b])
    return tuple(x)


def law_of_iterations(
    counts: Counts,
    m: int,
    shape: Sequence[int],
    guess: Sequence[int],
    k: int,
    b: int = 1,
    given: Prefix = (),
) -> Array:
    """The law of the sequences after k iterations, (V, .., V), by every cell of the noise.

    Args:
        counts: Function from a prefix to the whole numbers m p(v | prefix) of the next token.
        m: Number of cells of each token's noise.
        shape: (V, .., V).
        guess: Value of every token at the start, with the given tokens in place.
        k: Number of iterations.
        b: Size of a block.
        given: Indices of tokens that are never updated.
    """
    free = [i for i in range(len(shape)) if i not in given]
    hits = np.zeros(shape, dtype=np.int64)
    for cells in itertools.product(range(m), repeat=len(free)):
        cell = [0] * len(shape)
        for i, c in zip(free, cells, strict=True):
            cell[i] = c
        hits[solved(guess, counts, cell, free, k, b)] += 1
    law: Array = hits / m ** len(free)
    return law


def table_of(counts: Counts, m: int, shape: Sequence[int]) -> Array:
    """The joint table of an autoregressive model, by the chain rule in fractions."""
    p = np.zeros(shape)
    for x in itertools.product(*(range(size) for size in shape)):
        mass = Fraction(1)
        for i, value in enumerate(x):
            mass *= Fraction(counts(x[:i])[value], m)
        p[x] = float(mass)
    return p
