"""Conditionals of a Markov chain of order 1, by the gaps to the nearest known tokens.

With the transition matrix T, a known symbol l that lies a tokens before token i, and a known symbol
r that lies b tokens after it,

    p(x_i | known) = T^a[l, x_i] T^b[x_i, r] / T^(a+b)[l, r],

where the marginal law takes the place of T^a[l, x_i] if no earlier token is known. The powers are
computed once, so that a token costs V numbers in place of a recursion over the whole sequence, and
the probability of a given symbol costs three of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness, inverse_cdf
from capcheck.core.tiles import slices, tile_size
from capcheck.laws import Categorical, DeferredCategorical

__all__ = ["HELD", "LEAST", "TILE", "GapEntries", "GapLaws", "Gaps", "Powers"]

HELD = 1 << 26  # most numbers in all powers together: 512 MiB
LEAST = 1e-100  # least transition probability; products of two of them must not vanish
TILE = 1 << 22  # numbers of laws that are computed at once
MIXED = 1e-15  # relative change from a power to the next one from which all are the same


class Powers:
    """The powers T^0, T^1, .. of a transition matrix, each computed when it is first asked for.

    From a power on that no longer changes, all are the same.

    Args:
        transition: T, (V, V), of positive rows of sum 1.
        marginals: Laws of all tokens, (N, V).
    """

    def __init__(self, transition: Tensor, marginals: Tensor) -> None:
        self.transition, self.marginals = transition, marginals
        N, V = marginals.shape
        self._powers = transition.new_empty(N + 1, V, V)  # takes memory as it is filled
        self._powers[0] = torch.eye(V).to(transition)
        self._last, self._mixed = 0, False

    def __reduce__(self) -> tuple[type[Powers], tuple[Tensor, Tensor]]:
        """Copies leave the powers behind."""
        return Powers, (self.transition, self.marginals)

    @staticmethod
    def fit(tokens: int, symbols: int, least: float) -> bool:
        """Whether the powers can be held, and products of transitions do not vanish."""
        return tokens * symbols**2 <= HELD and least >= LEAST

    def onward(self, gap: Tensor, start: Tensor) -> Tensor:
        """T^gap[start, :] for gaps of 0 to N and symbols of one shape: (..., V)."""
        rows: Tensor = self._powers[self._index(gap), start]
        return rows

    def backward(self, gap: Tensor, end: Tensor) -> Tensor:
        """T^gap[:, end] for gaps of 0 to N and symbols of one shape: (..., V)."""
        columns: Tensor = self._powers[self._index(gap), :, end]
        return columns

    def between(self, gap: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """T^gap[start, end] for gaps of 0 to N and symbols of one shape."""
        entries: Tensor = self._powers[self._index(gap), start, end]
        return entries

    def _index(self, gap: Tensor) -> Tensor:
        """The places of powers, which are computed up to the largest of them."""
        powers, largest = self._powers, int(gap.max()) if gap.numel() else 0
        while self._last < largest and not self._mixed:
            before = powers[self._last]
            torch.mm(before, self.transition, out=powers[self._last + 1])
            self._last += 1
            if self._last > 1:
                change = (powers[self._last] / before - 1).abs()
                self._mixed = bool((change <= MIXED).all())
        return gap.clamp(max=self._last)


@dataclass(frozen=True, eq=False)
class Gaps:
    """The nearest known tokens around every token of n rows.

    Attributes:
        x: Tokens, (n, N); values that are not known are ignored.
        known: Which tokens are known, (n, N) bool.
        left: Index of the last known token before each token, (n, N), -1 if there is none.
        right: Index of the first known token after each, (n, N), N if there is none or it does not
            count.
    """

    x: Tensor
    known: Tensor
    left: Tensor
    right: Tensor

    @staticmethod
    def of(x: Tensor, known: Tensor, *, causal: bool) -> Gaps:
        """The gaps of tokens (n, N); only earlier tokens count if `causal`."""
        N = x.shape[1]
        place = torch.arange(N, device=x.device).expand_as(x)
        before = torch.where(known, place, -1).cummax(1).values
        left = torch.cat([torch.full_like(before[:, :1], -1), before[:, :-1]], 1)
        after = torch.where(known, place, N).flip(1).cummin(1).values.flip(1)
        right = torch.cat([after[:, 1:], torch.full_like(after[:, :1], N)], 1)
        return Gaps(x, known, left, torch.full_like(right, N) if causal else right)


@dataclass(frozen=True, eq=False)
class GapEntries:
    """The law of every token of every row, computed entry by entry.

    It is no part of `GapLaws`, whose table would otherwise refer to itself and wait for Python's
    collection of cycles: gigabytes of a procedure that asks again and again.

    Attributes:
        powers: The powers of the transition matrix.
        gaps: The nearest known tokens; those that are known have point masses unless `causal`.
        causal: Whether known tokens have the law given those before them.
    """

    powers: Powers
    gaps: Gaps
    causal: bool

    @property
    def tile(self) -> int:
        """Entries whose laws are held at once."""
        marginals = self.powers.marginals
        return max(1, tile_size(TILE, marginals.device) // marginals.shape[1])

    def table(self, tokens: list[int]) -> Categorical:
        """The laws of some tokens of all rows."""
        n = len(self.gaps.x)
        token = torch.tensor(tokens, device=self.gaps.x.device)
        parts = []
        for rows in slices(n, max(1, self.tile // len(tokens))):
            row = torch.arange(n, device=token.device)[rows, None].expand(-1, len(tokens))
            parts.append(self.laws(row, token.expand_as(row)))
        return Categorical(torch.cat(parts).log())

    def laws(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """The probabilities (..., V) of some entries, given by rows and tokens of one shape."""
        V = self.powers.marginals.shape[1]
        left, right, before, after = self._around(rows, tokens)
        onward = self.powers.onward(before, self._symbol(rows, left))
        law = torch.where((before > 0)[..., None], onward, self.powers.marginals[tokens])
        if bool((after > 0).any()):
            told = self.powers.backward(after, self._symbol(rows, right))
            law = torch.where((after > 0)[..., None], law * told, law)
            law = law / law.sum(-1, keepdim=True)
        if self.causal:
            return law
        certain = torch.nn.functional.one_hot(self._symbol(rows, tokens), V).to(law)
        return torch.where(self.gaps.known[rows, tokens][..., None], certain, law)

    def log_prob(self, rows: Tensor, tokens: Tensor, x: Tensor) -> Tensor:
        """Log-probabilities (nats) of the symbols x of some entries, all of one shape."""
        powers = self.powers
        left, right, before, after = self._around(rows, tokens)
        first, last = self._symbol(rows, left), self._symbol(rows, right)
        found = torch.where(
            before > 0, powers.between(before, first, x), powers.marginals[tokens, x]
        )
        whole = torch.where(
            before > 0,
            powers.between(torch.where(after > 0, before + after, 0), first, last),
            powers.marginals[right.clamp(max=len(powers.marginals) - 1), last],
        )
        told = powers.between(after, x, last) / whole
        found = torch.where(after > 0, found * told, found).log()
        if self.causal:
            return found
        certain = torch.where(x == self._symbol(rows, tokens), 0.0, -torch.inf).to(found)
        return torch.where(self.gaps.known[rows, tokens], certain, found)

    def _around(self, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The known tokens before and after some tokens, and the gaps to them, 0 without one."""
        left, right = self.gaps.left[rows, tokens], self.gaps.right[rows, tokens]
        outside = len(self.powers.marginals)
        before = torch.where(left >= 0, tokens - left, 0)
        return left, right, before, torch.where(right < outside, right - tokens, 0)

    def _symbol(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """The symbols of some tokens; of those that lie outside, any symbol."""
        inside = tokens.clamp(min=0, max=self.gaps.x.shape[1] - 1)
        return torch.where(self.gaps.known[rows, inside], self.gaps.x[rows, inside], 0)


class GapLaws(DeferredCategorical):
    """The laws of some tokens of every row; a table of them is held for `mean` and its like only.

    Args:
        entries: The law of every token of every row.
        tokens: Indices of the tokens.
    """

    def __init__(self, entries: GapEntries, tokens: Sequence[int]) -> None:
        super().__init__(entries.table, tokens)
        self._entries = entries

    def select(self, tokens: Sequence[int]) -> GapLaws:
        """The laws of the tokens with these indices."""
        return GapLaws(self._entries, [self._tokens[i] for i in tokens])

    def pick(self, index: Tensor) -> Categorical:
        """The law of one token of each row; see `TokenLaw`."""
        rows = torch.arange(len(index), device=index.device)
        token = torch.tensor(self._tokens, device=index.device)[index]
        return Categorical(self._entries.laws(rows, token).log()[:, None])

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (nats) of the integers x (n, N), without the laws of other symbols."""
        tokens = torch.tensor(self._tokens, device=x.device).expand_as(x)
        rows = torch.arange(len(x), device=x.device)[:, None].expand_as(x)
        return self._entries.log_prob(rows, tokens, x)

    def probabilities_where(self, chosen: Tensor) -> Tensor:
        """Probabilities (m, V) of the m tokens that are `chosen`, (n, N) bool."""
        rows, place = chosen.nonzero(as_tuple=True)
        token = torch.tensor(self._tokens, device=chosen.device)[place]
        parts = slices(len(rows), self._entries.tile)
        laws = [self._entries.laws(rows[part], token[part]) for part in parts]
        return torch.cat(laws) if laws else self._entries.powers.marginals[:0]

    def log_prob_where(self, x: Tensor, chosen: Tensor) -> Tensor:
        """As `log_prob` where `chosen`, (n, N) bool, and 0 elsewhere."""
        found = torch.zeros(x.shape, dtype=self._entries.powers.transition.dtype, device=x.device)
        rows, place = chosen.nonzero(as_tuple=True)
        token = torch.tensor(self._tokens, device=x.device)[place]
        found[rows, place] = self._entries.log_prob(rows, token, x[rows, place])
        return found

    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token, (n, N) integers."""
        x = self._entries.gaps.x
        shape = len(x), len(self._tokens)
        if shape[0] * shape[1] > self._entries.tile:
            return self.sample_where(rng, torch.ones(shape, dtype=torch.bool, device=x.device))
        rows = torch.arange(shape[0], device=x.device)[:, None].expand(shape)
        tokens = torch.tensor(self._tokens, device=x.device).expand(shape)
        # The source is told the laws, so that one that follows all draws can enumerate them.
        return rng.categorical(self._entries.laws(rows, tokens), (*shape, 1)).squeeze(-1)

    def sample_where(self, rng: Randomness, chosen: Tensor) -> Tensor:
        """As `sample` where `chosen`, (n, N) bool, with the same random numbers; 0 elsewhere."""
        u = rng.uniform(tuple(chosen.shape))
        draws = torch.zeros(chosen.shape, dtype=torch.int64, device=chosen.device)
        rows, place = chosen.nonzero(as_tuple=True)
        token = torch.tensor(self._tokens, device=chosen.device)[place]
        for part in slices(len(rows), self._entries.tile):
            p = self._entries.laws(rows[part], token[part])
            at = u[rows[part], place[part]][:, None]
            draws[rows[part], place[part]] = inverse_cdf(p, at)[:, 0].to(draws)
        return draws
