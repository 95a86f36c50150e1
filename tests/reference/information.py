"""Entropies of joint laws, and the informations that procedures lose: sums of entropies, in nats.

H is the entropy of a set of tokens, by enumeration of a table or by the determinant of a
covariance. With it

    I(a; b | c) = H(a, c) + H(b, c) - H(a, b, c) - H(c),
    TC(b | c) = sum_i H(b_i | c) - H(b | c).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

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
