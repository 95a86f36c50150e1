"""States with log-probabilities, of which equal ones are merged into one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["merged"]

LARGEST = 1 << 62  # of the numbers that stand for several columns at once


def merged(states: Tensor, log_mass: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct states, with the log-probability of each.

    Args:
        states: (n, C) integers, not negative, one state a row.
        log_mass: Log-probability of each state (nats), (n,) float64; -inf is probability 0.

    Returns:
        The distinct states in rising order, (m, C), and their log-probabilities, (m,).
    """
    place, count = _ranks(states)
    example = torch.zeros(count, dtype=torch.int64).scatter(0, place, torch.arange(len(place)))
    largest = torch.full((count,), -torch.inf, dtype=torch.float64)
    largest = largest.scatter_reduce(0, place, log_mass, "amax")
    shift = torch.where(largest > -torch.inf, largest, 0)
    sums = torch.zeros(count, dtype=torch.float64)
    sums = sums.index_add(0, place, (log_mass - shift[place]).exp())
    return states[example], sums.log() + shift


def _ranks(states: Tensor) -> tuple[Tensor, int]:
    """The rank of each state among the distinct ones (n,), and their number.

    Columns are packed into one number, which is sorted ten times faster than rows are.
    """
    code, size = torch.zeros(len(states), dtype=torch.int64), 1
    for column in states.T:
        width = 1 + (int(column.max()) if len(column) else 0)
        if size * width > LARGEST:
            distinct, code = code.unique(return_inverse=True)
            size = len(distinct)
        code, size = code * width + column, size * width
    distinct, code = code.unique(return_inverse=True)
    return code, len(distinct)
