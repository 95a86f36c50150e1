"""How many numbers a tile of a large computation may hold."""

from __future__ import annotations

import torch

__all__ = ["GPU_FACTOR", "tile_size"]

GPU_FACTOR = 64  # a GPU needs kernels of tens of millions of numbers to be busy


def tile_size(numbers: int, device: torch.device) -> int:
    """Most numbers of a tile on a device.

    Args:
        numbers: Most numbers of a tile on a CPU, chosen such that the tile stays in the cache.
        device: Device of the computation.
    """
    return numbers if device.type == "cpu" else numbers * GPU_FACTOR
