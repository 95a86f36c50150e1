"""Laws of tokens ahead of known ones, in a chain of order m that is the same everywhere.

Where the last m tokens before a run of unknown ones are known, and no later token tells, the k-th
token of the run has the law

    T_k(c | a_1 .. a_m) = sum_x T(x | a_1 .. a_m) T_{k-1}(c | a_2 .. a_m x),   T_1 = T,

which is a table of V^(m+1) numbers for each k: procedures that go from left to right need no
recursion.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["HELD", "MULTIPLIED", "Ahead"]

HELD = 1 << 25  # most numbers of all tables together: 256 MiB
MULTIPLIED = 1e9  # most multiply-adds for a table


class Ahead:
    """The laws of tokens that follow m known ones.

    Args:
        table: T, the law of a token given the m >= 1 before it, (V, .., V) of m + 1 dimensions.
    """

    def __init__(self, table: Tensor) -> None:
        self._m, self._V = table.dim() - 1, table.shape[-1]
        self._tables = [table.reshape(-1, self._V)]  # (V^m, V) each
        fits = self._V * table.numel() <= MULTIPLIED
        self._most = max(1, HELD // table.numel()) if fits else 1

    def laws(
        self, x: Tensor, known: Tensor, chosen: Tensor, *, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """The laws of those of the chosen tokens that follow m known ones and unknown ones only.

        Args:
            x: Token ids, (n, N); values of unknown tokens are ignored.
            known: Which of them are known, (n, N) bool.
            chosen: Which laws are asked for, (n, N) bool.
            causal: Whether later tokens do not tell. Otherwise known tokens are none of those.

        Returns:
            Which tokens these are, (n, N) bool, and their laws (k, V), row after row.
        """
        place = torch.arange(x.shape[1], device=x.device).expand_as(x)
        through = torch.where(known, place, -1).cummax(1).values
        last = torch.nn.functional.pad(through[:, :-1], (1, 0), value=-1)  # known before each token
        gap = place - last
        run = torch.where(known, -1, place).cummax(1).values  # last unknown token up to each
        ends = place - run >= self._m  # m known tokens end there
        fits = chosen & (last >= 0) & (gap <= self._most) & ends.gather(1, last.clamp(min=0))
        if not causal:
            fits = fits & ~known & (place > through[:, -1:])
        rows, token = fits.nonzero(as_tuple=True)
        state = torch.zeros_like(rows)
        for back in reversed(range(self._m)):
            state = state * self._V + x[rows, last[rows, token] - back]
        found = self._tables[0].new_empty(len(rows), self._V)
        steps = gap[rows, token]
        for k in steps.unique().tolist():
            some = (steps == k).nonzero()[:, 0]
            found[some] = self._table(k)[state[some]]
        return fits, found

    def _table(self, k: int) -> Tensor:
        """T_k, (V^m, V)."""
        V = self._V
        while len(self._tables) < k:
            onward = self._tables[0].reshape(V, -1, V).transpose(0, 1)  # (V^(m-1), a, x)
            further = self._tables[-1].reshape(-1, V, V)  # (V^(m-1), x, c)
            self._tables.append(torch.bmm(onward, further).transpose(0, 1).reshape(-1, V))
        return self._tables[k - 1]
