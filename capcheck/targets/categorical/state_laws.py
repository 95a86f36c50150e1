"""Laws of tokens through the posterior of their hidden states, without a table of all symbols.

    p(x_i | known) = sum_s P(s_i = s | known others) emission(s, x_i)

A token costs S numbers in memory in place of V, and the probability of a given symbol S
multiply-adds; a draw takes the state first, and then the symbol.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.core.tiles import slices, tile_size
from capcheck.laws import Categorical, DeferredCategorical

__all__ = [
    "GROUPS",
    "NEAR",
    "NEAR_DIGITS",
    "TILE",
    "PrefixLaws",
    "StateEntries",
    "StateLaws",
    "places",
]

TILE = 1 << 22  # numbers of laws that are computed at once
GROUPS = 2  # groups of symbols, whose probabilities are bounded together, for each state
NEAR = 2.0**-28  # distance of probabilities at which a bound is no proof that one is smaller
NEAR_DIGITS = 2.0**8  # the same in units in the last place of 1, for coarser floating-point types


class StateEntries:
    """The law of every token of every row, computed entry by entry.

    Args:
        make: Function that computes the posterior of the states given the other known tokens,
            (n, N, S), 0 where these are impossible.
        emission: Laws of a symbol given its state, (S, V).
        mean: Laws of the tokens where the known ones are impossible, (N, V).
        marginal: Laws of the states there, (N, S).
        x: Token ids, (n, N).
        known: Which of them are known, (n, N) bool.
    """

    def __init__(
        self,
        make: Callable[[], Tensor],
        emission: Tensor,
        mean: Tensor,
        marginal: Tensor,
        x: Tensor,
        known: Tensor,
    ) -> None:
        self._make, self._emission = make, emission
        self._mean, self._marginal = mean, marginal
        self.x, self.known = x, known

    @functools.cached_property
    def posterior(self) -> Tensor:
        """Posterior of the states, (n, N, S)."""
        return self._make()

    @property
    def symbols(self) -> int:
        """Number V of symbols."""
        return self._emission.shape[1]

    def parts(self, entries: int) -> Sequence[slice]:
        """Slices of some entries whose laws are held at once."""
        return [*slices(entries, max(1, tile_size(TILE, self.x.device) // self.symbols))]

    def table(self, tokens: list[int]) -> Categorical:
        """The laws of some tokens of all rows."""
        shape = len(self.x), len(tokens)
        every = torch.ones(shape, dtype=torch.bool, device=self.x.device)
        return Categorical(self.of(tokens, every).reshape(*shape, -1).log())

    def of(self, tokens: list[int], chosen: Tensor) -> Tensor:
        """Probabilities (m, V) of the chosen ones (n, len(tokens)) of some tokens."""
        rows, token = places(tokens, chosen)
        found = self.posterior.new_empty(len(rows), self.symbols)
        for part in self.parts(len(rows)):
            found[part] = self.laws(rows[part], token[part])
        return found

    def laws(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """The probabilities (m, V) of some entries, given by rows (m,) and tokens (m,)."""
        law = self.posterior[rows, tokens] @ self._emission
        total = law.sum(-1, keepdim=True)
        law = torch.where(total > 0, law / total, self._mean[tokens])
        known = self.known[rows, tokens]
        if bool(known.any()):
            symbol = torch.where(known, self.x[rows, tokens], 0)
            certain = torch.nn.functional.one_hot(symbol, self.symbols).to(law)
            law = torch.where(known[:, None], certain, law)
        return law

    def draw(self, rng: Randomness, tokens: list[int], chosen: Tensor) -> Tensor:
        """Draws of the chosen ones (n, len(tokens)) of some tokens: the state, then the symbol."""
        posterior = self.posterior[:, tokens]  # (n, C, S)
        possible = posterior.sum(-1) > 0
        # Where the known tokens are impossible, the state has its law without them.
        states = torch.where(possible[..., None], posterior, self._marginal[tokens])
        state = rng.categorical(states, (*chosen.shape, 1)).squeeze(-1)
        if chosen.numel() * self.symbols <= TILE:
            # The source is told the laws, so that one that follows all draws can enumerate them.
            symbol = rng.categorical(self._emission[state], (*chosen.shape, 1)).squeeze(-1)
        else:
            top = (state + 1).double()
            # A number that rounds up to the next state would find its first symbol.
            at = torch.minimum(
                state + rng.uniform(tuple(chosen.shape)), top.nextafter(state.double())
            )
            symbol = torch.searchsorted(self._stacked, at, right=True) - state * self.symbols
        known = self.known[:, tokens]
        drawn = torch.where(known, self.x[:, tokens], symbol)
        return torch.where(chosen, drawn, 0)

    def peaks(self, tokens: list[int], chosen: Tensor, *, most: int, least: float) -> Tensor:
        """The largest probabilities of some tokens, (n, len(tokens)); see `TokenLaw.peaks_where`.

        For each group of symbols, sum_s P(s) max_v emission(s, v) bounds its probabilities from
        above. Only tokens whose bound reaches `least`, or the exact value of the last one of the
        row that counts, need their law.
        """
        rows, token = places(tokens, chosen)
        found = torch.zeros(chosen.shape, dtype=self._emission.dtype, device=chosen.device)
        if not len(rows):
            return found
        found[chosen] = self._bounds(rows, token)
        place = torch.zeros_like(found, dtype=torch.int64)
        place[chosen] = torch.arange(len(rows), device=rows.device)
        count = min(most, len(tokens))
        first = chosen & (found >= found.topk(count, dim=1).values[:, -1:])
        found[first] = self._exact_peaks(rows, token, place[first])
        last = torch.where(first, found, 0).topk(count, dim=1).values[:, -1:]
        near = max(NEAR, NEAR_DIGITS * torch.finfo(found.dtype).eps)
        others = chosen & ~first & (found >= last.clamp(max=least) - near)
        found[others] = self._exact_peaks(rows, token, place[others])
        return found

    def _bounds(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Upper bounds (m,) on the largest probability of some entries; 1 where it is certain."""
        found = self.posterior.new_empty(len(rows))
        for part in slices(len(rows), TILE // self._best.shape[1]):
            posterior = self.posterior[rows[part], tokens[part]]
            found[part] = (posterior @ self._best).amax(1) / posterior.sum(1)
        unsure = self.known[rows, tokens] | found.isnan()
        return torch.where(unsure, 1.0, found)

    def _exact_peaks(self, rows: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
        """The largest probabilities of the entries with some indices."""
        found = self.posterior.new_empty(len(index))
        for part in self.parts(len(index)):
            found[part] = self.laws(rows[index[part]], tokens[index[part]]).amax(1)
        return found

    @functools.cached_property
    def _best(self) -> Tensor:
        """Largest emission of each state in each group of symbols of one dominant state, (S, G)."""
        S, V = self._emission.shape
        peak, state = self._emission.max(0)
        order = (state - peak).argsort()  # by state, and then from the largest
        groups = order.tensor_split(min(V, GROUPS * S))
        return torch.stack([self._emission[:, group].amax(1) for group in groups], 1)

    @functools.cached_property
    def _stacked(self) -> Tensor:
        """The distribution functions of all states, one above the other, (S V,)."""
        onward = self._emission.double().cumsum(-1)
        onward = onward / onward[:, -1:]
        above = torch.arange(len(onward), device=onward.device)[:, None]
        return (onward + above).flatten()

    def log_prob(self, rows: Tensor, tokens: Tensor, x: Tensor) -> Tensor:
        """Log-probabilities (nats) of the symbols x of some entries, all (m,)."""
        posterior = self.posterior[rows, tokens]  # (m, S)
        found = (posterior * self._emission.T[x]).sum(-1)
        possible = posterior.sum(-1)
        found = torch.where(possible > 0, found / possible, self._mean[tokens, x]).log()
        certain = torch.where(x == self.x[rows, tokens], 0.0, -torch.inf).to(found)
        return torch.where(self.known[rows, tokens], certain, found)


def places(tokens: list[int], chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (m,) and the indices (m,) of the chosen ones (n, len(tokens)) of some tokens."""
    rows, place = chosen.nonzero(as_tuple=True)
    return rows, torch.tensor(tokens, device=chosen.device)[place]


class StateLaws(DeferredCategorical):
    """The laws of some tokens of every row; a table of them is held for `mean` and its like only.

    Args:
        entries: The law of every token of every row.
        tokens: Indices of the tokens.
    """

    def __init__(self, entries: StateEntries, tokens: Sequence[int]) -> None:
        super().__init__(entries.table, tokens)
        self._entries = entries

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self._tokens)

    def select(self, tokens: Sequence[int]) -> StateLaws:
        """The laws of the tokens with these indices."""
        return StateLaws(self._entries, [self._tokens[i] for i in tokens])

    def probabilities_where(self, chosen: Tensor) -> Tensor:
        """Probabilities (m, V) of the m tokens that are `chosen`, (n, N) bool."""
        return self._entries.of(self._tokens, chosen)

    def peaks_where(self, chosen: Tensor, *, most: int, least: float) -> Tensor:
        """Largest probability of the chosen tokens; see `TokenLaw`."""
        return self._entries.peaks(self._tokens, chosen, most=most, least=least)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (nats) of the integers x (n, N), without the laws of other symbols."""
        return self.log_prob_where(x, torch.ones_like(x, dtype=torch.bool))

    def log_prob_where(self, x: Tensor, chosen: Tensor) -> Tensor:
        """As `log_prob` where `chosen`, (n, N) bool, and 0 elsewhere."""
        rows, token = places(self._tokens, chosen)
        values = x[chosen]
        found = torch.zeros(x.shape, dtype=self._entries.posterior.dtype, device=x.device)
        parts = self._entries.parts(len(rows))
        logs = [self._entries.log_prob(rows[p], token[p], values[p]) for p in parts]
        if logs:
            found[chosen] = torch.cat(logs)
        return found

    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token, (n, N) integers."""
        x = self._entries.x
        every = torch.ones(len(x), len(self._tokens), dtype=torch.bool, device=x.device)
        return self.sample_where(rng, every)

    def sample_where(self, rng: Randomness, chosen: Tensor) -> Tensor:
        """As `sample` where `chosen`, (n, N) bool, with the same random numbers; 0 elsewhere."""
        return self._entries.draw(rng, self._tokens, chosen)


class PrefixLaws(DeferredCategorical):
    """The laws of tokens after a prefix that all rows know, by a recursion that goes on from it.

    Args:
        onward: Laws by this recursion, which costs little for the next tokens.
        states: The same laws through the states of all tokens.
    """

    def __init__(self, onward: DeferredCategorical, states: StateLaws) -> None:
        super().__init__(onward.make, range(len(states)))
        self._states = states

    def peaks_where(self, chosen: Tensor, *, most: int, least: float) -> Tensor:
        """Largest probability of the chosen tokens; see `TokenLaw`."""
        return self._states.peaks_where(chosen, most=most, least=least)
