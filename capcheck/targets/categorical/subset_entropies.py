"""Mean conditional entropies of a law that lists its sequences, by the entropy of every subset.

With H(m) the mean over sets S of m tokens of the entropy of X_S, the mean over S and a token i that
is not in S of H(X_i | X_S) is h(m) = H(m + 1) - H(m).
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["subset_entropies"]


def subset_entropies(sequences: np.ndarray, p: np.ndarray) -> np.ndarray:
    """h(m) for m = 0..N-1, (N,) in nats; takes 2^N sorts of the sequences.

    Args:
        sequences: Distinct sequences, (K, N) integers.
        p: Their probabilities, (K,).
    """
    N = sequences.shape[1]
    totals = np.zeros(N + 1)

    def visit(token: int, size: int, code: np.ndarray) -> None:
        """Add the entropies of all sets that hold `size` of the tokens before `token`."""
        if token == N:
            mass = np.bincount(code, weights=p)
            mass = mass[mass > 0]
            totals[size] -= mass @ np.log(mass)
            return
        visit(token + 1, size, code)
        column = sequences[:, token]
        _, both = np.unique(code * (int(column.max()) + 1) + column, return_inverse=True)
        visit(token + 1, size + 1, both)

    visit(0, 0, np.zeros(len(sequences), dtype=np.int64))
    mean = totals / [math.comb(N, m) for m in range(N + 1)]
    return np.diff(mean)
