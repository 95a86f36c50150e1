"""Scales of a sequence or grid, coarse to fine: a Haar pyramid, or interlaced subsets.

The orthonormal Haar transform of two numbers is their sum and difference, divided by sqrt(2); of
four in a square, the products of these along both sides. Repeated on the sums it gives a pyramid
whose coefficients are as many as the tokens. Interlaced subsets need no transform: the tokens at
every 2^m-th place of each side, which the coarser subsets do not hold.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

Places = tuple[tuple[int, int], ...]


def is_dyadic(rows: int, columns: int) -> bool:
    """Whether both sides are powers of two, as a Haar pyramid needs."""
    return all(side & (side - 1) == 0 for side in (rows, columns))


@functools.lru_cache(maxsize=8)
def haar(rows: int, columns: int) -> tuple[Tensor, tuple[int, ...]]:
    """The transform of a grid with dyadic sides, and the sizes of its scales.

    Args:
        rows: A power of two.
        columns: A power of two; a sequence is a grid of one row.

    Returns:
        (rows x columns, rows x columns) float64, orthonormal, rows from coarse to fine; and how
        many of them belong to each scale.
    """
    sums = torch.eye(rows * columns, dtype=torch.float64).reshape(rows, columns, -1)
    details: list[Tensor] = []
    while sums.shape[0] * sums.shape[1] > 1:
        sums, finer = _halved(sums)
        details.insert(0, finer)
    scales = [sums.flatten(0, 1), *details]
    return torch.cat(scales), tuple(len(scale) for scale in scales)


def _halved(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of neighbours along both sides, and every product that holds a difference."""
    parts, finer = [sums], []
    for side in (0, 1):
        if sums.shape[side] > 1:
            parts = [half for part in parts for half in _pair(part, side)]
    sums, *finer = parts
    return sums, torch.cat([part.flatten(0, 1) for part in finer])


def _pair(part: Tensor, side: int) -> tuple[Tensor, Tensor]:
    even = part.index_select(side, torch.arange(0, part.shape[side], 2))
    odd = part.index_select(side, torch.arange(1, part.shape[side], 2))
    return (even + odd) / math.sqrt(2), (even - odd) / math.sqrt(2)


def interlaced(places: Places) -> list[list[int]]:
    """Indices of the tokens of each scale, coarse to fine.

    Args:
        places: (row, column) of each token.
    """
    stride = 1
    while stride <= max(max(place) for place in places):
        stride *= 2
    scales, taken = [], set[int]()
    while stride >= 1:
        scale = [
            i
            for i, (row, column) in enumerate(places)
            if row % stride == 0 and column % stride == 0 and i not in taken
        ]
        taken.update(scale)
        scales.append(scale)
        stride //= 2
    return [scale for scale in scales if scale]
