"""Squared maximum mean discrepancy with Gaussian kernels k_h(x, y) = exp(-|x - y|^2 / (2 h^2)).

The estimate is an unbiased, signed U-statistic without its diagonal. If the target's kernel means
have closed forms, only the model's samples x_i contribute noise:

    MMD^2 = mean_{i != j} k(x_i, x_j) - 2 mean_i E k(x_i, Y) + E k(Y, Y').

Kernels are computed in tiles (`kernels.py`), and their sums are in float64.

Near zero a standard error from influences alone, 2 sd / sqrt(n), is too small. With delta the
difference of the kernel means and e the noise of its estimate, the estimate of MMD^2 is
|delta|^2 + 2 <delta, e> + (|e|^2 - E |e|^2), and influences account only for 2 <delta, e>. Half the
standard deviation of the last term, sqrt(2 zeta) / n with zeta the variance of the doubly centred
kernel, is therefore added. This suffices for a kernel that responds to a single direction, the
hardest case. For equal laws the interval is about twice as wide as necessary: it is conservative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.divergences.estimate import Term
from capcheck.divergences.kernels import differing, kernel_tiles

__all__ = [
    "BANDWIDTHS",
    "SECOND_ORDER",
    "SOME",
    "kernel_means",
    "kernel_row_means",
    "median_distance",
    "mmd_squared",
    "mmd_squared_terms",
    "mmd_squared_to_known",
    "with_second_order",
]

SECOND_ORDER = 0.5  # share of the second-order deviation added to the standard error
SOME = 512  # rows from which the second-order deviation is estimated
BANDWIDTHS = (0.5, 1.0, 2.0)  # bandwidths in units of the target's median distance


def mmd_squared(x: Tensor, y: Tensor, bandwidth: float) -> Term:
    """Unbiased MMD^2 between two independent samples.

    Args:
        x: (n, D), n at least 2.
        y: (m, D), m at least 2; sizes may differ.
        bandwidth: h > 0, in the unit of the samples.

    Returns:
        The signed estimate; its interval is conservative where the laws are equal.

    Raises:
        InputError: As in `kernel_row_means`.
    """
    return mmd_squared_terms(x, y, bandwidths=(bandwidth,))[0]


def mmd_squared_terms(x: Tensor, y: Tensor, *, bandwidths: Sequence[float]) -> list[Term]:
    """Unbiased MMD^2 between two independent samples, for several kernels in one pass.

    Args:
        x: (n, D), n at least 2.
        y: (m, D), m at least 2; sizes may differ.
        bandwidths: h of each kernel, in the unit of the samples.

    Returns:
        One `mmd_squared` per bandwidth.

    Raises:
        InputError: As in `kernel_row_means`.
    """
    within = [kernel_row_means(z, z, bandwidths, same=True) for z in (x, y)]
    across = kernel_means(x, y, bandwidths=bandwidths)
    variances = [_centred_variances(z, bandwidths) for z in (x, y)]
    terms = []
    for k, h in enumerate(bandwidths):
        xx, yy, xy, yx = within[0][k], within[1][k], across[0][k], across[1][k]
        value = float(xx.mean() + yy.mean() - 2 * xy.mean())
        influences = [(2 * (a - b)).cpu().numpy() for a, b in ((xx, xy), (yy, yx))]
        term = Term.from_influence(f"bandwidth {h:.4g}", value, influences, reach=4)
        terms.append(with_second_order(term, [of[k] for of in variances], (len(x), len(y))))
    return terms


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

    Raises:
        InputError: As in `kernel_row_means`.
    """
    terms = []
    for h, within, variance, to_target, own in zip(
        bandwidths,
        kernel_row_means(x, x, bandwidths, same=True),
        _centred_variances(x, bandwidths),
        kernel_means,
        kernel_self_means,
        strict=True,
    ):
        value = within.mean() - 2 * to_target.double().mean() + own
        influence = 2 * (within - to_target.double())
        term = Term.from_influence(
            f"bandwidth {h:.4g}",
            float(value),
            [influence.cpu().numpy()],
            reach=4,  # kernels lie between 0 and 1
        )
        terms.append(with_second_order(term, [variance], [len(x)]))
    return terms


