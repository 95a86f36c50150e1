"""Exponentials of logarithms and their sums, fast also where exponentials underflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["exp_", "log_sum_exp", "softmax"]


def exp_(x: Tensor) -> Tensor:
    """Put exp(x) in the place of x, floating-point numbers of any shape, by powers of 2.

    The relative error is some |x| roundings. On a CPU it takes two thirds of the time of
    `torch.exp`, which is ten times slower where it underflows.
    """
    return x.mul_(1 / math.log(2)).exp2_()


def softmax(x: Tensor) -> Tensor:
    """The weights exp(x) over their sum in the last dimension, as `torch.softmax` to rounding.

    Args:
        x: Logarithms (..., K), of which at least one in every row is finite.
    """
    share = exp_(x - x.detach().amax(-1, keepdim=True))
    return share.div_(share.sum(-1, keepdim=True))


def log_sum_exp(x: Tensor, dim: int = -1) -> Tensor:
    """The logarithm of the sum of exp(x) over one dimension; `torch.logsumexp` to rounding.

    Args:
        x: Logarithms, which may be infinite.
        dim: The dimension that is summed.
    """
    highest = x.detach().amax(dim, keepdim=True)
    shift = torch.where(highest.isfinite(), highest, 0)
    total = exp_(x - shift).sum(dim)
    nothing = highest.squeeze(dim) == -torch.inf
    return torch.where(nothing, -torch.inf, total.log() + shift.squeeze(dim))
