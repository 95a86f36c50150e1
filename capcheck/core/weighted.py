"""Sums of values by weights, as one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["weighted_mean", "weighted_sums"]


def weighted_sums(weights: Tensor, values: Tensor) -> Tensor:
    """The product weights @ values, fast also where there are few columns of values.

    The transposed product is made. Where a row has thousands of weights and few columns of values,
    matrix products on a CPU take a third to an eighth of the time in this order.

    Args:
        weights: (..., r, K).
        values: (..., K, D).

    Returns:
        The sums, (..., r, D).
    """
    return (values.mT.contiguous() @ weights.mT).mT


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
