"""The largest logits of every row over components that are read in parts."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LargestLogits"]


class LargestLogits:
    """The largest logits of n rows so far, `value` (n, count), and their components, `index`.

    Args:
        like: A tensor of n rows, of the type and device of the logits.
        count: Number of logits that are kept of each row.
    """

    def __init__(self, like: Tensor, count: int) -> None:
        self.value = like.new_full((len(like), count), -torch.inf)
        self.index = torch.zeros_like(self.value, dtype=torch.int64)

    def add(self, rows: slice, logits: Tensor, highest: Tensor, start: int) -> None:
        """Update with the logits (r, c) of components start..start+c-1, with maxima (r,)."""
        count = self.value.shape[1]
        better = (highest > self.value[rows].amin(1)).nonzero()[:, 0]
        value, index = logits[better].topk(min(count, logits.shape[1]), -1, sorted=False)
        better = better + rows.start
        value = torch.cat([self.value[better], value], 1)
        index = torch.cat([self.index[better], index + start], 1)
        self.value[better], kept = value.topk(count, -1, sorted=False)
        self.index[better] = index.gather(1, kept)
