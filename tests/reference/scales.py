"""Lists of scales: averages over cells by sums up to edges, ranks modulo a prime, regressions.

The sum of a row of tokens up to a place inside a token is linear between the token's edges; the
part of the row in a cell is the difference of two such sums. All of them are integers after
multiplication by the number of cells, so that which of them are new is known without rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PRIME = 2**31 - 1  # products of two remainders fit into 64 bits


def cells(rows: int, columns: int, scale: int) -> tuple[int, int]:
    """Numbers of cells along both sides, rounded to the next number, a half upwards."""
    ratio = Fraction(scale, max(rows, columns))
    r, c = (max(1, math.floor(ratio * side + Fraction(1, 2))) for side in (rows, columns))
    return r, c


def in_cells(count: int, side: int) -> Array:
    """The part of every token in every cell of a side, (count, side)."""
    edges, places = np.linspace(0, side, count + 1), np.arange(side + 1)
    parts: Array = np.zeros((count, side))
    for token in range(side):
        parts[:, token] = np.diff(np.interp(edges, places, places > token))
    return parts


def in_grid(rows: int, columns: int, scale: int) -> Array:
    """The same of the cells of a grid, in raster order."""
    r, c = cells(rows, columns, scale)
    parts: Array = np.asarray(np.kron(in_cells(r, rows), in_cells(c, columns)), dtype=np.float64)
    return parts


def sizes(rows: int, columns: int, scales: Sequence[int]) -> list[int]:
    """Number of averages of each scale that are no combinations of others and of coarser ones."""
    parts = [
        np.rint(math.prod(cells(rows, columns, s)) * in_grid(rows, columns, s)).astype(np.int64)
        for s in scales
    ]
    new, ends = _new_rows(np.concatenate(parts)), np.cumsum([0, *map(len, parts)])
    counts: list[int] = np.histogram(new, ends)[0].tolist()
    return counts


def _new_rows(rows: NDArray[np.int64]) -> list[int]:
    """Indices of the rows that those before them do not span: pivots of the transpose."""
    left, found = rows.T % PRIME, list[int]()
    for j in range(left.shape[1]):
        k = len(found)
        pivots = np.flatnonzero(left[k:, j]) + k
        if len(pivots):
            left[[k, pivots[0]]] = left[[pivots[0], k]]
            factors = left[k + 1 :, j] * pow(int(left[k, j]), -1, PRIME) % PRIME
            left[k + 1 :] = (left[k + 1 :] - np.outer(factors, left[k]) % PRIME) % PRIME
            found.append(j)
    return found


def coefficients(rows: int, columns: int, scales: Sequence[int]) -> Array:
    """Rows of unit length, each what regression on all chosen before leaves of a contrast.

    The contrast with the largest such share is chosen next, the first one of several. Contrasts are
    differences of two neighbouring cells along columns, rows and both, and then sums of them.
    """
    chosen, units = list[Array](), list[Array]()
    for scale in scales:
        contrasts = [v / np.linalg.norm(v) for v in _contrasts(rows, columns, scale)]
        while True:
            rest = [v - _regression(chosen, v) for v in contrasts]
            lengths = np.array([np.linalg.norm(r) for r in rest])
            if lengths.max() < 1e-6:
                break
            first = int(np.flatnonzero(lengths > lengths.max() - 1e-6)[0])
            chosen.append(contrasts[first])
            units.append(rest[first] / lengths[first])
    return np.array(units)


def _regression(on: Sequence[Array], v: Array) -> Array:
    if not on:
        return np.zeros_like(v)
    A = np.array(on).T
    fit: Array = A @ np.linalg.lstsq(A, v)[0]
    return fit


def _contrasts(rows: int, columns: int, scale: int) -> Iterator[Array]:
    counts = cells(rows, columns, scale)
    parts = [in_cells(count, side) for count, side in zip(counts, (rows, columns), strict=True)]
    for down, across in ((1, -1), (-1, 1), (-1, -1), (1, 1)):
        for a in _pairs(parts[0], down):
            for b in _pairs(parts[1], across):
                yield np.outer(a, b).ravel()


def _pairs(parts: Array, sign: int) -> Iterator[Array]:
    for j in range(0, len(parts), 2):
        if j + 1 < len(parts):
            yield parts[j] + sign * parts[j + 1]
        elif sign > 0:
            yield parts[j]
