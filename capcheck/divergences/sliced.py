"""Sliced Wasserstein distance: the mean of W2^2 between projections onto lines.

    SW2^2(P, Q) = mean over unit vectors theta of W2^2(theta'P, theta'Q)

On a line the optimal coupling pairs equal quantiles, so that each term takes two sorts. Directions
are drawn in orthonormal blocks, which cover the sphere more evenly than independent directions. The
terms of a complete basis sum to at most W2^2, hence D SW2^2 <= W2^2.

The value between two samples is biased upwards by about (1/n + 1/m) times the variance of a
projection (up to a logarithm), and must be compared with its null floor if the laws are close.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness

__all__ = ["DOUBLE", "LARGE", "TOGETHER", "orthogonal_directions", "sliced_w2_squared"]

TOGETHER = 16  # directions sorted at a time
DOUBLE = 2_000  # most rows sorted in float64; float32 takes half the time
LARGE = 1e15  # size above which values are sorted in float64, as float32 cannot square them


def orthogonal_directions(count: int, dim: int, *, rng: Randomness) -> Tensor:
    """Uniformly random unit vectors, (count, dim) float64, orthonormal within blocks of `dim`.

    Raises:
        InputError: The count or the dimension is below 1.
    """
    if count < 1 or dim < 1:
        raise InputError(f"directions and dimensions must be at least 1, got {count} and {dim}.")
    blocks, size = math.ceil(count / dim), min(count, dim)
    normal = rng.stream("directions").normal((blocks, dim, size))
    q, r = torch.linalg.qr(normal)
    # Signs that make the triangular factor's diagonal positive make q uniform.
    uniform: Tensor = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
    return uniform.mT.reshape(-1, dim)[:count]


def sliced_w2_squared(x: Tensor, y: Tensor, *, directions: Tensor) -> float:
    """Mean squared 2-Wasserstein distance of the projections of two samples.

    Args:
        x: (n, D) numbers.
        y: (m, D) numbers; sizes may differ.
        directions: (L, D) unit vectors, for example of `orthogonal_directions`.

    Returns:
        SW2^2 of the empirical laws, in squared units of the samples.

    Raises:
        InputError: The shapes do not match, there are no rows, or the samples hold token ids or
            values that are not finite.
    """
    far = _require_numbers(x, y, directions) > LARGE
    centre = torch.cat([x.double().mean(0, keepdim=True), y.double().mean(0, keepdim=True)]).mean(0)
    few = min(len(x), len(y)) <= DOUBLE
    dtype = torch.float64 if few or far else torch.float32
    theta = directions.to("cpu", dtype)
    # Common shifts cost float32 its digits. Columns are as long as the samples: (D, n) and (D, m).
    columns = [(z - centre).to("cpu", dtype).T.contiguous() for z in (x, y)]
    projected = [torch.empty(TOGETHER, z.shape[1], dtype=dtype) for z in columns]
    pairing = None if len(x) == len(y) else _quantile_pairs(len(x), len(y))
    total = 0.0
    for start in range(0, len(theta), TOGETHER):
        part = theta[start : start + TOGETHER]
        of_x, of_y = (  # (l, n), (l, m)
            torch.mm(part, z, out=out[: len(part)]).numpy()
            for z, out in zip(columns, projected, strict=True)
        )
        of_x.sort(axis=1)
        of_y.sort(axis=1)
        if pairing is None:
            gap = np.subtract(of_x, of_y, out=of_x)
            total += float(np.square(gap, out=gap).sum(dtype=np.float64)) / len(x)
        else:
            i, j, weights = pairing
            total += float((np.square(of_x[:, i] - of_y[:, j]) @ weights).sum())
    return total / len(theta)


def _quantile_pairs(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks of x and of y that the optimal coupling pairs, and the mass of each pair."""
    # Integer multiples of 1 / (n m), so that equal ends of two steps compare as equal.
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)


def _require_numbers(x: Tensor, y: Tensor, directions: Tensor) -> float:
    """Raise InputError unless they can be compared; return the size of the largest number."""
    shapes = [tuple(z.shape) for z in (x, y, directions)]
    if any(len(s) != 2 or s[1] != shapes[0][1] or 0 in s for s in shapes):
        raise InputError(
            "samples and directions must be (n, D), (m, D) and (L, D) with one D and at least one "
            f"row, got {shapes[0]}, {shapes[1]} and {shapes[2]}."
        )
    if not (x.is_floating_point() and y.is_floating_point()):
        raise InputError(f"sliced distances need numbers, got {x.dtype} and {y.dtype}.")
    x_size, y_size, size = (float(torch.stack(z.aminmax()).abs().max()) for z in (x, y, directions))
    if not (math.isfinite(x_size) and math.isfinite(y_size) and math.isfinite(size)):
        raise InputError("samples must be finite, got NaN or infinity; leave such rows out.")
    return max(x_size, y_size)
