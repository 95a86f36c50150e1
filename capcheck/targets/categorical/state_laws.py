"""Laws of tokens of a hidden Markov model as token laws, by the entries of `state_entries`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.laws import DeferredCategorical
from capcheck.targets.categorical.emissions import MANY
from capcheck.targets.categorical.state_entries import StateEntries, places

__all__ = ["StateLaws"]


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

    def mean(self) -> Tensor:
        """Mean of the one-hot vector: the probabilities (n, N, V)."""
        if self._entries.symbols <= MANY:
            return super().mean()
        shape = len(self._entries.x), len(self._tokens)
        every = torch.ones(shape, dtype=torch.bool, device=self._entries.x.device)
        return self._entries.of(self._tokens, every).reshape(*shape, -1)

    def probabilities_where(self, chosen: Tensor) -> Tensor:
        """Probabilities (m, V) of the m tokens that are `chosen`, (n, N) bool."""
        return self._entries.of(self._tokens, chosen)

    def peaks_where(
        self, chosen: Tensor, *, most: int, least: float, ordered: bool = True
    ) -> Tensor:
        """Largest probability of the chosen tokens; see `TokenLaw`."""
        return self._entries.peaks(self._tokens, chosen, most=most, least=least, ordered=ordered)

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

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for integers x (n, N)."""
        if self._entries.symbols <= MANY:
            return super().cdf(x)
        rows, token = places(self._tokens, torch.ones_like(x, dtype=torch.bool))
        return self._entries.cdf(rows, token, x.flatten()).reshape(x.shape)

    def icdf(self, u: Tensor) -> Tensor:
        """Smallest integer whose cumulative probability reaches u (n, N), by bisection."""
        if self._entries.symbols <= MANY:
            return super().icdf(u)
        rows, token = places(self._tokens, torch.ones_like(u, dtype=torch.bool))
        return self._entries.icdf(rows, token, u.flatten()).reshape(u.shape)

    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token, (n, N) integers."""
        x = self._entries.x
        every = torch.ones(len(x), len(self._tokens), dtype=torch.bool, device=x.device)
        return self.sample_where(rng, every)

    def sample_where(self, rng: Randomness, chosen: Tensor) -> Tensor:
        """As `sample` where `chosen`, (n, N) bool, with the same random numbers; 0 elsewhere."""
        return self._entries.draw(rng, self._tokens, chosen)
