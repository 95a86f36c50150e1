"""Entropies of joint laws, and the informations that procedures lose: sums of entropies, in nats.

H is the entropy of a set of tokens, by enumeration of a table or by the determinant of a
covariance. With it

    I(a; b | c) = H(a, c) + H(b, c) - H(a, b, c) - H(c),
    TC(b | c) = sum_i H(b_i | c) - H(b | c),
    h(m) = mean of H(i | S) over all sets S of m tokens and all tokens i outside S.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
Entropy = Callable[[Iterable[int]], float]


def of_table(p: Array) -> Entropy:
    """The entropy of tokens of a joint table p(x_1, .., x_N)."""

    def entropy(tokens: Iterable[int]) -> float:
        others = tuple(set(range(p.ndim)) - set(tokens))
        return float(special.entr(p.sum(axis=others)).sum())

    return entropy


def of_gaussian(covariance: Array) -> Entropy:
    """The entropy of coordinates of a Gaussian."""

    def entropy(tokens: Iterable[int]) -> float:
        at = sorted(set(tokens))
        log_det = np.linalg.slogdet(covariance[np.ix_(at, at)])[1] if at else 0.0
        return float(0.5 * (log_det + len(at) * np.log(2 * np.pi * np.e)))

    return entropy


def information(H: Entropy, a: Sequence[int], b: Sequence[int], given: Sequence[int] = ()) -> float:
    """I(a; b | given)."""
    return H([*a, *given]) + H([*b, *given]) - H([*a, *b, *given]) - H(given)


def total_correlation(H: Entropy, block: Sequence[int], given: Sequence[int] = ()) -> float:
    """TC(block | given)."""
    apart = sum(H([i, *given]) - H(given) for i in block)
    return apart - (H([*block, *given]) - H(given))


def of_blocks(H: Entropy, blocks: Sequence[Sequence[int]]) -> float:
    """KL when every block is drawn independently given those before it: sum of TC(block | past)."""
    pasts = itertools.accumulate(blocks, lambda past, block: [*past, *block], initial=list[int]())
    return sum(
        total_correlation(H, block, past) for block, past in zip(blocks, pasts, strict=False)
    )


def remembered(H: Entropy) -> Entropy:
    """The same entropy, which is computed once for every set."""
    of_set = functools.cache(lambda tokens: H(tokens))
    return lambda tokens: of_set(frozenset(tokens))


def information_curve(H: Entropy, tokens: int) -> Array:
    """h(m) for m = 0..N-1, (N,), by all sets of tokens."""
    every = range(tokens)
    return np.array(
        [
            np.mean(
                [
                    H([i, *known]) - H(known)
                    for known in itertools.combinations(every, m)
                    for i in every
                    if i not in known
                ]
            )
            for m in every
        ]
    )


def schedules(tokens: int) -> Iterator[list[int]]:
    """All 2^(N-1) schedules 0 = m_0 < m_1 < .. < m_K = N."""
    for count in range(tokens):
        for between in itertools.combinations(range(1, tokens), count):
            yield [0, *between, tokens]


def mean_over_orders(H: Entropy, schedule: Sequence[int]) -> float:
    """The mean over all N! orders of KL; the steps of the schedule cut an order into blocks."""
    N = schedule[-1]
    cuts = list(itertools.pairwise(schedule))
    orders = itertools.permutations(range(N))
    return float(np.mean([of_blocks(H, [order[a:b] for a, b in cuts]) for order in orders]))
