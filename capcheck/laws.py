"""Token laws: what a token predictor returns for every token of every row.

A law is an n x N array of independent distributions of one token each, either categorical over
0..V-1 or a mixture of Gaussians on R^d. Procedures draw from it; densities are evaluated under it.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.errors import InputError
from capcheck.paths import NoisePath
from capcheck.randomness import Randomness, inverse_cdf

LOG_2PI = math.log(2 * math.pi)
TILE = 1 << 18  # numbers of a mixture that are worked on at once


@dataclass(frozen=True)
class DrawnRows:
    """Which of n rows that a source is asked for belong to a law; None for all."""

    n: int
    index: Tensor | None

    def of(self, draws: Tensor) -> Tensor:
        """The law's part of n rows of draws."""
        return draws if self.index is None else draws[self.index]

    def __getitem__(self, rows: Tensor) -> DrawnRows:
        return DrawnRows(self.n, rows if self.index is None else self.index[rows])


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

    def held(self) -> TokenLaw:
        """The same law with its parameters written out, for a caller that asks it many times."""
        return self

    def rows(self, index: Tensor) -> TokenLaw:
        """The laws of some rows only, by their indices (r,).

        Their draws are those that the whole law would make there: a source is still asked for n
        rows.
        """
        return _SomeRows(self, index)

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """E[x_0 | x_t] of every token by itself, where x_0 has this law: (n, N, d).

        Args:
            x_t: (n, N, d), every token alpha(t) x_0 + sigma(t) e.
            t: (n, N) levels in [0, 1].
            path: The noise path of the levels.

        Raises:
            InputError: The tokens are categorical.
        """
        raise InputError("TokenLaw.denoise needs continuous tokens, got categorical ones.")

    def coordinate(self, j: int, x: Tensor) -> TokenLaw:
        """The law of coordinate j of every token given the token's earlier coordinates.

        Args:
            j: Which coordinate, 0..d-1.
            x: (n, N, d) tokens, of which the coordinates before j count.

        Returns:
            An (n, N) law of tokens of dimension 1.

        Raises:
            InputError: The tokens are categorical.
        """
        raise InputError("TokenLaw.coordinate needs continuous tokens, got categorical ones.")


