"""Mixtures of Gaussians whose parameters are too many to be stored for all rows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.core.tiles import slices
from capcheck.laws.mixture import MixtureOfGaussians
from capcheck.laws.token_law import TokenLaw
from capcheck.noise.paths import NoisePath

__all__ = ["HELD", "TiledMixture"]

HELD = 1 << 23  # most numbers of laws that are kept between calls: 64 MiB


class TiledMixture(TokenLaw):
    """A mixture of Gaussians whose parameters are computed on demand, one tile of rows at a time.

    Args:
        tile: Function that computes the laws of some rows and tokens.
        rows: Number n of rows.
        tokens: Indices of the tokens.
        dim: Dimension d of a token.
        size: Number of rows in a tile.
    """

    def __init__(
        self,
        tile: Callable[[slice, list[int]], MixtureOfGaussians],
        *,
        rows: int,
        tokens: Sequence[int],
        dim: int,
        size: int,
    ) -> None:
        self._tile = tile
        self._n = rows
        self._tokens = list(tokens)
        self._dim = dim
        self._size = size
        self._kept: list[tuple[slice, MixtureOfGaussians]] = []

    def sample(self, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its Gaussian: (n, N, d)."""
        u = rng.uniform((self._n, len(self._tokens)))
        z = rng.normal((self._n, len(self._tokens), self._dim))
        return self._each(lambda law, rows: law.at(u[rows], z[rows]))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x (n, N, d): (n, N)."""
        return self._each(lambda law, rows: law.log_prob(x[rows]))

    def sample_where(self, rng: Randomness, chosen: Tensor) -> Tensor:
        """As `sample`, but for the chosen entries only; 0 elsewhere."""
        u = rng.uniform((self._n, len(self._tokens)))
        z = rng.normal((self._n, len(self._tokens), self._dim))
        return self._each(lambda law, rows: law.at_where(u[rows], z[rows], chosen[rows]))

    def log_prob_where(self, x: Tensor, chosen: Tensor) -> Tensor:
        """As `log_prob`, but for the chosen entries only; 0 elsewhere."""
        return self._each(lambda law, rows: law.log_prob_where(x[rows], chosen[rows]))

    def mean(self) -> Tensor:
        """Means of the tokens, (n, N, d)."""
        return self._each(lambda law, rows: law.mean())

    def variance(self) -> Tensor:
        """Variances of the tokens' coordinates, (n, N, d)."""
        return self._each(lambda law, rows: law.variance())

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances, with each tile computed once."""
        both = self._each(lambda law, rows: torch.stack([law.mean(), law.variance()], 1))
        return both[:, 0], both[:, 1]

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for x (n, N, 1): (n, N)."""
        return self._each(lambda law, rows: law.cdf(x[rows]))

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile of u (n, N): (n, N, 1)."""
        return self._each(lambda law, rows: law.icdf(u[rows]))

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """E[x_0 | x_t] of each token, given that token only, (n, N, d)."""
        return self._each(lambda law, rows: law.denoise(x_t[rows], t[rows], path))

    def coordinate(self, j: int, x: Tensor) -> TiledMixture:
        """The law of coordinate j given the token's earlier coordinates, also in tiles."""

        def tile(rows: slice, tokens: list[int]) -> MixtureOfGaussians:
            columns = [self._tokens.index(i) for i in tokens]
            return self._tile(rows, tokens).coordinate(j, x[rows][:, columns])

        return TiledMixture(tile, rows=self._n, tokens=self._tokens, dim=1, size=self._size)

    def held(self) -> MixtureOfGaussians:
        """The mixture with the parameters of all rows stored."""
        return self._tile(slice(0, self._n), self._tokens)

    def pick(self, index: Tensor) -> MixtureOfGaussians:
        """The law of one token of each row, with its parameters stored; see `TokenLaw`.

        The laws of all rows are kept for the next call, if they are no more than `HELD` numbers.
        """
        parts = self._kept or self._laws()
        return _joined([law.pick(index[rows]) for rows, law in parts])

    def entries(self, rows: Tensor, tokens: Tensor) -> MixtureOfGaussians | None:
        """The laws of m entries, by their rows in rising order and tokens (m,), as an (m, 1) law.

        Returns:
            The laws with their parameters stored, or None if those of all rows are more than `HELD`
            numbers.
        """
        if not self._kept:
            for _ in self._laws():
                pass
        own = []
        for tile, law in self._kept:
            inside = (rows >= tile.start) & (rows < tile.stop)
            own.append(law.entries(rows[inside] - tile.start, tokens[inside]))
        return _joined(own) if own else None

    def _laws(self) -> Iterator[tuple[slice, MixtureOfGaussians]]:
        """The laws of each tile of rows, which are kept if they are few."""
        kept, numbers = [], 0
        for rows in slices(self._n, self._size):
            law = self._tile(rows, self._tokens)
            numbers += law.means.numel() + law.variances.numel() + law.log_weights.numel()
            if numbers <= HELD:
                kept.append((rows, law))
            yield rows, law
        self._kept = kept if numbers <= HELD else []

    def select(self, tokens: Sequence[int]) -> TiledMixture:
        """The laws of the tokens with these indices."""
        return TiledMixture(
            self._tile,
            rows=self._n,
            tokens=[self._tokens[i] for i in tokens],
            dim=self._dim,
            size=self._size,
        )

    def _each(self, of: Callable[[MixtureOfGaussians, slice], Tensor]) -> Tensor:
        tiles = slices(self._n, self._size)
        return torch.cat([of(self._tile(rows, self._tokens), rows) for rows in tiles])


def _joined(laws: Sequence[MixtureOfGaussians]) -> MixtureOfGaussians:
    """The laws one below the other."""

    def below(parts: Sequence[Tensor]) -> Tensor:
        sizes = (len(law.means) for law in laws)
        return torch.cat([x.expand(n, *x.shape[1:]) for n, x in zip(sizes, parts, strict=True)])

    return MixtureOfGaussians(
        below([law.log_weights for law in laws]),
        below([law.means for law in laws]),
        below([law.variances for law in laws]),
    )
