"""Lost rows: draws of a diverging sampler that count as infinitely far from all other draws.

A row is lost if it is not finite or larger than `FARTHEST` units, beyond which the variance of its
squared distance overflows. Its distance to every other row, lost or not, counts as infinite: a
Wasserstein distance is then infinite, and Gaussian kernels and the target's density are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec

__all__ = ["FARTHEST", "lost_clause", "lost_count", "lost_rows"]

FARTHEST = 1e70  # units beyond which a row is lost; the fourth power, 1e280, still fits float64


def lost_rows(x: Tensor, unit: float) -> Tensor:
    """Whether each row is lost, (n,) bool; token ids never are.

    Args:
        x: Rows, (n, ...).
        unit: Size of the data that the rows are compared with, in the unit of x.
    """
    if not x.is_floating_point():
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    largest = x.flatten(1).abs().amax(1).double()  # NaN if the row has one
    return ~(largest.isfinite() & (largest <= FARTHEST * unit))


def lost_count(samples: Tensor, spec: SequenceSpec) -> int:
    """The number of lost rows among draws of sequences, of which some tokens may not count."""
    return int(lost_rows(samples[:, list(spec.counted)], spec.spread or 1.0).sum())


def lost_clause(count: int, rows: int) -> str:
    """The clause that says how many of some draws are lost."""
    what = "infinitely far out (not finite, or too large to be squared)"
    return f"{count} of {rows} draws are {what}"
