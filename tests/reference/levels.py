"""Schedules of levels by their formulas in fractions, and what DDIM along them makes of N(0, S).

A pass is (levels before, levels after, the tokens that are shown). On a Gaussian the denoiser is
linear: with amplitudes a and s, E[x_i | y_J] = S_iJ a (a S_JJ a + s^2)^-1 y_J. Explicit matrices,
token by token; nothing here is shared with the code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from reference.diffusion import PATHS

Array = NDArray[np.float64]
Row = tuple[Fraction, ...]
Pass = tuple[Row, Row, Sequence[int]]


def clip(value: Fraction | int, low: int, high: int) -> Fraction:
    """Into [low, high]."""
    return min(max(Fraction(value), Fraction(low)), Fraction(high))


def pyramid(N: int, k: int, delay: Callable[[int], int]) -> list[Row]:
    """clip(k + delay(i) - m, 0, k) / k for m = 0, 1, ..."""
    last = k + delay(N - 1)
    return [tuple(clip(k + delay(i) - m, 0, k) / k for i in range(N)) for m in range(last + 1)]


def anchors(N: int, k: int) -> list[Row]:
    """AR-Diffusion's line from (n_s, t_s) to (2N, T-1), T = k + 1; halves are rounded to even."""
    T, rows = k + 1, []
    for s in range(N + T - 1, -1, -1):
        n_s, t_s, n_e, t_e = max(N - 1 - s, 0), max(s - (N - 1), 0), 2 * N, T - 1
        line = [Fraction((n - n_e) * (t_s - t_e), n_s - n_e) + t_e for n in range(N)]
        rows.append(tuple(clip(round(t), 0, T - 1) / k for t in line))
    return rows


def rolling_passes(N: int, k: int, W: int, n_clean: int) -> Iterator[Pass]:
    """The first window is filled, then each token in turn is the front of a window."""
    times = [Fraction(k - j, k) for j in range(k + 1)]
    for t, u in itertools.pairwise(times):
        before, after = ([clip(Fraction(w, W) + v, 0, 1) for w in range(N)] for v in (t, u))
        yield tuple(before), tuple(after), range(N)
    for front in range(1, N):
        for t, u in itertools.pairwise(times):
            before, after = (
                [clip((i - front + v) / W, 0, 1) if i >= front else Fraction(0) for i in range(N)]
                for v in (t, u)
            )
            yield tuple(before), tuple(after), range(max(0, front - n_clean), N)


def beside(N: int, given: Sequence[int], steps: Iterable[Pass]) -> Iterator[Pass]:
    """Passes of the other tokens, to which given ones are shown at level 0 all the time."""
    free = [i for i in range(N) if i not in given]
    for before, after, shown in steps:
        rows = [[Fraction(0)] * N for _ in range(2)]
        for whole, row in zip(rows, (before, after), strict=True):
            for i, level in zip(free, row, strict=True):
                whole[i] = level
        yield tuple(rows[0]), tuple(rows[1]), sorted([*given, *(free[j] for j in shown)])


def start_beside(S: Array, given: Sequence[int]) -> Array:
    """Covariance of the start: noise, beside given tokens that are drawn from N(0, S)."""
    start = np.eye(len(S))
    start[np.ix_(given, given)] = S[np.ix_(given, given)]
    return start


def passes(rows: Sequence[Row]) -> Iterator[Pass]:
    """Between neighbouring rows, with all tokens shown."""
    for before, after in itertools.pairwise(rows):
        yield before, after, range(len(before))


def moving(rows: Iterable[Row]) -> list[Row]:
    """Without rows that repeat the one before."""
    return [row for row, _ in itertools.groupby(rows)]


def carried(
    S: Array,
    steps: Iterable[Pass],
    path: str = "cosine",
    *,
    causal: bool = False,
    start: Array | None = None,
) -> Array:
    """Covariance of the tokens after those passes, from N(0, I) or N(0, start)."""
    a, sigma = PATHS[path]
    A = np.eye(len(S)) if start is None else np.linalg.cholesky(start)
    for before, after, shown in steps:
        t, u = [float(v) for v in before], [float(v) for v in after]
        moving = [i for i in range(len(S)) if t[i] != u[i]]
        moved = A.copy()
        groups = [[i] for i in moving] if causal or not moving else [moving]
        for those in groups:
            J = [j for j in shown if t[j] < 1 and (j <= max(those) or not causal)]
            alpha, s = np.array([a(t[j]) for j in J]), np.array([sigma(t[j]) for j in J])
            C = alpha[:, None] * S[np.ix_(J, J)] * alpha + np.diag(s**2)
            x0 = S[np.ix_(those, J)] * alpha @ np.linalg.solve(C, A[J]) if J else 0 * A[those]
            for i, clean in zip(those, x0, strict=True):
                moved[i] = a(u[i]) * clean + sigma(u[i]) / sigma(t[i]) * (A[i] - a(t[i]) * clean)
        A = moved
    covariance: Array = A @ A.T
    return covariance


def noisy(S: Array, levels: Sequence[Fraction], path: str = "cosine") -> Array:
    """Covariance of N(0, S) with every token at its level."""
    a, sigma = PATHS[path]
    alpha, s = (np.array([f(float(t)) for t in levels]) for f in (a, sigma))
    covariance: Array = alpha[:, None] * S * alpha + np.diag(s**2)
    return covariance


def kl(S: Array, C: Array) -> float:
    """KL(N(0, S) || N(0, C)), nats."""
    ratio = np.linalg.solve(C, S)
    return float(0.5 * (np.trace(ratio) - len(S) - np.linalg.slogdet(ratio)[1]))


def conditional_variance(S: Array, i: int, given: Sequence[int]) -> float:
    """Var(x_i | x_given)."""
    J = list(given)
    if not J:
        return float(S[i, i])
    return float(S[i, i] - S[i, J] @ np.linalg.solve(S[np.ix_(J, J)], S[J, i]))


def cost_of_window(S: Array, n_clean: int) -> float:
    """sum_i I(x_i; x_{<i-n} | x_{i-n..i-1}), nats: by log ratios of conditional variances."""
    cost = 0.0
    for i in range(len(S)):
        seen, whole = range(max(0, i - n_clean), i), range(i)
        ratio = conditional_variance(S, i, seen) / conditional_variance(S, i, whole)
        cost += 0.5 * float(np.log(ratio))
    return cost


def second_order(N: int) -> Array:
    """x_i = 0.5 x_{i-1} + 0.4 x_{i-2} + e_i, by the inverse of that recursion: Markov order 2."""
    B = np.eye(N) - 0.5 * np.eye(N, k=-1) - 0.4 * np.eye(N, k=-2)
    inverse = np.linalg.inv(B)
    covariance: Array = inverse @ inverse.T
    return covariance
