"""The rows of each step along a chain, by which of the tokens that it joins are known."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["Patterns"]


class Patterns:
    """The rows of every step, by which of its tokens are known.

    Args:
        x: Token ids, (n, N).
        known: Which of them are known, (n, N) bool.
        order: Number m of tokens of a state.
        symbols: Number V of symbols.
    """

    def __init__(self, x: Tensor, known: Tensor, order: int, symbols: int) -> None:
        self.x, self.known, self._m, self._V = x, known, order, symbols
        # One step more than there are tokens, as if a last token were unknown.
        padded = torch.nn.functional.pad(known.long(), (order, 1))
        N = known.shape[1] + 1
        codes = torch.zeros_like(padded[:, :N])
        for b in range(order + 1):
            codes += padded[:, order - b : order - b + N] << b
        self._order = codes.argsort(dim=0, stable=True)
        patterns = torch.arange(2 ** (order + 1), device=known.device)
        self._counts = (codes[..., None] == patterns).sum(0).tolist()  # (N + 1, 2^(m + 1))
        self._values: dict[int, Tensor] = {}

    def at(self, i: int) -> Iterator[tuple[int, Tensor]]:
        """The patterns of the step from token i to i + 1, and the rows (r,) of each.

        A pattern is a binary number, whose last digit tells whether token i + 1 is known, and the
        others which of the last m tokens are.
        """
        start = 0
        for code, count in enumerate(self._counts[i + 1]):
            if count:
                yield code, self._order[start : start + count, i + 1]
            start += count

    def values(self, code: int) -> Tensor:
        """The values of the tokens that a pattern knows, as one number to the base V, (n, N)."""
        if code not in self._values:
            padded = torch.nn.functional.pad(self.x, (self._m, 0))
            N, found = self.x.shape[1], torch.zeros_like(self.x)
            for b in reversed(range(self._m + 1)):
                if code >> b & 1:
                    found = found * self._V + padded[:, self._m - b : self._m - b + N]
            self._values[code] = found
        return self._values[code]
