"""Shifted laws: laws of continuous tokens that are moved by a known amount each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.laws.token_law import TokenLaw
from capcheck.noise.paths import NoisePath

__all__ = ["Shifted"]


class Shifted(TokenLaw):
    """The law of x + shift, for x of another law.

    Args:
        law: Of continuous tokens, (n, N).
        shift: (n, N, d), in token units.
    """

    def __init__(self, law: TokenLaw, shift: Tensor) -> None:
        self._law, self._shift = law, shift

    def sample(self, rng: Randomness) -> Tensor:
        """Draws of the law, moved: (n, N, d)."""
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
        """Distribution function of scalar tokens."""
        return self._law.cdf(x - self._shift)

    def icdf(self, u: Tensor) -> Tensor:
        """Quantiles of scalar tokens."""
        return self._law.icdf(u) + self._shift

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """Mean of the clean tokens given noisy ones, (n, N, d)."""
        moved = path.alpha(t)[..., None] * self._shift
        return self._law.denoise(x_t - moved, t, path) + self._shift

    def coordinate(self, j: int, x: Tensor) -> TokenLaw:
        """Law of coordinate j given the coordinates before it."""
        return Shifted(self._law.coordinate(j, x - self._shift), self._shift[..., j : j + 1])

    def held(self) -> TokenLaw:
        """The same law, kept for many calls."""
        return Shifted(self._law.held(), self._shift)

    def rows(self, index: Tensor) -> TokenLaw:
        """The laws of some rows."""
        return Shifted(self._law.rows(index), self._shift[index])

    def select(self, tokens: Sequence[int]) -> TokenLaw:
        """The laws of some tokens."""
        return Shifted(self._law.select(tokens), self._shift[:, list(tokens)])
