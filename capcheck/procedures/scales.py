"""Scales split a sequence or grid from coarse to fine, into coefficients or subsets of the tokens.

The orthonormal Haar transform of two numbers is their sum and their difference, both divided by
sqrt(2); in two dimensions it is applied along both sides. Repeating it on the sums gives a pyramid
with as many coefficients as tokens.

Interlaced subsets need no transform: scale m holds the tokens at every 2^m-th place along each side
that no coarser scale holds.

A list of scales s_1 < .. < s_K cuts the sides into any number of cells in place of powers of two.
On R x C tokens scale s has r x c cells of equal size, where r is s R / max(R, C), rounded and at
least 1, and c likewise; s_K is the longer side. With U_k the span of the averages over the cells of
scale s_k,

    coefficients of scale k = an orthonormal basis of U_1 + .. + U_k outside U_1 + .. + U_(k-1),
    subset of scale k = the tokens at the centres of its cells that no coarser scale holds.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

__all__ = [
    "TOLERANCE",
    "Places",
    "Scales",
    "averages",
    "centred",
    "haar",
    "interlaced",
    "is_dyadic",
]

# Length, in that of the whole vector, up to which a remainder is a rounding error, and up to which
# two remainders are equally long. On random lists it parts 1e-4 from 1e-12.
TOLERANCE = 1e-8

Places = tuple[tuple[int, int], ...]


def _separate(value: object) -> object:
    """Splits a text such as 1/2/3, the form of a list on the command line."""
    return value.split("/") if isinstance(value, str) else value


def _rising(scales: tuple[int, ...]) -> tuple[int, ...]:
    if not scales or not all(s < t for s, t in itertools.pairwise(scales)):
        raise ValueError("scales must be numbers that rise from one to the next")
    return scales


Scales = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_separate), AfterValidator(_rising)
]
"""The type of an option that lists rising scales, as a sequence or as text with / in between."""


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


@functools.lru_cache(maxsize=8)
def averages(rows: int, columns: int, scales: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """The coefficients of a list of scales, and the sizes of those scales that have any.

    The span of each scale is fixed and its basis is a choice, on which the total correlation of its
    coefficients depends: Gram-Schmidt from the differences of neighbouring cells and then their
    sums, each time from the one of which the largest share is new, the first of several. With
    scales 1, 2, 4, .. the result is that of `haar`.

    Args:
        rows: Number of rows.
        columns: Number of columns; a sequence is a grid of one row.
        scales: Rising numbers of cells of the longer side; the last one is its number of tokens.

    Returns:
        The orthonormal matrix, (rows x columns, rows x columns) float64, whose rows go from coarse
        to fine, and the number of its rows that belong to each scale that adds any.
    """
    N = rows * columns
    basis, ends = torch.zeros(N, N, dtype=torch.float64), [0]
    for scale in scales:
        n = ends[-1]
        rest = _contrasts(rows, columns, scale)
        rest = rest / rest.norm(dim=1, keepdim=True)
        for _ in range(2):  # the second time removes the rounding errors of the first
            rest = rest - rest @ basis[:n].T @ basis[:n]
        while n < N and float((lengths := rest.norm(dim=1)).max()) > TOLERANCE:
            first = int((lengths >= lengths.max() - TOLERANCE).nonzero()[0])
            new = rest[first] - basis[:n].T @ (basis[:n] @ rest[first])
            basis[n] = new / new.norm()
            rest.addr_(rest @ basis[n], basis[n], alpha=-1)
            n += 1
        ends.append(n)
    return basis, tuple(b - a for a, b in itertools.pairwise(ends) if b > a)


def centred(places: Places, rows: int, columns: int, scales: Sequence[int]) -> list[list[int]]:
    """Indices of the tokens of each scale of a list, coarse to fine.

    Cell j of r in a side of R tokens has its centre in the token floor((j + 1/2) R / r); a centre
    between two tokens belongs to the later one.

    Args:
        places: (row, column) of each token.
        rows: Number of rows of the grid.
        columns: Number of columns of the grid.
        scales: As for `averages`.
    """
    found, taken = list[list[int]](), set[int]()
    for scale in scales:
        centres = [
            {(2 * j + 1) * side // (2 * cells) for j in range(cells)}
            for side, cells in zip((rows, columns), _cells(rows, columns, scale), strict=True)
        ]
        at_centres = (
            i for i, place in enumerate(places) if place[0] in centres[0] and place[1] in centres[1]
        )
        found.append([i for i in at_centres if i not in taken])
        taken.update(found[-1])
    return [scale for scale in found if scale]


def _cells(rows: int, columns: int, scale: int) -> tuple[int, int]:
    """Numbers of cells along both sides; a half is rounded up."""
    longer = max(rows, columns)
    r, c = (max(1, (2 * scale * side + longer) // (2 * longer)) for side in (rows, columns))
    return r, c


def _contrasts(rows: int, columns: int, scale: int) -> Tensor:
    """Differences of neighbouring cells along columns, rows and both, then sums: (r c, R C)."""
    r, c = _cells(rows, columns, scale)
    (S_r, D_r), (S_c, D_c) = (_neighbours(*of) for of in ((r, rows), (c, columns)))
    pairs = (S_r, D_c), (D_r, S_c), (D_r, D_c), (S_r, S_c)
    return torch.cat([torch.kron(a, b) for a, b in pairs])


def _neighbours(cells: int, side: int) -> tuple[Tensor, Tensor]:
    """Sums and differences of each two neighbouring cells of a side; an odd last cell is a sum."""
    edges, token = torch.arange(cells + 1)[:, None] * side, torch.arange(side) * cells
    overlap = torch.minimum(edges[1:], token + cells) - torch.maximum(edges[:-1], token)
    weights = overlap.clamp(min=0).double()  # (cells, side), in units of 1 / cells of a token
    even, odd = weights[::2], weights[1::2]
    sums = even.clone()
    sums[: len(odd)] += odd
    return sums, even[: len(odd)] - odd
