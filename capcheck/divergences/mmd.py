"""Squared maximum mean discrepancy with Gaussian kernels k_h(x, y) = exp(-|x - y|^2 / (2 h^2)).

The unbiased estimate is a U-statistic: its diagonal is excluded, and it is signed. Where the
target's kernel means are closed forms only the model's samples carry noise:

    MMD^2 = mean_{i != j} k(x_i, x_j) - 2 mean_i E k(x_i, Y) + E k(Y, Y').

Integers stand for one-hot vectors, whose squared distance is twice the number of tokens that
differ: the kernel is then the product of exp(-[x_i != y_i] / h^2) over tokens. Kernels are summed
in tiles; memory is that of one tile, whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.divergences.estimate import Term

TILE = 512  # rows and columns of one kernel tile
BANDWIDTHS = (0.5, 1.0, 2.0)  # in units of the target's median distance


def mmd_squared(x: Tensor, y: Tensor, bandwidth: float) -> Term:
    """Unbiased MMD^2 between two independent samples.

    Args:
        x: (n, D), n at least 2.
        y: (m, D), m at least 2; sizes may differ.
        bandwidth: h > 0, in the unit of the samples.

    Returns:
        The signed estimate; its interval is conservative where the laws are equal.
    """
    within_x = kernel_row_means(x, x, (bandwidth,), same=True)[0]
    within_y = kernel_row_means(y, y, (bandwidth,), same=True)[0]
    across_x = kernel_row_means(x, y, (bandwidth,))[0]
    across_y = kernel_row_means(y, x, (bandwidth,))[0]
    value = within_x.mean() + within_y.mean() - 2 * across_x.mean()
    influences = [
        (2 * (within - across)).cpu().numpy()
        for within, across in ((within_x, across_x), (within_y, across_y))
    ]
    return Term.from_influence(f"bandwidth {bandwidth:.4g}", float(value), influences, reach=4)


def mmd_squared_to_known(
    x: Tensor,
    bandwidths: Sequence[float],
    kernel_means: Sequence[Tensor],
    kernel_self_means: Sequence[float],
) -> list[Term]:
    """Unbiased MMD^2 between a sample and a target with closed-form kernel means.

    Args:
        x: (n, D), n at least 2.
        bandwidths: h of each kernel, in the unit of the sample.
        kernel_means: E k(x_i, Y) for each kernel, (n,).
        kernel_self_means: E k(Y, Y') for each kernel.

    Returns:
        One term per bandwidth; its interval is conservative where the laws are equal.
    """
    terms = []
    for h, within, to_target, own in zip(
        bandwidths,
        kernel_row_means(x, x, bandwidths, same=True),
        kernel_means,
        kernel_self_means,
        strict=True,
    ):
        value = within.mean() - 2 * to_target.double().mean() + own
        influence = 2 * (within - to_target.double())
        terms.append(
            Term.from_influence(
                f"bandwidth {h:.4g}",
                float(value),
                [influence.cpu().numpy()],
                reach=4,  # kernels lie between 0 and 1
            )
        )
    return terms


def kernel_row_means(
    x: Tensor, y: Tensor, bandwidths: Sequence[float], *, same: bool = False
) -> list[Tensor]:
    """Mean of k_h(x_i, y_j) over j for every row i and bandwidth h, in float64.

    Args:
        x: (n, D).
        y: (m, D).
        bandwidths: h of each kernel.
        same: x is y, and the pairs j = i are left out.

    Returns:
        One (n,) tensor per bandwidth.
    """
    if x.is_floating_point():
        centre = y.mean(0)  # expanding the square loses fewer digits around 0
        x, y = x - centre, y - centre
    sums = torch.zeros(len(bandwidths), len(x), dtype=torch.float64, device=x.device)
    for i in range(0, len(x), TILE):
        for j in range(0, len(y), TILE):
            rows, columns = slice(i, i + TILE), slice(j, j + TILE)
            squares = _squares(x[rows], y[columns])
            if same and i == j:
                squares.fill_diagonal_(torch.inf)
            for k, h in enumerate(bandwidths):
                kernel = torch.exp(squares * (-0.5 / h**2))
                sums[k, rows] += kernel.sum(1, dtype=torch.float64)
    return list(sums / (len(y) - same))


def median_distance(x: Tensor) -> float:
    """Median distance between rows of x (n, D); of at most 1,000 of them.

    Where most rows are equal, which only integers can be, it is the mean distance, or at least 1.
    """
    some = x[:1000]
    if x.is_floating_point():
        return float(torch.nn.functional.pdist(some.double()).median())
    upper = torch.triu_indices(len(some), len(some), 1)
    distances = _squares(some, some).double()[upper[0], upper[1]].sqrt()
    return float(distances.median()) or max(float(distances.mean()), 1.0)


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances between rows, (r, c); of the one-hot vectors if they hold integers."""
    if x.is_floating_point():
        squares = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
        return squares.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)
    differing = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    for of_x, of_y in zip(x.T, y.T, strict=True):
        differing += of_x[:, None] != of_y
    return 2 * differing
