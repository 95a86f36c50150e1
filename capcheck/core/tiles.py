"""Tiles of a large computation: how many numbers one may hold, and which rows it has."""

from __future__ import annotations

from collections.abc import Iterator

import torch

__all__ = ["GPU_FACTOR", "slices", "tile_size"]

GPU_FACTOR = 64  # a GPU needs kernels of tens of millions of numbers to be busy


def tile_size(numbers: int, device: torch.device) -> int:
    """Most numbers of a tile on a device.

    Args:
        numbers: Most numbers of a tile on a CPU, chosen such that the tile stays in the cache.
        device: Device of the computation.
    """
    return numbers if device.type == "cpu" else numbers * GPU_FACTOR


def slices(total: int, size: int, *, start: int = 0) -> Iterator[slice]:
    """Consecutive slices of at most `size` rows, from `start` to `total`."""
    return (slice(first, min(first + size, total)) for first in range(start, total, size))
