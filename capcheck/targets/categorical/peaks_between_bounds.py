"""Which largest probabilities of tokens must be known, where bounds on all of them are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["peaks_between_bounds"]


def peaks_between_bounds(
    low: Tensor,
    high: Tensor,
    chosen: Tensor,
    exact: Callable[[Tensor], Tensor],
    *,
    most: int,
    least: float,
    ordered: bool,
    near: float,
) -> Tensor:
    """The largest probabilities of tokens, (n, C), as `TokenLaw.peaks_where` answers.

    Args:
        low: Lower bounds, (n, C), 0 where not chosen; they are overwritten, as are the upper ones.
        high: Upper bounds, (n, C), 0 where not chosen.
        chosen: The tokens, (n, C) bool.
        exact: Function from a mask (n, C) of m tokens to their largest probabilities, (m,).
        most: Number of the largest ones of each row that count.
        least: Probability from which on all count.
        ordered: Whether the order of those that count is asked for.
        near: Distance at which a bound is no proof that a number is smaller.
    """

    def settle(asked: Tensor) -> None:
        low[asked] = high[asked] = exact(asked)

    if ordered:
        first = chosen & (high >= _largest(high, most))
        settle(first)
        last = _largest(torch.where(first, low, 0), most)
        settle(chosen & ~first & (high >= last.clamp(max=least) - near))
        return high
    passes, fails = low >= least + near, high < least - near
    inside = low > _largest(high, most + 1) + near
    outside = high < _largest(low, most) - near
    ranks = chosen & ~inside & ~outside & ~passes.any(1, keepdim=True)
    settle((chosen & ~passes & ~fails) | ranks)
    return torch.where(passes | inside, low, high)


def _largest(values: Tensor, count: int) -> Tensor:
    """The value of rank `count` in each row (n, C), and 0 where there are fewer: (n, 1)."""
    if count > values.shape[1]:
        return torch.zeros_like(values[:, :1])
    return values.topk(count, dim=1).values[:, -1:]
