"""Permutation test of MMD: compares the MMD^2 of two samples with that of random relabellings.

For equal laws all N = n + m rows are exchangeable. If k of B random relabellings have an MMD^2 at
least as large as the observed one, the p-value

    p = (1 + k) / (1 + B)

is at most alpha with probability at most alpha, for every alpha and sample size. With labels
w_i = 1 for the first sample and -1 for the second, the U-statistic depends only on 1'K1, w'K1 and
w'Kw, so that one matrix product per tile of the kernel matrix K serves all relabellings. Memory is
O(B N), never N x N.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.divergences.kernels import TILE, kernel_tiles

__all__ = ["ROUNDING", "TOGETHER", "PermutationTest", "permutation_test"]

ROUNDING = 1e-9  # differences of MMD^2 below this are ties, and count towards k
TOGETHER = 64  # relabellings drawn at a time


@dataclass(frozen=True, kw_only=True)
class PermutationTest:
    """The outcome of a permutation test.

    Attributes:
        p_value: (1 + k) / (1 + B).
        statistic: Unbiased MMD^2 of the two samples, averaged over the bandwidths.
        permuted: Averaged MMD^2 after each relabelling, (B,).
    """

    p_value: float
    statistic: float
    permuted: np.ndarray


def permutation_test(
    x: Tensor,
    y: Tensor,
    *,
    bandwidths: Sequence[float],
    rng: Randomness,
    permutations: int = 200,
) -> PermutationTest:
    """Test whether two samples have one law, by the MMD^2 of the mean of some kernels.

    Args:
        x: (n, D), n at least 2; numbers, or token ids as in `mmd_squared`.
        y: (m, D), m at least 2.
        bandwidths: Bandwidth h of each kernel, chosen independently of the labels of the rows.
        rng: Source of the relabellings; row b of its draws makes relabelling b.
        permutations: B, at least 1; the p-value is at least 1 / (1 + B).

    Raises:
        InputError: Samples or bandwidths that `mmd_squared` refuses, or no permutations.
    """
    if permutations < 1:
        raise InputError(f"permutations must be at least 1, got {permutations}.")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InputError(
            f"the test needs samples (n, D) and (m, D) of at least 2 rows and one D, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )
    if x.is_floating_point() != y.is_floating_point():
        raise InputError(f"samples must both hold numbers or ids, got {x.dtype} and {y.dtype}.")
    labels = _labels(len(x), len(y), permutations, rng.stream("permutations"))
    values = _mmd_squared(torch.cat([x, y]), labels.to(x.device), bandwidths, len(x))
    observed, permuted = float(values[0]), values[1:]
    at_least = int((permuted >= observed - ROUNDING).sum())
    return PermutationTest(
        p_value=(1 + at_least) / (1 + permutations),
        statistic=observed,
        permuted=permuted.cpu().numpy(),
    )


def _labels(n: int, m: int, permutations: int, rng: Randomness) -> Tensor:
    """Labels 1 and -1 of every row, (n + m, 1 + B) int8: observed, then relabelled B times."""
    labels = np.full((1 + permutations, n + m), -1, dtype=np.int8)
    labels[0, :n] = 1
    for start in range(1, 1 + permutations, TOGETHER):
        part = labels[start : start + TOGETHER]
        u = rng.uniform(part.shape).cpu().numpy()
        np.put_along_axis(part, np.argpartition(u, n - 1, axis=1)[:, :n], 1, axis=1)
    return torch.from_numpy(labels.T.copy())


def _mmd_squared(z: Tensor, labels: Tensor, bandwidths: Sequence[float], n: int) -> Tensor:
    """Unbiased MMD^2 of the rows labelled 1 against those labelled -1, (1 + B,) float64.

    Args:
        z: Rows of both samples, (N, D).
        labels: Labels, (N, 1 + B).
        bandwidths: Bandwidth h of each of the kernels that are averaged.
        n: Number of rows labelled 1 in every column.
    """
    m = len(z) - n
    r = torch.zeros(len(z), dtype=torch.float64, device=z.device)  # K1
    quadratic = torch.zeros(labels.shape[1], dtype=torch.float64, device=z.device)  # w'Kw
    for rows, columns, kernel in _mean_tiles(z, bandwidths):
        product = kernel @ labels[columns].to(kernel.dtype)  # (r, 1 + B)
        product *= labels[rows]
        r[rows] += kernel.sum(1)
        if rows == columns:
            quadratic += product.sum(0)
        else:  # and the tile across the diagonal
            quadratic += 2 * product.sum(0)
            r[columns] += kernel.sum(0)
    linear = torch.zeros_like(quadratic)  # w'K1
    for start in range(0, len(z), TILE):
        part = slice(start, start + TILE)
        linear += r[part] @ labels[part].double()
    xx, yy = ((r.sum() + sign * 2 * linear + quadratic) / 4 for sign in (1, -1))
    xy = (r.sum() - quadratic) / 4
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


def _mean_tiles(z: Tensor, bandwidths: Sequence[float]) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles on and above the diagonal, which is 0, of the mean of the kernel matrices."""
    K = len(bandwidths)
    total = torch.empty(0)
    tiles = kernel_tiles(z, z, bandwidths=bandwidths, same=True)
    for seen, (rows, columns, _, tile) in enumerate(tiles):
        total = tile / K if seen % K == 0 else total.add_(tile, alpha=1 / K)
        if seen % K == K - 1:
            yield rows, columns, total
