"""Entries of laws of tokens through the posterior of hidden states, without a table of symbols.

    p(x_i | known) = sum_s P(s_i = s | known others) emission(s, x_i)

A token costs S numbers in memory in place of V, and the probability of a given symbol S
multiply-adds. A draw takes the state first, and then the symbol; of many symbols, the distribution
function, which is a sum of those of the states, is inverted by bisection.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.core.tiles import slices, tile_size
from capcheck.laws import Categorical
from capcheck.targets.categorical.emissions import MANY, Emissions
from capcheck.targets.categorical.peaks_between_bounds import peaks_between_bounds

__all__ = [
    "NEAR",
    "NEAR_DIGITS",
    "TILE",
    "StateEntries",
    "places",
]

TILE = 1 << 22  # numbers of laws that are computed at once
NEAR = 2.0**-28  # distance of probabilities at which a bound is no proof that one is smaller
NEAR_DIGITS = 2.0**8  # the same in units in the last place of 1, for coarser floating-point types


class StateEntries:
    """The law of every token of every row, computed entry by entry.

    Args:
        make: Function that computes the posterior of the states given the other known tokens,
            (n, N, S), 0 where these are impossible.
        emissions: Laws of a symbol given its state.
        mean: Laws of the tokens where the known ones are impossible, (N, V).
        marginal: Laws of the states there, (N, S).
        x: Token ids, (n, N).
        known: Which of them are known, (n, N) bool.
    """

    def __init__(
        self,
        make: Callable[[], Tensor],
        emissions: Emissions,
        mean: Tensor,
        marginal: Tensor,
        x: Tensor,
        known: Tensor,
    ) -> None:
        self._make, self._emissions, self._emission = make, emissions, emissions.table
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
        law.div_(total)
        impossible = ~(total[:, 0] > 0)
        if bool(impossible.any()):
            law[impossible] = self._mean[tokens[impossible]]
        known = self.known[rows, tokens].nonzero()[:, 0]
        if len(known):
            law[known] = 0
            law[known, self.x[rows, tokens][known]] = 1
        return law

    def draw(self, rng: Randomness, tokens: list[int], chosen: Tensor) -> Tensor:
        """Draws of the chosen ones (n, len(tokens)) of some tokens: the state, then the symbol."""
        if self.symbols > MANY:
            found = torch.zeros(chosen.shape, dtype=torch.int64, device=chosen.device)
            u = rng.uniform(tuple(chosen.shape)).to(chosen.device)[chosen]
            found[chosen] = self.icdf(*places(tokens, chosen), u)
            return found
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
            symbol = torch.searchsorted(self._emissions.stacked, at, right=True)
            symbol = symbol - state * self.symbols
        known = self.known[:, tokens]
        drawn = torch.where(known, self.x[:, tokens], symbol)
        return torch.where(chosen, drawn, 0)

    def icdf(self, rows: Tensor, tokens: Tensor, u: Tensor) -> Tensor:
        """The symbols whose cumulative intervals hold u, by bisection; all arguments are (m,)."""
        up_to, posterior = self._emissions.up_to, self.posterior[rows, tokens].double()
        possible = posterior.sum(-1, keepdim=True) > 0
        states = torch.where(possible, posterior, self._marginal[tokens].double())
        total = (states * up_to[-1]).sum(-1)
        # The product can round up to the total, above which there is no symbol.
        u = torch.minimum(u.to(total) * total, total.nextafter(torch.zeros_like(total)))
        low, high = torch.zeros_like(rows), torch.full_like(rows, self.symbols - 1)
        for _ in range((self.symbols - 1).bit_length()):
            middle = (low + high) // 2
            above = (states * up_to[middle]).sum(-1) > u  # sums of rising terms never fall
            low, high = torch.where(above, low, middle + 1), torch.where(above, middle, high)
            low = torch.minimum(low, high)
        return torch.where(self.known[rows, tokens], self.x[rows, tokens], high)

    def cdf(self, rows: Tensor, tokens: Tensor, x: Tensor) -> Tensor:
        """Probabilities (m,) of the symbols x (m,) and all smaller ones of some entries."""
        up_to, posterior = self._emissions.up_to, self.posterior[rows, tokens].double()
        possible = posterior.sum(-1, keepdim=True) > 0
        states = torch.where(possible, posterior, self._marginal[tokens].double())
        found = (states * up_to[x]).sum(-1) / (states * up_to[-1]).sum(-1)
        certain = (x >= self.x[rows, tokens]).to(found)
        return torch.where(self.known[rows, tokens], certain, found).to(self._emission.dtype)

    def peaks(
        self, tokens: list[int], chosen: Tensor, *, most: int, least: float, ordered: bool
    ) -> Tensor:
        """The largest probabilities of some tokens, (n, len(tokens)); see `TokenLaw.peaks_where`.

        Bounds from both sides tell most that is asked, so that few tokens need their exact value,
        and of many symbols that seldom takes the whole law.
        """
        rows, token = places(tokens, chosen)
        found = torch.zeros(chosen.shape, dtype=self._emission.dtype, device=chosen.device)
        if not len(rows):
            return found
        low, high = torch.zeros_like(found), torch.zeros_like(found)
        low[chosen], high[chosen] = self._bounds(rows, token)
        place = torch.zeros_like(found, dtype=torch.int64)
        place[chosen] = torch.arange(len(rows), device=rows.device)
        return peaks_between_bounds(
            low,
            high,
            chosen,
            lambda asked: self._exact_peaks(rows[place[asked]], token[place[asked]]),
            most=most,
            least=least,
            ordered=ordered,
            near=max(NEAR, NEAR_DIGITS * torch.finfo(found.dtype).eps),
        )

    def _bounds(self, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds on the largest probability of some entries, both (m,); 0 and 1 where certain."""
        low, high = (self.posterior.new_empty(len(rows)) for _ in range(2))
        above = self._emissions.bounds if self.symbols > MANY else self._emissions.best
        below = self._emissions.likeliest
        for part in slices(len(rows), TILE // (above.shape[1] + below.shape[1])):
            posterior = self.posterior[rows[part], tokens[part]]
            total = posterior.sum(1)
            low[part] = (posterior @ below).amax(1) / total
            high[part] = (posterior @ above).amax(1) / total
        unsure = self.known[rows, tokens] | high.isnan()
        return torch.where(unsure, 0.0, low), torch.where(unsure, 1.0, high)

    def _exact_peaks(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """The largest probabilities of some entries, (m,)."""
        if self.symbols <= MANY:
            return self._peaks_of_laws(rows, tokens)
        found = self.posterior.new_empty(len(rows))
        for part in slices(len(rows), TILE // self._emissions.bounds.shape[1]):
            posterior = self.posterior[rows[part], tokens[part]]
            # Where the known tokens are impossible, this is no number.
            found[part] = self._emissions.largest(posterior / posterior.sum(1, keepdim=True))
        unsure = self.known[rows, tokens] | found.isnan()
        found[unsure] = self._peaks_of_laws(rows[unsure], tokens[unsure])
        return found

    def _peaks_of_laws(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """The largest probabilities of some entries by their whole laws, (m,)."""
        found = self.posterior.new_empty(len(rows))
        for part in self.parts(len(rows)):
            found[part] = self.laws(rows[part], tokens[part]).amax(1)
        return found

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
