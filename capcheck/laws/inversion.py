"""Inversion: the quantile of a law whose distribution function is known, F(x) = u."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def normal_cdf(z: Tensor) -> Tensor:
    """P(Z <= z) of a standard normal Z; to all digits below the mean, and twice as fast as ndtr."""
    tail: Tensor = torch.special.erfc(z * -math.sqrt(0.5))
    return 0.5 * tail


def invert_cdf(
    distribution: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    u: Tensor,
    *,
    start: Tensor,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """Solve F(x) = u by Halley's steps, x - 2 e f / (2 f^2 - e f') with e = F - u, or by bisection.

    No answer depends on the other rows.

    Args:
        distribution: x (n, N) -> F, its derivative f and the derivative f' of that, (n, N) each.
        u: (n, N) in (0, 1).
        start: (n, N), first guess.
        low: (n, N), where F <= u.
        high: (n, N), where F >= u.

    Returns:
        (n, N), to 14 digits of x, of the bracket's width or of u.
    """
    x = start
    resolution = 1e-14 * torch.maximum(high - low, torch.maximum(low.abs(), high.abs()))
    rounding = 64 * torch.finfo(u.dtype).eps * u  # closer to u, steps are noise
    settled = torch.zeros_like(x, dtype=torch.bool)
    for _ in range(200):  # bisection alone needs at most about 60 halvings of a sane bracket
        F, f, slope = distribution(x)
        e = F - u
        low, high = torch.where(e < 0, x, low), torch.where(e < 0, high, x)
        halley = x - 2 * e * f / (2 * f.square() - e * slope)
        inside = (halley > low) & (halley < high)
        settled = settled | (e.abs() <= rounding)
        moved = torch.where(settled, x, torch.where(inside, halley, 0.5 * (low + high)))
        settled = settled | ((moved - x).abs() <= resolution)
        x = moved
        if bool(settled.all()):
            break
    return x
