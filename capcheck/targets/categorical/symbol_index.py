"""The rows of token ids that have a given symbol at a given token."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TILE", "Found", "SymbolIndex"]

TILE = 1 << 20  # most rows that are listed at once, but for the last pair of a list


@dataclass(frozen=True, eq=False)
class Found:
    """The rows of several pairs of a token and a symbol.

    Attributes:
        sizes: Number of rows of each pair.
        index: The rows of the first pair, those of the second, and so on.
    """

    sizes: Tensor
    index: Tensor


class SymbolIndex:
    """Rows of token ids, sorted by the symbol of each token when they are first asked for.

    Args:
        rows: (K, N) integers in 0..V-1.
        vocabulary: Number V of symbols.
    """

    def __init__(self, rows: Tensor, vocabulary: int) -> None:
        self._rows = rows
        self._vocabulary = vocabulary

    def components(self, token: Tensor, symbol: Tensor) -> Iterator[tuple[slice, Found]]:
        """The rows with each symbol at each token, some pairs at a time.

        Args:
            token: Indices of m tokens.
            symbol: The symbol at each of them, (m,).
        """
        order, first = self._sorted
        K, V = self._rows.shape[0], self._vocabulary
        pair = token * (V + 1) + symbol
        begin, end = first[pair], first[pair + 1]
        counts = (end - begin).cumsum(0)
        start = 0
        while start < len(pair):
            done = int(counts[start - 1]) if start else 0
            stop = max(start + 1, int(torch.searchsorted(counts, done + TILE, right=True)))
            part = slice(start, stop)
            sizes = end[part] - begin[part]
            shift = token[part] * K + begin[part] - (sizes.cumsum(0) - sizes)
            place = torch.arange(int(sizes.sum()), device=pair.device)
            yield part, Found(sizes, order[place + shift.repeat_interleave(sizes)])
            start = stop

    @functools.cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        """The rows in the order of their symbols, (N K,), and where each symbol begins, (N (V+1),).

        The second counts from the first row of a token.
        """
        ids = self._rows.T
        counts = torch.zeros(len(ids), self._vocabulary + 1, dtype=torch.int64, device=ids.device)
        counts.scatter_add_(1, ids + 1, torch.ones_like(ids))
        return ids.argsort(dim=1, stable=True).flatten(), counts.cumsum(1).flatten()
