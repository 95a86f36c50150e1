"""Sums of values by weights, as one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FEW_COLUMNS", "add_weighted_sums_", "weighted_mean", "weighted_sums"]

FEW_COLUMNS = 96  # columns of values from which a product is made as it is written


def weighted_sums(weights: Tensor, values: Tensor) -> Tensor:
    """The product weights @ values, fast also where there are few columns of values.

    The transposed product is made there. Where a row has thousands of weights and few columns of
    values, matrix products on a CPU take a half to a fifth of the time in this order.

    Args:
        weights: (..., r, K).
        values: (..., K, D).

    Returns:
        The sums, (..., r, D).
    """
    if values.shape[-1] >= FEW_COLUMNS:
        return weights @ values
    return (values.mT.contiguous() @ weights.mT).mT


def add_weighted_sums_(total: Tensor, weights: Tensor, values: Tensor) -> None:
    """Add the product weights @ values to a total (r, D) in place; see `weighted_sums`.

    Args:
        total: (r, D).
        weights: (r, K).
        values: (K, D).
    """
    if values.shape[-1] >= FEW_COLUMNS:
        total.addmm_(weights, values)
    else:
        total += weighted_sums(weights, values)


def weighted_mean(share: Tensor, values: Tensor) -> Tensor:
    """The sums over k of share_k values_k, without a product of the size of the values.

    Args:
        share: Weights, (n, N, K).
        values: (n|1, N|1, K, D).

    Returns:
        The sums, (n, N, D).
    """
    if values.shape[3] == 1:
        means: Tensor = torch.linalg.vecdot(share, values[..., 0])
        return means[..., None]
    if len(values) == 1:
        return weighted_sums(share.transpose(0, 1), values[0]).transpose(0, 1)
    return (share[..., None, :] @ values)[..., 0, :]
