"""Sums of exponentials in logarithms, fast also where the exponentials would underflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["log_sum_exp", "lowest_exponent"]


def log_sum_exp(x: Tensor, dim: int = -1) -> Tensor:
    """The logarithm of the sum of exp(x) over one dimension.

    It equals `torch.logsumexp` to rounding. Where terms lie hundreds below the largest, as log
    shares of thousands of components do, it takes an eighth of the time: `exp` is ten times slower
    where it underflows, and what it underflows to changes no sum.

    Args:
        x: Logarithms, which may be infinite.
        dim: The dimension that is summed.
    """
    highest = x.detach().amax(dim, keepdim=True)
    shift = torch.where(highest.isfinite(), highest, 0)
    total = (x - shift).clamp(min=lowest_exponent(x.dtype)).exp_().sum(dim)
    nothing = highest.squeeze(dim) == -torch.inf
    return torch.where(nothing, -torch.inf, total.log() + shift.squeeze(dim))


def lowest_exponent(dtype: torch.dtype) -> float:
    """An exponent at which `exp` is next to nothing, and not yet slow from underflow."""
    return math.log(torch.finfo(dtype).tiny) + 5
