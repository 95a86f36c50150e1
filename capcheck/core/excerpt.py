"""An excerpt: a few sequences as nested lists, short enough to be stored for a report."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["EXAMPLES", "EXAMPLE_NUMBERS", "excerpt", "excerpt_rows"]

EXAMPLES = 200  # largest number of sequences of an excerpt
# Largest number of numbers in an excerpt; eight sequences are kept in any case.
EXAMPLE_NUMBERS = 4096


def excerpt_rows(count: int, numbers: int) -> int:
    """The number of sequences of an excerpt from `count` sequences of so many numbers each."""
    return min(count, max(8, min(EXAMPLES, EXAMPLE_NUMBERS // max(1, numbers))))


def excerpt(sequences: Tensor) -> list[Any]:
    """The first few sequences as nested lists; continuous ones are rounded to four digits.

    Args:
        sequences: (n, N, d), or (n, N) integers.
    """
    count = excerpt_rows(len(sequences), sequences[0].numel())
    if not sequences.is_floating_point():
        integers: list[Any] = sequences[:count].tolist()
        return integers
    rows = sequences[:count].double().cpu()
    shape = rows.shape
    rounded = [float(f"{value:.4g}") for value in rows.flatten().tolist()]
    nested: list[Any] = torch.tensor(rounded, dtype=torch.float64).reshape(shape).tolist()
    return nested
