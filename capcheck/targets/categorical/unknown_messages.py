"""Conditionals of a chain of order m, by messages over those of the last m tokens that are unknown.

The state of a token is the string of the last m tokens. Where some of them are known, only the
others take values, so that a message has V^u numbers for u unknown tokens and not V^m, and a step
with u + 1 unknown tokens costs V^(u+1) multiply-adds and not V^(m+1). m known tokens in a row end
both recursions by themselves. The rows of a step are grouped by which of its m + 1 tokens are
known; each group takes its own products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from capcheck.core.tiles import slices
from capcheck.targets.categorical.chain import last_known
from capcheck.targets.categorical.patterns import Patterns

__all__ = ["FEW_ROWS", "MOST_ORDER", "TILE", "WIDE", "UnknownMessages"]

TILE = 1 << 24  # most numbers of the messages of the chosen tokens, or of the tables of a step
FEW_ROWS = 64  # rows of a tile for which up to four times as much is held
WIDE = 1 << 14  # fewest numbers V^(m+1) of a table at which fewer products pay
MOST_ORDER = 3  # largest order m, since the rows of a step are in up to 2^(m+1) groups


@dataclass(frozen=True, eq=False)
class _Messages:
    """Messages of one token, by which tokens of its state are known.

    Attributes:
        parts: From a pattern of known tokens, read as a binary number, to (r, V^u).
        place: Index of each row in its part, (n,); of rows in no part it means nothing.
        whole: Whether one part holds all rows, in their order.
    """

    parts: dict[int, Tensor]
    place: Tensor
    whole: bool

    def of(self, pattern: int, rows: Tensor) -> Tensor:
        """The messages of some rows of one pattern, (r, V^u)."""
        part = self.parts[pattern]
        if self.whole and len(rows) == len(part):
            return part
        return part.index_select(0, self.place[rows])

    @staticmethod
    def joined(found: list[tuple[int, Tensor, Tensor]], n: int) -> _Messages:
        """From patterns, their rows (r,) and the messages of these, for n rows in all."""
        parts: dict[int, Tensor] = {}
        place = found[0][1].new_zeros(n)
        for pattern in sorted({pattern for pattern, _, _ in found}):
            own = [(rows, message) for key, rows, message in found if key == pattern]
            rows = torch.cat([rows for rows, _ in own])
            place[rows] = torch.arange(len(rows), device=place.device)
            messages = [message for _, message in own]
            parts[pattern] = messages[0] if len(own) == 1 else torch.cat(messages)
        return _Messages(parts, place, whole=len(found) == 1 and len(found[0][1]) == n)


@dataclass(frozen=True, eq=False)
class _Step:
    """A step between the states of tokens i and i + 1, for rows with one pattern of known tokens.

    Attributes:
        tables: p(x_{i+1} | state) by the values of the known tokens: (V^k, A, K, C), with A values
            of the token that leaves the state, K of those that stay and C of the new one; a token
            that is known, or does not exist, has one value.
        values: Index of the values of the known tokens of each row, (r,).
    """

    tables: Tensor
    values: Tensor

    def forward(self, message: Tensor) -> Tensor:
        """From messages (r, A K) to (r, K C)."""
        A, K = self.tables.shape[1:3]
        seen = message.reshape(-1, A, K)
        if len(self.tables) == 1 and A > 1:
            onward = torch.bmm(seen.permute(2, 0, 1), self.tables[0].transpose(0, 1))  # (K, r, C)
            return onward.transpose(0, 1).reshape(len(message), -1)
        return self._by_parts(self._forward, seen)

    def _forward(self, seen: Tensor, own: Tensor) -> Tensor:
        _, A, K, C = own.shape
        if A == 1:
            onward = seen[:, 0, :, None] * own[:, 0]
        elif C == 1:
            onward = (seen * own[..., 0]).sum(1)
        elif K == 1:
            onward = torch.bmm(seen.mT, own[:, :, 0])
        else:
            onward = torch.einsum("rak,rakc->rkc", seen, own)
        return onward.reshape(len(seen), -1)

    def backward(self, message: Tensor) -> Tensor:
        """From messages (r, K C) to (r, A K)."""
        _, A, K, C = self.tables.shape
        seen = message.reshape(-1, K, C)
        if len(self.tables) == 1 and C > 1 and A > 1:
            back = torch.bmm(seen.transpose(0, 1), self.tables[0].permute(1, 2, 0))  # (K, r, A)
            return back.permute(1, 2, 0).reshape(len(message), -1)
        return self._by_parts(self._backward, seen)

    def _backward(self, seen: Tensor, own: Tensor) -> Tensor:
        _, A, K, C = own.shape
        if C == 1:
            back = own[..., 0] * seen[:, None, :, 0]
        elif A == 1:
            back = (own[:, 0] * seen).sum(-1)
        elif K == 1:
            back = torch.bmm(own[:, :, 0], seen.mT)
        else:
            back = torch.einsum("rakc,rkc->rak", own, seen)
        return back.reshape(len(seen), -1)

    def _by_parts(self, take: Callable[[Tensor, Tensor], Tensor], seen: Tensor) -> Tensor:
        """A product with the tables (r, A, K, C) of the rows, of some rows at a time."""
        tiles = slices(len(seen), max(1, TILE // self.tables[0].numel()))
        parts = [take(seen[rows], self.tables[self.values[rows]]) for rows in tiles]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class UnknownMessages:
    """Laws of tokens of a chain given the known ones, or given those before each only.

    Every transition must be possible; see `serves`.

    Args:
        table: Function from a token to its law given the last min(i, m) tokens, (V, .., V).
        order: Number m of tokens of a state, at least 1.
    """

    def __init__(self, table: Callable[[int], Tensor], order: int) -> None:
        self._table, self._m = table, order
        self._V, self._dtype = table(0).shape[-1], table(0).dtype
        self._arranged: dict[tuple[int, int], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies leave the arranged tables behind, which are known by where the tables stand."""
        return self.__dict__ | {"_arranged": {}}

    @staticmethod
    def serves(least: float, order: int, symbols: int, dtype: torch.dtype) -> bool:
        """Whether the messages are small enough to pay, and none of them vanishes.

        A message from the left and one from the right are multiplied, and each state of m tokens
        has at least the share `least`^m of either.

        Args:
            least: Least probability of a transition.
            order: Number m of tokens of a state.
            symbols: Number V of symbols.
            dtype: Precision of the messages.
        """
        facts = torch.finfo(dtype)
        pays = 0 < order <= MOST_ORDER and symbols ** (order + 1) >= WIDE
        return pays and least ** (2 * order) >= facts.tiny / facts.eps

    def laws(self, x: Tensor, known: Tensor, chosen: Tensor, *, causal: bool = False) -> Tensor:
        """Probabilities (m, V) of the m tokens that are `chosen`, row after row.

        Args:
            x: Token ids, (n, N); values of unknown tokens are ignored.
            known: Which of them are known, (n, N) bool.
            chosen: Which laws are asked for, (n, N) bool.
            causal: Whether only the known tokens before a token tell of it. Otherwise a known
                token has a point mass.
        """
        x = torch.where(known, x, 0)
        asked = chosen if causal else chosen & ~known
        place = (chosen.flatten().cumsum(0) - 1).reshape(chosen.shape)
        found = torch.zeros(int(chosen.sum()), self._V, dtype=self._dtype, device=x.device)
        if not causal:
            found[place[chosen & known], x[chosen & known]] = 1
        most = int(asked.sum(1).max()) if len(asked) else 0
        numbers = max(1, most * self._V**self._m)  # of the messages of a row
        for rows in slices(len(x), max(1, TILE // numbers, min(FEW_ROWS, 4 * TILE // numbers))):
            if bool(asked[rows].any()):
                steps = Patterns(x[rows], known[rows], self._m, self._V)
                told = None if causal else self._backward(steps, asked[rows])
                self._forward(steps, asked[rows], told, place[rows], found)
        return found

    def _forward(
        self,
        steps: Patterns,
        asked: Tensor,
        told: dict[int, _Messages] | None,
        place: Tensor,
        found: Tensor,
    ) -> None:
        """Fill in the laws of the tokens that are asked for.

        Args:
            steps: The tokens, and the rows of every step.
            asked: Tokens whose laws are asked for, (n, N) bool.
            told: The messages of later tokens, or None if these do not count.
            place: Index of each law that is asked for, (n, N).
            found: The laws, (m, V).
        """
        some_ask = asked.any(0).tolist()
        tokens = [i for i, any_row in enumerate(some_ask) if any_row]
        first = self._first(steps.known, tokens[0])
        messages = self._ones(steps, first - 1)
        for i in range(first - 1, tokens[-1]):
            joined = []
            for code, rows in steps.at(i):
                state = code & self._mask(i + 1)
                seen = messages.of(code >> 1, rows)
                onward = self._step(steps, rows, i, code).forward(seen)
                if code & 1:  # other steps keep the sum
                    onward = onward / onward.sum(1, keepdim=True)
                joined.append((state, rows, onward))
                some = asked[rows, i + 1]
                if not (some_ask[i + 1] and bool(some.any())):
                    continue
                if code & 1:  # the law of a known token, given those before it
                    onward = self._step(steps, rows[some], i, code - 1).forward(seen[some])
                else:
                    onward = onward[some]
                if told is not None:
                    onward = onward * told[i + 1].of(state, rows[some])
                law = onward.reshape(len(onward), -1, self._V).sum(1)
                found[place[rows[some], i + 1]] = law / law.sum(1, keepdim=True)
            messages = _Messages.joined(joined, len(asked))

    def _backward(self, steps: Patterns, asked: Tensor) -> dict[int, _Messages]:
        """The messages of later tokens for the rows that ask for a token, by token."""
        some_ask = asked.any(0).tolist()
        tokens = [i for i, any_row in enumerate(some_ask) if any_row]
        last = self._last(steps.known, tokens[-1])
        messages = self._ones(steps, last)
        told: dict[int, _Messages] = {}
        for i in reversed(range(tokens[0] - 1, last)):
            joined, kept = [], []
            for code, rows in steps.at(i):
                state = code & self._mask(i + 1)
                seen = messages.of(state, rows)
                if some_ask[i + 1] and bool((some := asked[rows, i + 1]).any()):
                    kept.append((state, rows[some], seen[some]))
                if i < tokens[0]:
                    continue
                back = self._step(steps, rows, i, code).backward(seen)
                if code & 1:  # other steps are means
                    back = back / back.amax(1, keepdim=True)
                joined.append((code >> 1, rows, back))
            if kept:
                told[i + 1] = _Messages.joined(kept, len(asked))
            if joined:
                messages = _Messages.joined(joined, len(asked))
        return told

    def _first(self, known: Tensor, token: int) -> int:
        """The last token i up to `token` that is preceded by m known tokens in all rows, or 0."""
        whole = known.all(0).tolist()
        return next((i for i in range(token, 0, -1) if all(whole[max(0, i - self._m) : i])), 0)

    def _last(self, known: Tensor, token: int) -> int:
        """The first token from `token` on of which no later token tells but by its state."""
        whole, m, end = known.all(0).tolist(), self._m, max(token, last_known(known))
        settled = (j for j in range(max(token, m - 1), end) if all(whole[j + 1 - m : j + 1]))
        return next(settled, end)

    def _ones(self, steps: Patterns, i: int) -> _Messages:
        """Messages of token i, of which nothing is told; its state may lie before the sequence."""
        width = min(i + 1, self._m)
        ones = []
        for code, rows in steps.at(i):
            numbers = self._V ** (width - (code >> 1).bit_count())
            ones.append((code >> 1, rows, self._table(0).new_ones(len(rows), numbers)))
        return _Messages.joined(ones, len(steps.known))

    def _mask(self, i: int) -> int:
        """The digits of a pattern that are of the state of token i."""
        return int(2 ** min(i + 1, self._m)) - 1

    def _step(self, steps: Patterns, rows: Tensor, i: int, code: int) -> _Step:
        """The step from token i to token i + 1 of the rows of a pattern."""
        width, V = min(i + 1, self._m), self._V
        table = self._table(i + 1)
        key = id(table), code
        if key not in self._arranged:
            shown = [j for j in range(width + 1) if code >> (width - j) & 1]
            left = [0] if width == self._m and 0 not in shown else []
            new = [width] if width not in shown else []
            stay = [j for j in range(width) if j not in (*shown, *left)]
            ordered = table.permute(shown + left + stay + new)
            sizes = (V ** len(axes) for axes in (shown, left, stay, new))
            self._arranged[key] = ordered.reshape(*sizes)
        return _Step(self._arranged[key], steps.values(code)[rows, i + 1])