class _SomeRows(TokenLaw):
    """Some rows of a law, which is asked about all of them."""

    def __init__(self, law: TokenLaw, index: Tensor) -> None:
        self._law, self._index = law, index

    def _whole(self, x: Tensor) -> Tensor:
        whole = x.new_zeros(len(self._law.mean()), *x.shape[1:])
        whole[self._index] = x
        return whole

    def sample(self, rng: Randomness) -> Tensor:
        return self._law.sample(rng)[self._index]

    def log_prob(self, x: Tensor) -> Tensor:
        return self._law.log_prob(self._whole(x))[self._index]

    def mean(self) -> Tensor:
        return self._law.mean()[self._index]

    def variance(self) -> Tensor:
        return self._law.variance()[self._index]

    def cdf(self, x: Tensor) -> Tensor:
        return self._law.cdf(self._whole(x))[self._index]

    def icdf(self, u: Tensor) -> Tensor:
        whole = torch.full_like(self._whole(u), 0.5)
        whole[self._index] = u
        return self._law.icdf(whole)[self._index]

    def select(self, tokens: Sequence[int]) -> TokenLaw:
        return _SomeRows(self._law.select(tokens), self._index)


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
        drawn: The rows of a larger law that these are, if they are.
    """

    def __init__(
        self,
        log_weights: Tensor,
        means: Tensor,
        variances: Tensor,
        drawn: DrawnRows | None = None,
    ) -> None:
        self._drawn = drawn
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
        drawn = self._drawn or DrawnRows(n, None)
        u, z = rng.uniform((drawn.n, N)), rng.normal((drawn.n, N, self.means.shape[-1]))
        return self.at(drawn.of(u), drawn.of(z))

    def rows(self, index: Tensor) -> MixtureOfGaussians:
        """The laws of those rows only."""
        drawn = self._drawn or DrawnRows(self._shape[0], None)

        def some(x: Tensor) -> Tensor:
            return x if len(x) == 1 < drawn.n else x[index]

        # One of the parameters has a row for each, so that the number of rows stays known.
        means = self.means.expand(self._shape[0], *self.means.shape[1:])[index]
        return MixtureOfGaussians(some(self.log_weights), means, some(self.variances), drawn[index])

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
        size = max(1, TILE // max(1, self.means[0].numel()))
        if len(x) > size:  # large temporaries cost more than what is done with them
            parts = zip(x.split(size), self._split(size, len(x)), strict=True)
            return torch.cat([law.log_prob(of_rows) for of_rows, law in parts])
        residual = x[:, :, None, :] - self.means  # (n, N, K, d)
        if self._axes is not None:
            residual = (residual[..., None, :] @ self._axes).squeeze(-2)
        atoms = self._along == 0
        along = torch.where(atoms, 1, self._along)
        log_density = (residual.square() / along).mul_(-0.5)
        if bool(atoms.any()):
            off_atom = torch.where(residual == 0, torch.inf, -torch.inf)
            log_density = torch.where(atoms, off_atom, log_density)
        log_density = log_density - 0.5 * (along.log() + LOG_2PI)
        return (self.log_weights + log_density.sum(-1)).logsumexp(-1)

    def _split(self, size: int, n: int) -> Iterator[MixtureOfGaussians]:
        """The laws of so many rows at a time, as views."""
        for start in range(0, n, size):
            part = copy.copy(self)
            for name in ("log_weights", "means", "variances", "_w", "_along", "_axes"):
                whole = getattr(self, name)
                if whole is not None and len(whole) > 1:
                    setattr(part, name, whole[start : start + size])
            yield part

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
        return (self._w * normal_cdf(z)).sum(-1)

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile of u (n, N), by Halley's method inside a shrinking bracket: (n, N, 1)."""
        require_scalar_tokens("icdf", self.means.shape[-1])
        m, s = self.means[..., 0], self._along[..., 0].sqrt()  # (n|1, N, K|1)
        z = torch.special.ndtri(u)
        quantiles = m + s * z[..., None]
        low, high = quantiles.amin(-1), quantiles.amax(-1)  # a mixture's quantile lies between
        start = self.mean()[..., 0] + self.variance()[..., 0].sqrt() * z
        start = torch.minimum(torch.maximum(start, low), high)

        def distribution(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z = (x[..., None] - m) / s  # (n, N, K)
            density = self._w / s * (-0.5 * (z.square() + LOG_2PI)).exp()
            F = (self._w * normal_cdf(z)).sum(-1)
            return F, density.sum(-1), -(z / s * density).sum(-1)

        return invert_cdf(distribution, u, start=start, low=low, high=high)[..., None]

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """Sum_c r_c (m_c + alpha C_c V_c^-1 (x_t - alpha m_c)), V_c = alpha^2 C_c + sigma^2.

        r_c is component c's share of the density of x_t; at sigma = 0 the answer is x_t itself.
        """
        alpha = path.alpha(t).to(self.means)[:, :, None, None]  # (n, N, 1, 1)
        sigma = path.sigma(t).to(self.means)[:, :, None, None]
        residual = x_t.to(self.means)[:, :, None, :] - alpha * self.means  # (n, N, K, d)
        if self._axes is not None:
            residual = (residual[..., None, :] @ self._axes).squeeze(-2)
        V = alpha.square() * self._along + sigma.square()
        safe = torch.where(V > 0, V, 1)
        log_r = self.log_weights - 0.5 * (residual.square() / safe + safe.log()).sum(-1)
        step = alpha * self._along / safe * residual
        if self._axes is not None:
            step = (self._axes @ step[..., None]).squeeze(-1)
        clean = (log_r.softmax(-1)[..., None] * (self.means + step)).sum(2)
        return torch.where(sigma[:, :, 0] > 0, clean, x_t.to(clean))

    def coordinate(self, j: int, x: Tensor) -> MixtureOfGaussians:
        """Again a mixture, whose weights have seen the earlier coordinates, as their means have.

        With S the covariance of those and c theirs with coordinate j, component by component, it is
        N(m_j + c^T S^-1 (x - m), C_jj - c^T S^-1 c).
        """
        own = self.means[..., [j]]  # (n|1, N, K, 1)
        if j == 0 and self._axes is None:
            return MixtureOfGaussians(self.log_weights, own, self.variances[..., [0]])
        residual = x[:, :, None, :j] - self.means[..., :j]  # (n, N, K, j)
        if self._axes is None:
            before = self.variances[..., :j]
            seen = -0.5 * (residual.square() / before + before.log()).sum(-1)
            return MixtureOfGaussians(self.log_weights + seen, own, self.variances[..., [j]])
        root = torch.linalg.cholesky(self.variances[..., :j, :j])  # of S
        innovation = torch.linalg.solve_triangular(root, residual[..., None], upper=False)
        gain = torch.linalg.solve_triangular(root, self.variances[..., :j, [j]], upper=False)
        seen = -0.5 * innovation.square().sum((-1, -2))
        seen = seen - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        left = self.variances[..., [j], j] - gain.square().sum(-2)
        return MixtureOfGaussians(
            self.log_weights + seen, own + (gain * innovation).sum(-2), left.clamp(min=0)
        )

    def select(self, tokens: Sequence[int]) -> MixtureOfGaussians:
        """The laws of those tokens only."""
        index = list(tokens)

        def chosen(tensor: Tensor) -> Tensor:
            return tensor if tensor.shape[1] == 1 else tensor[:, index]

        return MixtureOfGaussians(
            chosen(self.log_weights), self.means[:, index], chosen(self.variances), self._drawn
        )


class SideBySide(TokenLaw):
    """Laws of one token each, made one by one.

    Args:
        laws: For each token an (n, 1) law.
    """

    def __init__(self, laws: Sequence[TokenLaw]) -> None:
        self._laws = list(laws)

    @property
    def log_probabilities(self) -> Tensor:
        """(n, N, V), nats, of categorical laws."""
        return torch.cat([law.log_probabilities for law in self._laws], 1)  # type: ignore[attr-defined]

    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token, token by token."""
        return torch.cat([law.sample(rng) for law in self._laws], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x: (n, N)."""
        return self._each(lambda law, i: law.log_prob(x[:, i]))

    def mean(self) -> Tensor:
        """As of each token."""
        return self._each(lambda law, i: law.mean())

    def variance(self) -> Tensor:
        """As of each token."""
        return self._each(lambda law, i: law.variance())

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x), (n, N)."""
        return self._each(lambda law, i: law.cdf(x[:, i]))

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile of u (n, N)."""
        return self._each(lambda law, i: law.icdf(u[:, i]))

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """E[x_0 | x_t] of every token by itself, (n, N, d)."""
        return self._each(lambda law, i: law.denoise(x_t[:, i], t[:, i], path))

    def coordinate(self, j: int, x: Tensor) -> SideBySide:
        """The law of coordinate j of every token given the token's earlier coordinates."""
        return SideBySide([law.coordinate(j, x[:, [i]]) for i, law in enumerate(self._laws)])

    def select(self, tokens: Sequence[int]) -> SideBySide:
        """The laws of those tokens only."""
        return SideBySide([self._laws[i] for i in tokens])

    def _each(self, of: Callable[[TokenLaw, list[int]], Tensor]) -> Tensor:
        return torch.cat([of(law, [i]) for i, law in enumerate(self._laws)], 1)


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

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """E[x_0 | x_t] of every token by itself, (n, N, d)."""
        return self._each(lambda law, rows: law.denoise(x_t[rows], t[rows], path))

    def coordinate(self, j: int, x: Tensor) -> TiledMixture:
        """The law of coordinate j given the token's earlier ones, likewise by tiles."""

        def tile(rows: slice, tokens: list[int]) -> MixtureOfGaussians:
            columns = [self._tokens.index(i) for i in tokens]
            return self._tile(rows, tokens).coordinate(j, x[rows][:, columns])

        return TiledMixture(tile, rows=self._n, tokens=self._tokens, dim=1, size=self._size)

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


