"""Laws of procedures that draw tokens in groups beside given ones: enumeration, and regression.

A group is the tokens that are drawn at once and the tokens that they are shown. With a network that
knows the law q, and a target p,

    law(x) = p(x_given) prod over groups prod over i of q(x_i | x_shown) . prod of p(x_i | placed),

where the last product is over the tokens that no group holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Group = tuple[Sequence[int], Sequence[int]]


def sequences(p: Array) -> Iterator[tuple[int, ...]]:
    """All sequences of a table (V, .., V)."""
    return itertools.product(*(range(size) for size in p.shape))


def probability(
    p: Array, x: Sequence[int], tokens: Sequence[int], given: Sequence[int] = ()
) -> float:
    """P(x_tokens | x_given) of a table, by sums over it."""
    both, past = (
        float(p[tuple(x[i] if i in at else slice(None) for i in range(p.ndim))].sum())
        for at in ({*tokens, *given}, {*given})
    )
    return both / past


def law_of_groups(p: Array, q: Array, given: Sequence[int], groups: Sequence[Group]) -> Array:
    """The law of every sequence, shaped as p."""
    law, placed = np.zeros_like(p), [*given]
    for tokens, _ in groups:
        placed += tokens
    for x in sequences(p):
        value = probability(p, x, given)
        for tokens, shown in groups:
            value *= float(np.prod([probability(q, x, [i], shown) for i in tokens]))
        rest = [i for i in range(p.ndim) if i not in placed]
        law[x] = value * np.prod([probability(p, x, [i], placed) for i in rest])
    return law


def covariance_of_groups(
    C: Array, Q: Array, given: Sequence[int], groups: Sequence[Group]
) -> Array:
    """The same of centred Gaussians with covariances C and Q: x = A e, its covariance A A^T."""
    N = len(C)
    A, placed = np.zeros((N, 2 * N)), list(given)
    A[np.ix_(given, given)] = np.linalg.cholesky(C[np.ix_(given, given)])

    def draw(tokens: Sequence[int], shown: Sequence[int], law: Array) -> None:
        for i in tokens:
            b = np.linalg.solve(law[np.ix_(shown, shown)], law[shown, i]) if shown else np.zeros(0)
            A[i] = b @ A[shown]
            A[i, N + i] = np.sqrt(law[i, i] - b @ law[shown, i])

    for tokens, shown in groups:
        draw(tokens, list(shown), Q)
        placed += tokens
    draw([i for i in range(N) if i not in placed], list(placed), C)
    covariance: Array = A @ A.T
    return covariance
