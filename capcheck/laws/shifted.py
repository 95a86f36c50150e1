"""Shifted laws: laws of continuous tokens, each moved by a known vector."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.laws.token_law import TokenLaw
from capcheck.noise.paths import NoisePath

__all__ = ["Shifted"]


class Shifted(TokenLaw):
    """The law of x + shift, where x has a given law.

    Args:
        law: Law of (n, N) continuous tokens x.
        shift: Shift of each token, (n, N, d), in token units.
    """

    def __init__(self, law: TokenLaw, shift: Tensor) -> None:
        self._law, self._shift = law, shift

    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token, (n, N, d)."""
        return self._law.sample(rng) + self._shift

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of every token, (n, N)."""
        return self._law.log_prob(x - self._shift)

    def mean(self) -> Tensor:
        """Means of the tokens, (n, N, d)."""
        return self._law.mean() + self._shift

    def variance(self) -> Tensor:
        """Variances of the tokens' coordinates, (n, N, d)."""
        return self._law.variance()

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for x (n, N, 1): (n, N)."""
        return self._law.cdf(x - self._shift)

    def icdf(self, u: Tensor) -> Tensor:
        """The quantiles of u (n, N): (n, N, 1)."""
        return self._law.icdf(u) + self._shift

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """E[x_0 | x_t] of each token, given that token only, (n, N, d)."""
        moved = path.alpha(t)[..., None] * self._shift
        return self._law.denoise(x_t - moved, t, path) + self._shift

    def coordinate(self, j: int, x: Tensor) -> TokenLaw:
        """The law of coordinate j given the token's earlier coordinates."""
        return Shifted(self._law.coordinate(j, x - self._shift), self._shift[..., j : j + 1])

    def held(self) -> TokenLaw:
        """The same law with its parameters stored."""
        return Shifted(self._law.held(), self._shift)

    def rows(self, index: Tensor) -> TokenLaw:
        """The laws of the rows with these indices."""
        return Shifted(self._law.rows(index), self._shift[index])

    def select(self, tokens: Sequence[int]) -> TokenLaw:
        """The laws of the tokens with these indices."""
        return Shifted(self._law.select(tokens), self._shift[:, list(tokens)])
