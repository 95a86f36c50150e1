"""Schedules of parallel decoding: how many tokens are known before each of K steps.

In uniformly random order a schedule 0 = m_0 < m_1 < .. < m_K = N costs sum_j (m_{j+1} - m_j) h(m_j)
less the entropy of a sequence, with the information curve h (`capcheck.exact.information_curve`).
The best schedule of K steps follows from those of K - 1 steps by dynamic programming,

    C_K(b) = min over a < b of C_{K-1}(a) + (b - a) h(a).

Concave curves, such as that of a parity constraint, want their last tokens one by one; convex ones,
such as those of Markov chains, want small steps first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from capcheck.procedures.orders import commit_schedule

__all__ = ["best_schedules", "cosine_schedule"]


def cosine_schedule(tokens: int, calls: int) -> list[int]:
    """The schedule of `maskgit`, with at least one token in every step.

    Args:
        tokens: N, number of tokens.
        calls: K, number of steps, 1 to N.

    Example:
        >>> cosine_schedule(8, 4)
        [0, 1, 3, 5, 8]
    """
    return commit_schedule(tokens, rounds=calls)


def best_schedules(
    tokens: int, sizes: Sequence[int], values: np.ndarray
) -> Iterator[tuple[float, list[int]]]:
    """The best schedules of 1, 2, .. steps that begin their steps at given sizes.

    Args:
        tokens: N, number of tokens.
        sizes: Numbers m of known tokens, rising from 0.
        values: The curve h(m) at these sizes, (M,) in nats.

    Yields:
        sum_j (m_{j+1} - m_j) h(m_j) in nats, and the schedule, for each number of steps up to M.
    """
    m = np.asarray(sizes, dtype=np.float64)  # (M,)
    slope = np.asarray(values, dtype=np.float64)
    M = len(m)
    ends = np.append(m[1:], tokens)  # a step may end at any later size, or at N
    later = ends[None, :] > m[:, None]  # (M, M): from size k to end e
    step = np.where(later, (ends[None, :] - m[:, None]) * slope[:, None], np.inf)
    best = np.where(np.arange(M) == 0, 0.0, np.inf)  # cost of reaching each size in K - 1 steps
    came: list[np.ndarray] = []
    for _ in range(M):
        reached = best[:, None] + step  # (M, M)
        origin = reached.argmin(0)
        cost = reached[origin, np.arange(M)]
        came.append(origin)
        yield float(cost[-1]), _schedule(came, sizes, tokens)
        best = np.append(np.inf, cost[:-1])  # end e is size e + 1


def _schedule(came: Sequence[np.ndarray], sizes: Sequence[int], tokens: int) -> list[int]:
    """The schedule that reached N, from the size that each step came from."""
    place, found = len(sizes) - 1, [tokens]
    for origin in reversed(came):
        k = int(origin[place])
        found.append(int(sizes[k]))
        place = k - 1
    return found[::-1]
