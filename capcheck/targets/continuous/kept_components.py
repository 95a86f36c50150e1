"""The components that count in the rows of a tile, where few of them do."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FEW", "components_above", "padded"]

FEW = 4  # components are picked where fewer than one in this many count


def components_above(share: Tensor, least: float) -> tuple[Tensor, Tensor | None]:
    """The shares (r, k) above `least` and their components (r, k), or all of them, without.

    Rows with fewer than k of them are filled up with shares of 0. Components are left out if fewer
    than one in `FEW` counts.
    """
    counts = share > least
    of_rows = counts.sum(1)
    k = int(of_rows.max())
    if FEW * k >= share.shape[1]:
        return share, None
    row, component = counts.nonzero(as_tuple=True)  # in the order of the rows
    place = torch.arange(len(row), device=row.device) - (of_rows.cumsum(0) - of_rows)[row]
    kept, index = share.new_zeros(len(share), k), component.new_zeros(len(share), k)
    kept[row, place], index[row, place] = share[row, component], component
    return kept, index


def padded(tile: Tensor, width: int) -> Tensor:
    """A tile (r, k, ...) with zeros appended up to `width` components."""
    wide = tile.new_zeros(len(tile), width, *tile.shape[2:])
    wide[:, : tile.shape[1]] = tile
    return wide
