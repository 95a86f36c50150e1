"""Token laws: what a token predictor returns for every token of every row.

A law is an n x N array of independent distributions of one token each, either categorical over
0..V-1 or a mixture of Gaussians on R^d. Procedures draw from it; densities are evaluated under it.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from capcheck.errors import InputError
from capcheck.randomness import Randomness, inverse_cdf

LOG_2PI = math.log(2 * math.pi)


class TokenLaw(ABC):
    """An (n, N) array of independent laws, one per row and token."""

    @abstractmethod
    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token: (n, N, d), or (n, N) integers."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x, shaped as `sample` returns it: (n, N)."""

    @abstractmethod
    def mean(self) -> Tensor:
        """(n, N, d); for a categorical token the mean of its one-hot vector, (n, N, V)."""

    @abstractmethod
    def variance(self) -> Tensor:
        """Variance of each coordinate, shaped as `mean`."""

    @abstractmethod
    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x), (n, N); for tokens of one dimension only."""

    @abstractmethod
    def icdf(self, u: Tensor) -> Tensor:
        """Smallest x with P(token <= x) >= u, for u (n, N) in (0, 1); shaped as `sample`."""

    @abstractmethod
    def select(self, tokens: Sequence[int]) -> TokenLaw:
        """The laws of those tokens only, in that order."""


class Categorical(TokenLaw):
    """p(x = v) = softmax(logits)_v on 0..V-1.

    Args:
        logits: (n, N, V), unnormalised; -inf is probability 0.
    """

    def __init__(self, logits: Tensor) -> None:
        self.log_probabilities = logits.log_softmax(-1)  # (n, N, V)
        self._p = self.log_probabilities.exp()

    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token, (n, N) integers."""
        return rng.categorical(self._p, (*self._p.shape[:2], 1)).squeeze(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (nats) of the integers x (n, N)."""
        return self.log_probabilities.gather(-1, x[..., None]).squeeze(-1)

    def mean(self) -> Tensor:
        """Mean of the one-hot vector: the probabilities (n, N, V)."""
        return self._p

    def variance(self) -> Tensor:
        """Variance of each entry of the one-hot vector, (n, N, V)."""
        return self._p * (1 - self._p)

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for integers x (n, N)."""
        return self._p.cumsum(-1).gather(-1, x[..., None]).squeeze(-1)

    def icdf(self, u: Tensor) -> Tensor:
        """Smallest integer whose cumulative probability reaches u (n, N)."""
        return inverse_cdf(self._p, u[..., None]).squeeze(-1)

    def select(self, tokens: Sequence[int]) -> Categorical:
        """The laws of those tokens only."""
        return Categorical(self.log_probabilities[:, list(tokens)])


class DeferredCategorical(TokenLaw):
    """Categorical laws that are made when they are asked for, and only of the tokens selected.

    Args:
        make: Makes the laws of some tokens.
        tokens: Which tokens.
    """

    def __init__(self, make: Callable[[list[int]], Categorical], tokens: Sequence[int]) -> None:
        self._make = make
        self._tokens = list(tokens)

    @functools.cached_property
    def _law(self) -> Categorical:
        return self._make(self._tokens)

    @property
    def log_probabilities(self) -> Tensor:
        """(n, N, V), nats."""
        return self._law.log_probabilities

    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token, (n, N) integers."""
        return self._law.sample(rng)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (nats) of the integers x (n, N)."""
        return self._law.log_prob(x)

    def mean(self) -> Tensor:
        """Mean of the one-hot vector: the probabilities (n, N, V)."""
        return self._law.mean()

    def variance(self) -> Tensor:
        """Variance of each entry of the one-hot vector, (n, N, V)."""
        return self._law.variance()

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for integers x (n, N)."""
        return self._law.cdf(x)

    def icdf(self, u: Tensor) -> Tensor:
        """Smallest integer whose cumulative probability reaches u (n, N)."""
        return self._law.icdf(u)

    def select(self, tokens: Sequence[int]) -> DeferredCategorical:
        """The laws of those tokens only."""
        return DeferredCategorical(self._make, [self._tokens[i] for i in tokens])


class MixtureOfGaussians(TokenLaw):
    """p(x) = sum_c w_c N(x; m_c, C_c) on R^d.

    Shapes broadcast over rows, tokens and components; a variance of 0 is a point mass.

    Args:
        log_weights: (n|1, N|1, K), unnormalised; -inf is weight 0.
        means: (n|1, N, K, d).
        variances: Diagonals of C, (n|1, N|1, K|1, d), in squared units of the tokens; or the whole
            of it, (n|1, N|1, K|1, d, d).
    """

    def __init__(self, log_weights: Tensor, means: Tensor, variances: Tensor) -> None:
        self.log_weights = log_weights.log_softmax(-1)
        self.means = means
        self.variances = variances
        self._w = self.log_weights.exp()
        self._axes: Tensor | None = None  # (..., d, d), columns are the principal axes of C
        self._along = variances  # variance along each of them
        if variances.dim() > means.dim():
            along, self._axes = torch.linalg.eigh(variances)
            self._along = along.clamp(min=0)

    @property
    def _shape(self) -> tuple[int, int]:
        rows = max(t.shape[0] for t in (self.log_weights, self.means, self.variances))
        return rows, self.means.shape[1]

    def sample(self, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its Gaussian: (n, N, d)."""
        n, N = self._shape
        return self.at(rng.uniform((n, N)), rng.normal((n, N, self.means.shape[-1])))

    def at(self, u: Tensor, z: Tensor) -> Tensor:
        """The draw that uniforms u (n, N) and standard normals z (n, N, d) make: (n, N, d)."""
        n, N, d = z.shape
        K = self.means.shape[2]
        component = inverse_cdf(self._w.expand(n, N, K), u[..., None])  # (n, N, 1)
        index = component[..., None].expand(n, N, 1, d)
        mean = self.means.expand(n, N, K, d).gather(2, index).squeeze(2)
        along = self._along.expand(n, N, K, d).gather(2, index).squeeze(2)
        noise = along.sqrt() * z.to(mean)
        if self._axes is not None:
            axes = self._axes.expand(n, N, K, d, d)
            axes = axes.gather(2, index[..., None].expand(n, N, 1, d, d)).squeeze(2)
            noise = (axes @ noise[..., None]).squeeze(-1)
        return mean + noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x (n, N, d): (n, N); +-infinite on and off a point mass."""
        residual = x[:, :, None, :] - self.means  # (n, N, K, d)
        if self._axes is not None:
            residual = (residual[..., None, :] @ self._axes).squeeze(-2)
        square = torch.where(self._along > 0, residual.square() / self._along, 0)
        log_density = -0.5 * (square + self._along.log() + LOG_2PI)
        off_atom = (self._along == 0) & (residual != 0)
        log_density = torch.where(off_atom, -torch.inf, log_density)
        return (self.log_weights + log_density.sum(-1)).logsumexp(-1)

    def mean(self) -> Tensor:
        """(n, N, d)."""
        return (self._w[..., None] * self.means).sum(2)

    def variance(self) -> Tensor:
        """(n, N, d)."""
        deviation = self.means - self.mean()[:, :, None, :]
        own = self.variances if self._axes is None else self.variances.diagonal(dim1=-2, dim2=-1)
        return (self._w[..., None] * (own + deviation.square())).sum(2)

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for x (n, N, 1): (n, N)."""
        require_scalar_tokens("cdf", self.means.shape[-1])
        z = (x[:, :, None, 0] - self.means[..., 0]) / self._along[..., 0].sqrt()
        probability: Tensor = (self._w * torch.special.ndtr(z)).sum(-1)
        return probability

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile of u (n, N), by Newton's method inside a shrinking bracket: (n, N, 1)."""
        require_scalar_tokens("icdf", self.means.shape[-1])
        quantiles = self.means[..., 0] + self._along[..., 0].sqrt() * torch.special.ndtri(
            u[..., None]
        )
        low, high = quantiles.amin(-1), quantiles.amax(-1)  # a mixture's quantile lies between
        return invert_cdf(self.cdf, self.log_prob, u, low, high)

    def select(self, tokens: Sequence[int]) -> MixtureOfGaussians:
        """The laws of those tokens only."""
        index = list(tokens)

        def chosen(tensor: Tensor) -> Tensor:
            return tensor if tensor.shape[1] == 1 else tensor[:, index]

        return MixtureOfGaussians(
            chosen(self.log_weights), self.means[:, index], chosen(self.variances)
        )


class TiledMixture(TokenLaw):
    """A mixture of Gaussians whose parameters are made a tile of rows at a time, when asked.

    Args:
        tile: Makes the laws of some rows and tokens.
        rows: Number n of rows.
        tokens: Which tokens.
        dim: d of a token.
        size: Rows of one tile.
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

    def sample(self, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its Gaussian: (n, N, d)."""
        u = rng.uniform((self._n, len(self._tokens)))
        z = rng.normal((self._n, len(self._tokens), self._dim))
        return self._each(lambda law, rows: law.at(u[rows], z[rows]))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x (n, N, d): (n, N)."""
        return self._each(lambda law, rows: law.log_prob(x[rows]))

    def mean(self) -> Tensor:
        """(n, N, d)."""
        return self._each(lambda law, rows: law.mean())

    def variance(self) -> Tensor:
        """(n, N, d)."""
        return self._each(lambda law, rows: law.variance())

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for x (n, N, 1): (n, N)."""
        return self._each(lambda law, rows: law.cdf(x[rows]))

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile of u (n, N): (n, N, 1)."""
        return self._each(lambda law, rows: law.icdf(u[rows]))

    def select(self, tokens: Sequence[int]) -> TiledMixture:
        """The laws of those tokens only."""
        return TiledMixture(
            self._tile,
            rows=self._n,
            tokens=[self._tokens[i] for i in tokens],
            dim=self._dim,
            size=self._size,
        )

    def _each(self, of: Callable[[MixtureOfGaussians, slice], Tensor]) -> Tensor:
        starts = range(0, self._n, self._size)
        tiles = [slice(start, min(start + self._size, self._n)) for start in starts]
        return torch.cat([of(self._tile(rows, self._tokens), rows) for rows in tiles])


def require_scalar_tokens(what: str, dim: int) -> None:
    """Raise InputError unless tokens have dimension 1, as CDFs need."""
    if dim != 1:
        raise InputError(
            f"TokenLaw.{what} needs tokens of dimension 1, got {dim}; "
            "split the token into its coordinates."
        )


def invert_cdf(
    cdf: Callable[[Tensor], Tensor],
    log_prob: Callable[[Tensor], Tensor],
    u: Tensor,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """Solve cdf(x) = u by Newton steps that fall back to bisection.

    Args:
        cdf: Takes (n, N, 1), returns (n, N).
        log_prob: Logarithm of its derivative, likewise.
        u: (n, N) in (0, 1).
        low: (n, N), where cdf <= u.
        high: (n, N), where cdf >= u.

    Returns:
        (n, N, 1), to 14 digits of x or of the bracket's width.
    """
    x = 0.5 * (low + high)
    resolution = 1e-14 * torch.maximum(high - low, torch.maximum(low.abs(), high.abs()))
    for _ in range(200):  # bisection alone needs at most about 60 halvings of a sane bracket
        excess = cdf(x[..., None]) - u
        low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
        newton = x - excess / log_prob(x[..., None]).exp()
        inside = (newton > low) & (newton < high)
        proposal = torch.where(inside, newton, 0.5 * (low + high))
        settled = bool(((proposal - x).abs() <= resolution).all())
        x = proposal
        if settled:
            break
    return x[..., None]
