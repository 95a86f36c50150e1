"""Lost rows: draws that a diverging sampler put infinitely far from everything.

A row is lost if it is not finite, or so far out that it cannot be squared: beyond 1e70 units, where
the variance of its squared distance overflows. Its distance to every other row, lost ones included,
counts as infinite. A Wasserstein distance is then infinite, Gaussian kernels are 0, and so is the
target's density.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FARTHEST", "lost_rows", "told"]

FARTHEST = 1e70  # units beyond which a row is lost: their fourth power is close to what float64 has


def lost_rows(x: Tensor, unit: float) -> Tensor:
    """Whether each row is lost, (n,) bool; token ids never are.

    Args:
        x: (n, ...).
        unit: Size of what the rows are compared with, in their own unit.
    """
    if not x.is_floating_point():
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    largest = x.flatten(1).abs().amax(1).double()  # NaN where there is one
    return ~(largest.isfinite() & (largest <= FARTHEST * unit))


def told(count: int, rows: int) -> str:
    """How many rows are lost, in words."""
    what = "infinitely far out (not finite, or too large to be squared)"
    return f"{count} of {rows} draws are {what}"
