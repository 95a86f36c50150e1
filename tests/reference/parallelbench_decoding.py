"""Closed forms of parallel decoding for the list tasks of ParallelBench, derived by hand.

The tasks are three laws of N tokens: `copy` repeats one of V equally likely symbols, `shuffle` is a
uniform permutation of N symbols, and `replacement` is 0 but for a 1 at a uniform place. In each of
them all masked tokens have the same law up to the names of the values, so that they tie in every
order, and which of them a step places does not matter. A step that places c tokens at once costs

    KL of the step = sum over the c tokens of H(x_i | known) - H(the c tokens | known),

the mean over known tokens that follow the target; the costs of the steps add up to the KL.

Task and its one-step accuracy: Kang et al. 2025, "ParallelBench",
https://arxiv.org/abs/2510.04767, section 3 (there, the copied value and the replaced list are given
by a prompt; here they are random, and the replacement has one new value).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A decoder's cost and quality.

    Attributes:
        calls: Expected number of calls of the network; None where it is not derived, since after
            a step that left the target's sequences the next steps place other numbers of tokens.
        kl: KL(target || decoder), nats.
        valid: Probability that a decoded sequence is one of the target's.
    """

    calls: float | None
    kl: float
    valid: float


def copy_table(N: int, V: int) -> Array:
    """One of V symbols, N times: (V, .., V)."""
    p = np.zeros((V,) * N)
    for v in range(V):
        p[(v,) * N] = 1 / V
    return p


def shuffle_table(N: int) -> Array:
    """Permutations of N symbols: (N, .., N)."""
    p = np.zeros((N,) * N)
    for order in itertools.permutations(range(N)):
        p[order] = 1 / math.factorial(N)
    return p


def replacement_table(N: int) -> Array:
    """One 1 among N bits: (2, .., 2)."""
    p = np.zeros((2,) * N)
    for i in range(N):
        p[tuple(int(j == i) for j in range(N))] = 1 / N
    return p


# One call for all tokens: they are drawn from the marginals.


def copy_at_once(N: int, V: int) -> Outcome:
    """Each of V constant sequences has probability V^-N in place of 1 / V."""
    return Outcome(calls=1, kl=(N - 1) * math.log(V), valid=V ** (1.0 - N))


def shuffle_at_once(N: int) -> Outcome:
    """Each of N! permutations has probability N^-N in place of 1 / N!."""
    kl = N * math.log(N) - math.log(math.factorial(N))
    return Outcome(calls=1, kl=kl, valid=math.factorial(N) / N**N)


def replacement_at_once(N: int) -> Outcome:
    """Each of N sequences has probability 1/N (1 - 1/N)^(N-1) in place of 1/N."""
    return Outcome(calls=1, kl=(N - 1) * math.log(N / (N - 1)), valid=(1 - 1 / N) ** (N - 1))


# Threshold t: all masked tokens with max_v p(v) >= t, at least one.


def copy_by_threshold(N: int, V: int, t: float) -> Outcome:
    """A first token has max p = 1/V; given it, all others are certain and placed in a second call.

    For t <= 1/V all tokens are placed in the first call.
    """
    if t <= 1 / V or N == 1:
        return copy_at_once(N, V)
    return Outcome(calls=2, kl=0, valid=1)


def shuffle_by_threshold(N: int, t: float) -> Outcome:
    """With r symbols left, each masked token is uniform over them, and max p = 1/r.

    Tokens are placed one by one while 1/r < t, which costs nothing, and the last r* = floor(1/t)
    at once, or all N of them if that is more.
    """
    last = max(1, min(N, math.floor(1 / t + 1e-9)))
    return shuffle_in_steps(N, [*[1] * (N - last), last])


def replacement_by_threshold(N: int, t: float) -> Outcome:
    """With r tokens masked and no 1 among the others, P(1) = 1/r, and max p = 1 - 1/r for r > 1.

    This falls with r. So for t <= 1 - 1/N all tokens are placed in the first call, and for larger t
    one by one, until the 1 is known, or the last token is the only one left. If the k-th token to
    be placed is the 1, that are k calls and one more for the rest, or N calls where k = N:

        mean calls = [sum_{k=1..N-1} (k + 1) + N] / N = [(N - 1) (N + 2) / 2 + N] / N.

    (Two tokens have max p = 1/2 = 1 - 1/N, so that the formula holds from N = 2 on.)
    """
    if t <= 1 - 1 / N + 1e-9:
        return replacement_at_once(N)
    return Outcome(calls=((N - 1) * (N + 2) / 2 + N) / N, kl=0, valid=1)


