"""Laws of single tokens that stand side by side are one law of all these tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.laws.token_law import TokenLaw
from capcheck.noise.paths import NoisePath

__all__ = ["SideBySide"]


class SideBySide(TokenLaw):
    """Laws of single tokens, joined to one law.

    Args:
        laws: One (n, 1) law for each token.
    """

    def __init__(self, laws: Sequence[TokenLaw]) -> None:
        self._laws = list(laws)

    @property
    def log_probabilities(self) -> Tensor:
        """Log-probabilities (nats) of all values of categorical tokens, (n, N, V)."""
        return torch.cat([law.log_probabilities for law in self._laws], 1)  # type: ignore[attr-defined]

    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token, token by token."""
        return torch.cat([law.sample(rng) for law in self._laws], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x: (n, N)."""
        return self._each(lambda law, i: law.log_prob(x[:, i]))

    def mean(self) -> Tensor:
        """Means, (n, N, d) or (n, N, V)."""
        return self._each(lambda law, i: law.mean())

    def variance(self) -> Tensor:
        """Variances, shaped as `mean`."""
        return self._each(lambda law, i: law.variance())

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x), (n, N)."""
        return self._each(lambda law, i: law.cdf(x[:, i]))

    def icdf(self, u: Tensor) -> Tensor:
        """The quantiles of u (n, N), shaped as `sample`."""
        return self._each(lambda law, i: law.icdf(u[:, i]))

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """E[x_0 | x_t] of each token, given that token only, (n, N, d)."""
        return self._each(lambda law, i: law.denoise(x_t[:, i], t[:, i], path))

    def coordinate(self, j: int, x: Tensor) -> SideBySide:
        """The law of coordinate j of every token given the token's earlier coordinates."""
        return SideBySide([law.coordinate(j, x[:, [i]]) for i, law in enumerate(self._laws)])

    def select(self, tokens: Sequence[int]) -> SideBySide:
        """The laws of the tokens with these indices."""
        return SideBySide([self._laws[i] for i in tokens])

    def _each(self, of: Callable[[TokenLaw, list[int]], Tensor]) -> Tensor:
        return torch.cat([of(law, [i]) for i, law in enumerate(self._laws)], 1)
