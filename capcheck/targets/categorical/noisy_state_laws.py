"""Laws of clean tokens given tokens with uniform noise, through the posterior of their states.

With L_i the law of token i given all other noisy tokens, and the floor f_i of its own value x_i
(`noisy_tokens`), the law given all of them is a mixture of L_i and a point mass:

    p(v | x) = w_i L_i(v) + (1 - w_i) [v = x_i],    w_i = f_i / (f_i + (1 - f_i) L_i(x_i)).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.targets.categorical.emissions import Emissions
from capcheck.targets.categorical.state_entries import StateEntries, places

__all__ = ["NoisyEntries"]


class NoisyEntries(StateEntries):
    """The law of every clean token of every row, computed entry by entry.

    Args:
        make: Function that computes the posterior of the states given the other tokens, (n, N, S),
            0 where these are impossible.
        emissions: Laws of a symbol given its state.
        mean: Laws of the tokens where the others are impossible, (N, V).
        marginal: Laws of the states there, (N, S).
        x: Noisy token ids, (n, N).
        floor: Floor of each token, (n, N) in [0, 1]; a token of floor 0 is clean.
    """

    def __init__(
        self,
        make: Callable[[], Tensor],
        emissions: Emissions,
        mean: Tensor,
        marginal: Tensor,
        x: Tensor,
        floor: Tensor,
    ) -> None:
        unknown = torch.zeros_like(x, dtype=torch.bool)
        super().__init__(make, emissions, mean, marginal, x, unknown)
        self._floor = floor

    def laws(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """The probabilities (m, V) of some entries, given by rows (m,) and tokens (m,)."""
        w = self._weight(rows, tokens)
        law = super().laws(rows, tokens).mul_(w[:, None])
        law[torch.arange(len(rows), device=rows.device), self.x[rows, tokens]] += 1 - w
        return law

    def log_prob(self, rows: Tensor, tokens: Tensor, x: Tensor) -> Tensor:
        """Log-probabilities (nats) of the symbols x of some entries, all (m,)."""
        w = self._weight(rows, tokens)
        same = (x == self.x[rows, tokens]).to(w)
        return (w * super().log_prob(rows, tokens, x).exp() + (1 - w) * same).log()

    def cdf(self, rows: Tensor, tokens: Tensor, x: Tensor) -> Tensor:
        """Probabilities (m,) of the symbols x (m,) and all smaller ones of some entries."""
        w = self._weight(rows, tokens)
        reached = (x >= self.x[rows, tokens]).to(w)
        return w * super().cdf(rows, tokens, x) + (1 - w) * reached

    def icdf(self, rows: Tensor, tokens: Tensor, u: Tensor) -> Tensor:
        """The symbols whose cumulative intervals hold u, by bisection; all arguments are (m,)."""
        w, own = self._weight(rows, tokens).to(u), self.x[rows, tokens]
        some = w > 0
        below, above = (each / torch.where(some, w, 1) for each in (u, u - (1 - w)))
        least, most = torch.finfo(u.dtype).tiny, 1 - 2.0**-53
        smaller, larger = (
            super(NoisyEntries, self).icdf(rows, tokens, each.clamp(least, most))
            for each in (below, above)
        )
        # The interval of the noisy value is wider by 1 - w, and those above it begin later.
        found = torch.where(some & (below < 1) & (smaller < own), smaller, own)
        return torch.where(some & (above > 0) & (larger > own), larger, found)

    def peaks(
        self, tokens: list[int], chosen: Tensor, *, most: int, least: float, ordered: bool
    ) -> Tensor:
        """The largest probabilities of some tokens, (n, len(tokens)), all by their laws."""
        found = torch.zeros(chosen.shape, dtype=self.posterior.dtype, device=chosen.device)
        found[chosen] = self._peaks_of_laws(*places(tokens, chosen))
        return found

    def _weight(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """The weight w of the law given the other tokens, of some entries, (m,)."""
        f = self._floor[rows, tokens]
        L = super().log_prob(rows, tokens, self.x[rows, tokens]).exp()
        return torch.where(f > 0, f / (f + (1 - f) * L), 0)