# Steps of given sizes, and the sizes that the other rules make of a shuffle.


def shuffle_in_steps(N: int, sizes: list[int]) -> Outcome:
    """A step that places c of r tokens: c ln r - ln(r! / (r - c)!) nats, all different with q.

    The c tokens are c symbols without repetition, of which there are r! / (r - c)!, and are drawn
    from r^c. So they differ with probability q = r! / ((r - c)! r^c), and cost -ln q.
    """
    kl, valid, calls, r = 0.0, 1.0, 0, N
    derived = True
    for c in sizes:
        derived = derived and (r == N - calls or r <= 1)  # no symbol can be repeated before
        q = math.perm(r, c) / r**c
        kl, valid, calls, r = kl - math.log(q), valid * q, calls + 1, r - c
    assert r == 0
    return Outcome(calls=calls if derived else None, kl=kl, valid=valid)


def shuffle_sizes(N: int, most: Callable[[int], float]) -> list[int]:
    """The sizes of the steps if `most(r)` tokens may be placed of r that are masked."""
    sizes: list[int] = []
    while sum(sizes) < N:
        r = N - sum(sizes)
        sizes.append(max(1, math.floor(min(r, most(r)) + 1e-9)))
    return sizes


def shuffle_by_entropy_bound(N: int, bound: float) -> Outcome:
    """c tokens have (c - 1) ln r nats of entropy beside the largest: c <= 1 + bound / ln r."""
    return shuffle_in_steps(
        N, shuffle_sizes(N, lambda r: 1 + bound / math.log(r) if r > 1 else math.inf)
    )


def shuffle_by_factor(N: int, f: float) -> Outcome:
    """(c + 1) (1 - 1/r) < f: c is the largest whole number below f r / (r - 1) - 1."""
    return shuffle_in_steps(
        N, shuffle_sizes(N, lambda r: math.ceil(f * r / (r - 1) - 1 - 1e-9) - 1 if r > 1 else 1)
    )


def copy_by_entropy_bound(N: int, V: int, bound: float) -> Outcome:
    """c = 1 + floor(bound / ln V) tokens at first, which cost (c - 1) ln V; then all, if any."""
    return _copy_after(N, V, 1 + math.floor(bound / math.log(V) + 1e-9))


def copy_by_factor(N: int, V: int, f: float) -> Outcome:
    """The largest c with (c + 1) (1 - 1/V) < f at first, at least 1; then all, if any."""
    return _copy_after(N, V, max(1, math.ceil(f / (1 - 1 / V) - 1 - 1e-9) - 1))


def _copy_after(N: int, V: int, first: int) -> Outcome:
    """`first` tokens that are independent, and then all others.

    If the first ones differ, the sequence is no copy, whatever comes next.
    """
    c = min(first, N)
    calls = 1 if c == N else 2 if c == 1 or N - c == 1 else None
    return Outcome(calls=calls, kl=(c - 1) * math.log(V), valid=V ** (1.0 - c))


# Greedy values by threshold: the smallest of equally likely values, and tokens from the left.


def greedy_copy(N: int) -> tuple[int, ...]:
    """Symbol 0 throughout, at once or one by one: a copy."""
    return (0,) * N


def greedy_shuffle(N: int, t: float) -> tuple[int, ...]:
    """0, 1, 2, .. while tokens are placed one by one, then the smallest symbol left for all others.

    It is a permutation if t > 1/2, where no two tokens are placed at once.
    """
    last = max(1, min(N, math.floor(1 / t + 1e-9)))
    return (*range(N - last), *[N - last] * last)


def greedy_replacement(N: int, t: float) -> tuple[int, ...]:
    """0 throughout if all tokens are placed at once; otherwise the 1 comes last, as it must."""
    return (0,) * N if t <= 1 - 1 / N + 1e-9 else (*[0] * (N - 1), 1)