def normal_cdf(z: Tensor) -> Tensor:
    """P(Z <= z) of a standard normal Z; to all digits below the mean, and twice as fast as ndtr."""
    tail: Tensor = torch.special.erfc(z * -math.sqrt(0.5))
    return 0.5 * tail


def invert_cdf(
    distribution: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    u: Tensor,
    *,
    start: Tensor,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """Solve F(x) = u by Halley's steps, x - 2 e f / (2 f^2 - e f') with e = F - u, or by bisection.

    No answer depends on the other rows.

    Args:
        distribution: x (n, N) -> F, its derivative f and the derivative f' of that, (n, N) each.
        u: (n, N) in (0, 1).
        start: (n, N), first guess.
        low: (n, N), where F <= u.
        high: (n, N), where F >= u.

    Returns:
        (n, N), to 14 digits of x, of the bracket's width or of u.
    """
    x = start
    resolution = 1e-14 * torch.maximum(high - low, torch.maximum(low.abs(), high.abs()))
    rounding = 64 * torch.finfo(u.dtype).eps * u  # closer to u, steps are noise
    settled = torch.zeros_like(x, dtype=torch.bool)
    for _ in range(200):  # bisection alone needs at most about 60 halvings of a sane bracket
        F, f, slope = distribution(x)
        e = F - u
        low, high = torch.where(e < 0, x, low), torch.where(e < 0, high, x)
        halley = x - 2 * e * f / (2 * f.square() - e * slope)
        inside = (halley > low) & (halley < high)
        settled = settled | (e.abs() <= rounding)
        moved = torch.where(settled, x, torch.where(inside, halley, 0.5 * (low + high)))
        settled = settled | ((moved - x).abs() <= resolution)
        x = moved
        if bool(settled.all()):
            break
    return x
