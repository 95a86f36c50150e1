"""Conditionals of a chain of order m, by the span of tokens that tell of one token.

m known tokens in a row screen a chain off: of token i, only the tokens between the last such run
before it and the first one after it tell anything. A law of few tokens of each row, late in a
decoding, takes a recursion over some tokens in place of one over the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["FEW", "PAYS", "Spans"]

FEW = 64  # spans of all sizes that are taken together
PAYS = 0.5  # largest share of a recursion over all tokens at which spans are used

Recursion = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From tokens (m, W), which of them are known, and the one that is asked for, to laws (m, V)."""


class Spans:
    """The laws of single tokens of known and unknown ones.

    Args:
        x: Token ids, (n, N); values of unknown tokens are ignored.
        known: Which of them are known, (n, N) bool.
        order: Number m of known tokens in a row that screen off, at least 1.
        recursion: Function that runs over spans of one length.
    """

    def __init__(self, x: Tensor, known: Tensor, order: int, recursion: Recursion) -> None:
        self._x, self._known, self._recursion = x, known, recursion
        n, N = x.shape
        ends = known.clone()  # of a run of m known tokens
        for back in range(1, order):
            ends[:, back:] &= known[:, :-back]
        ends[:, : order - 1] = False
        place = torch.arange(N, device=x.device).expand(n, N)
        last = torch.where(ends, place, -1).cummax(1).values
        self._start = (last - order + 1).clamp(min=0)  # (n, N); 0 where no run is before
        begins = torch.zeros_like(ends)
        begins[:, : N - order + 1] = ends[:, order - 1 :]
        first = torch.where(begins, place, N).flip(1).cummin(1).values.flip(1)
        self._end = (first + order - 1).clamp(max=N - 1)  # N - 1 where no run is after

    def laws(self, chosen: Tensor) -> Tensor | None:
        """Probabilities (m, V) of the chosen tokens, (n, N) bool, or None if spans do not pay."""
        if bool((chosen & self._known).any()):
            return None
        rows, token = chosen.nonzero(as_tuple=True)
        start, end = self._start[rows, token], self._end[rows, token]
        length = end - start + 1
        size = 2 ** (length.double().log2().ceil().long())  # spans of a size are taken together
        if len(rows) <= FEW:
            size = torch.full_like(size, int(size.max())) if len(rows) else size
        if not len(rows) or float(size.sum()) > PAYS * self._x.numel():
            return None
        found: Tensor | None = None
        for W in size.unique().tolist():
            some = (size == W).nonzero()[:, 0]
            index = start[some, None] + torch.arange(W, device=rows.device)
            inside = index <= end[some, None]
            index = index.clamp(max=self._x.shape[1] - 1)
            x = self._x[rows[some, None], index]
            known = self._known[rows[some, None], index] & inside
            asked = torch.arange(W, device=rows.device) == (token - start)[some, None]
            laws = self._recursion(x, known, asked)
            if found is None:
                found = laws.new_empty(len(rows), laws.shape[1])
            found[some] = laws
        return found
