"""Scales split a sequence or grid from coarse to fine, by a Haar pyramid or interlaced subsets.

The orthonormal Haar transform of two numbers is their sum and their difference, both divided by
sqrt(2); in two dimensions it is applied along both sides. Repeating it on the sums gives a pyramid
with as many coefficients as tokens.

Interlaced subsets need no transform: scale m holds the tokens at every 2^m-th place along each side
that no coarser scale holds.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

__all__ = ["Places", "haar", "interlaced", "is_dyadic"]

Places = tuple[tuple[int, int], ...]


def is_dyadic(rows: int, columns: int) -> bool:
    """Whether both sides are powers of two, which a Haar pyramid requires."""
    return all(side & (side - 1) == 0 for side in (rows, columns))


@functools.lru_cache(maxsize=8)
def haar(rows: int, columns: int) -> tuple[Tensor, tuple[int, ...]]:
    """The Haar transform of a grid with dyadic sides, and the sizes of its scales.

    Args:
        rows: Number of rows, a power of two.
        columns: Number of columns, a power of two; a sequence is a grid of one row.

    Returns:
        The orthonormal matrix, (rows x columns, rows x columns) float64, whose rows go from coarse
        to fine, and the number of its rows that belong to each scale.
    """
    sums = torch.eye(rows * columns, dtype=torch.float64).reshape(rows, columns, -1)
    details: list[Tensor] = []
    while sums.shape[0] * sums.shape[1] > 1:
        sums, finer = _halved(sums)
        details.insert(0, finer)
    scales = [sums.flatten(0, 1), *details]
    return torch.cat(scales), tuple(len(scale) for scale in scales)


def _halved(sums: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of neighbours along both sides, and all coefficients that contain a difference."""
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
