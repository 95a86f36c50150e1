"""The exact mean and covariance of a continuous target, by one of three methods.

A Gaussian target states them. For a mixture of products or Gaussians they follow from the
components, C = E[C_c] + Cov[m_c], row by row if rows have different weights. For any other law, the
covariance of two coordinates follows from the variances along their diagonals,
c_ij = (Var[(x_i + x_j)/sqrt 2] - Var[(x_i - x_j)/sqrt 2]) / 2, for D/2 disjoint pairs in each of
D - 1 changes of basis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.targets.continuous.gaussian_mixture import GaussianMixture
from capcheck.targets.products import Products
from capcheck.targets.target import ContinuousTarget, require_one_law

__all__ = ["LARGEST", "mean_and_covariance"]

LARGEST = 128  # largest D for which D - 1 changes of basis are made, in some seconds


def mean_and_covariance(target: ContinuousTarget) -> tuple[Tensor, Tensor]:
    """The mean, (1|n, D), and covariance, (1|n, D, D), of the flat sequence in float64.

    The first dimension is n if the law has n different rows, and otherwise 1.

    Raises:
        UnfitError: The target is neither Gaussian nor a mixture of products, and has more than
            `LARGEST` dimensions or different rows, or its basis cannot be changed.
    """
    wide = target.to(device=target.device, dtype=torch.float64)
    if (moments := wide.gaussian()) is not None:
        mean = moments[0].double()
        return mean if mean.dim() == 2 else mean[None], moments[1].double()[None]
    if (products := wide.products()) is not None:
        return _of_products(products)
    if isinstance(wide, GaussianMixture):
        return _of_components(wide)
    return _of_diagonals(wide)


def _of_products(products: Products) -> tuple[Tensor, Tensor]:
    weights = products.log_weights.double().exp()  # (1|n, K)
    law = products.law(torch.arange(weights.shape[1], device=weights.device))
    means, variances = (of.double().flatten(1) for of in (law.mean(), law.variance()))  # (K, D)
    mean = weights @ means
    rows = zip(weights, mean, strict=True)
    between = torch.stack([(means - m).T @ (w[:, None] * (means - m)) for w, m in rows])
    return mean, between + torch.diag_embed(weights @ variances)


def _of_components(target: GaussianMixture) -> tuple[Tensor, Tensor]:
    means, weights = target.means.flatten(1), target.weights
    mean = weights @ means
    within = torch.einsum("k,kij->ij", weights, target.covariances)
    return mean[None], (within + (means - mean).T @ (weights[:, None] * (means - mean)))[None]


def _of_diagonals(target: ContinuousTarget) -> tuple[Tensor, Tensor]:
    require_one_law(target, "the covariance of this law")
    mean, variance = (of.double().flatten() for of in (target.spec.mean, target.spec.variance))
    D = len(mean)
    if D > LARGEST:
        raise UnfitError(
            "the covariance of a law that is neither Gaussian nor a mixture of products can be had "
            f"up to {LARGEST} numbers, got {D}; shorten the sequences, or fit a Gaussian to them."
        )
    covariance = variance.diag()
    for pairs in _rounds(D):
        matrix = torch.eye(D, dtype=torch.float64, device=mean.device)
        i, j = torch.tensor(pairs, device=mean.device).T
        matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = (
            sign * math.sqrt(0.5) for sign in (1, 1, 1, -1)
        )
        along = target.transformed(matrix).spec.variance.double().flatten()
        covariance[i, j] = covariance[j, i] = 0.5 * (along[i] - along[j])
    return mean[None], covariance[None]


def _rounds(D: int) -> list[list[tuple[int, int]]]:
    """All pairs of 0..D-1, in rounds of disjoint pairs, by the circle method for round robins."""
    ring = list(range(D + D % 2))
    rounds = []
    for _ in range(len(ring) - 1):
        pairs = zip(ring[: len(ring) // 2], ring[: len(ring) // 2 - 1 : -1], strict=True)
        rounds.append([(a, b) for a, b in pairs if max(a, b) < D])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return [pairs for pairs in rounds if pairs]