def with_second_order(term: Term, variances: Sequence[float], rows: Sequence[int]) -> Term:
    """A term with the noise of |e|^2 added to its standard error; see the module's docstring.

    Args:
        term: An estimate of a squared distance in a kernel's feature space.
        variances: Variance zeta of the doubly centred kernel, for each sample.
        rows: Number of rows of each sample. For two samples the noise is at most sqrt(2) times the
            sum of sqrt(zeta) / rows over both.
    """
    deviations = [math.sqrt(2 * zeta) / n for zeta, n in zip(variances, rows, strict=True)]
    error = SECOND_ORDER * sum(deviations)
    return term.model_copy(update={"standard_error": term.standard_error + error})


def _centred_variances(x: Tensor, bandwidths: Sequence[float]) -> list[float]:
    """Variance zeta of the doubly centred kernel for each bandwidth, from the first `SOME` rows.

    Doubly centred means k(x, x') less its means given x and given x'.
    """
    some = x[:SOME]
    n = len(some)
    if n < 4:
        return [1.0] * len(bandwidths)  # kernels lie between 0 and 1
    r = kernel_means(some, some, bandwidths=bandwidths, same=True)[0]  # (K, n)
    squares = torch.zeros(len(bandwidths), dtype=torch.float64, device=x.device)
    for rows, columns, k, tile in kernel_tiles(some, some, bandwidths=bandwidths, same=True):
        flat = tile.double().reshape(-1)
        squares[k] += torch.dot(flat, flat) * (1 if rows == columns else 2)
    # Sum over i != j of (k_ij - r_i - r_j + c)^2, where c is the mean of r.
    squares += n * (n + 1) * r.mean(1).square() - 2 * n * r.square().sum(1)
    return (squares.clamp(min=0) / (n * (n - 1))).tolist()


def kernel_row_means(
    x: Tensor, y: Tensor, bandwidths: Sequence[float], *, same: bool = False
) -> list[Tensor]:
    """Mean of k_h(x_i, y_j) over j for every row i and bandwidth h, in float64.

    Args:
        x: (n, D).
        y: (m, D).
        bandwidths: h of each kernel.
        same: Whether x is y; then the pairs j = i are left out.

    Returns:
        One (n,) tensor per bandwidth.

    Raises:
        InputError: The shapes do not match, there are too few rows, one sample holds numbers and
            the other token ids, or a bandwidth is not positive and finite.
    """
    return list(kernel_means(x, y, bandwidths=bandwidths, same=same)[0])


def kernel_means(
    x: Tensor, y: Tensor, *, bandwidths: Sequence[float], same: bool = False
) -> tuple[Tensor, Tensor]:
    """Means of k_h(x_i, y_j) over j, (K, n), and over i, (K, m); see `kernel_row_means`."""
    of_rows = torch.zeros(len(bandwidths), len(x), dtype=torch.float64, device=x.device)
    of_columns = torch.zeros(len(bandwidths), len(y), dtype=torch.float64, device=x.device)
    for rows, columns, k, tile in kernel_tiles(x, y, bandwidths=bandwidths, same=same):
        of_rows[k, rows] += tile.sum(1)
        if not (same and rows == columns):
            of_columns[k, columns] += tile.sum(0)
    if same:
        means = (of_rows + of_columns) / (len(x) - 1)
        return means, means
    return of_rows / len(y), of_columns / len(x)


def median_distance(x: Tensor) -> float:
    """Median Euclidean distance between the first 1,000 rows of x (n, D).

    If the median of token ids is 0, because most rows are equal, the mean distance is returned, or
    1 if that is smaller.
    """
    some = x[:1000]
    if x.is_floating_point():
        return float(torch.nn.functional.pdist(some.double()).median())
    upper = torch.triu_indices(len(some), len(some), 1)
    count = torch.empty(len(some), len(some), dtype=torch.float64, device=x.device)
    every = slice(0, len(some))
    differing(some, some)(every)(every, count)
    distances = (2 * count)[upper[0], upper[1]].sqrt()
    return float(distances.median()) or max(float(distances.mean()), 1.0)
