"""Means of Gaussian kernels over differences of Gaussians, and MMD from them, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.core.errors import InputError

__all__ = ["kernel_means_along", "mmd_of_mixture", "squares"]


def mmd_of_mixture(
    weights: Tensor,
    means: Tensor,
    covariances: Tensor,
    mean: Tensor,
    covariance: Tensor,
    bandwidths: Sequence[float],
) -> Tensor:
    """E k(X, X') - 2 E k(X, Y) + E k(Y, Y') for a mixture X of P Gaussians and a Gaussian Y: (B,).

    Args:
        weights: Weights of X, (P,).
        means: Means of X, (P, D).
        covariances: Covariances of X, (P, D, D).
        mean: Mean of Y, (D,).
        covariance: Covariance of Y, (D, D).
        bandwidths: B bandwidths h, in units of the tokens.
    """
    h2 = squares(bandwidths)
    within = torch.zeros(len(h2), dtype=torch.float64)
    for i in range(len(weights)):
        pair = weights[i] * weights[i:] * 2
        pair[0] /= 2
        kernels = _kernel_means(means[i:] - means[i], covariances[i:] + covariances[i], h2)
        within += pair @ kernels
    across = weights @ _kernel_means(means - mean, covariances + covariance, h2)
    own = _kernel_means(torch.zeros_like(mean)[None], 2 * covariance[None], h2)[0]
    return within - 2 * across + own


def squares(bandwidths: Sequence[float]) -> Tensor:
    """Squared bandwidths, (B,)."""
    if not all(0 < h < math.inf for h in bandwidths):
        raise InputError(f"bandwidths must be positive and finite, got {list(bandwidths)}.")
    return torch.tensor(list(bandwidths), dtype=torch.float64).square()


def _kernel_means(shift: Tensor, covariance: Tensor, h2: Tensor) -> Tensor:
    """The mean of exp(-|d|^2 / (2 h^2)) for P laws d ~ N(shift, V) and B bandwidths h: (P, B).

    The mean is |1 + V / h^2|^-1/2 exp(-1/2 shift^T (V + h^2)^-1 shift).
    """
    along, axes = torch.linalg.eigh(covariance)
    return kernel_means_along((shift[:, None] @ axes)[:, 0], along.clamp(min=0), h2)


def kernel_means_along(shift: Tensor, variances: Tensor, h2: Tensor) -> Tensor:
    """The same for P laws of independent numbers, by their means and variances, both (P, D)."""
    V, square, h2 = variances[:, None], shift[:, None].square(), h2[:, None]
    exponent: Tensor = -0.5 * (square / (V + h2) + (V / h2).log1p()).sum(2)
    return exponent.exp()
