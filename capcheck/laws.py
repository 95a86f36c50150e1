"""Token laws: what a token predictor returns for every token of every row.

A law is an n x N array of independent distributions of one token each, either categorical over
0..V-1 or a mixture of Gaussians on R^d. Procedures draw from it; densities are evaluated under it.
"""

from __future__ import annotations

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
        return self.icdf(rng.uniform(tuple(self._p.shape[:2])))

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


class MixtureOfGaussians(TokenLaw):
    """p(x) = sum_c w_c prod_j N(x_j; m_cj, v_cj) on R^d.

    Shapes broadcast over rows, tokens and components; a variance of 0 is a point mass.

    Args:
        log_weights: (n|1, N|1, K), unnormalised; -inf is weight 0.
        means: (n|1, N, K, d).
        variances: (n|1, N, K|1, d), in squared units of the tokens.
    """

    def __init__(self, log_weights: Tensor, means: Tensor, variances: Tensor) -> None:
        self.log_weights = log_weights.log_softmax(-1)
        self.means = means
        self.variances = variances
        self._w = self.log_weights.exp()

    @property
    def _shape(self) -> tuple[int, int]:
        rows = max(t.shape[0] for t in (self.log_weights, self.means, self.variances))
        return rows, self.means.shape[1]

    def sample(self, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its Gaussian: (n, N, d)."""
        n, N = self._shape
        K, d = self.means.shape[2:]
        component = inverse_cdf(self._w.expand(n, N, K), rng.uniform((n, N))[..., None])
        index = component[..., None].expand(n, N, 1, d)
        mean = self.means.expand(n, N, K, d).gather(2, index).squeeze(2)
        variance = self.variances.expand(n, N, K, d).gather(2, index).squeeze(2)
        return mean + variance.sqrt() * rng.normal((n, N, d)).to(mean.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x (n, N, d): (n, N); +-infinite on and off a point mass."""
        residual = x[:, :, None, :] - self.means  # (n, N, K, d)
        square = torch.where(self.variances > 0, residual.square() / self.variances, 0)
        log_density = -0.5 * (square + self.variances.log() + LOG_2PI)
        off_atom = (self.variances == 0) & (residual != 0)
        log_density = torch.where(off_atom, -torch.inf, log_density)
        return (self.log_weights + log_density.sum(-1)).logsumexp(-1)

    def mean(self) -> Tensor:
        """(n, N, d)."""
        return (self._w[..., None] * self.means).sum(2)

    def variance(self) -> Tensor:
        """(n, N, d)."""
        deviation = self.means - self.mean()[:, :, None, :]
        return (self._w[..., None] * (self.variances + deviation.square())).sum(2)

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for x (n, N, 1): (n, N)."""
        require_scalar_tokens("cdf", self.means.shape[-1])
        z = (x[:, :, None, 0] - self.means[..., 0]) / self.variances[..., 0].sqrt()
        probability: Tensor = (self._w * torch.special.ndtr(z)).sum(-1)
        return probability

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile of u (n, N), by Newton's method inside a shrinking bracket: (n, N, 1)."""
        require_scalar_tokens("icdf", self.means.shape[-1])
        quantiles = self.means[..., 0] + self.variances[..., 0].sqrt() * torch.special.ndtri(
            u[..., None]
        )
        low, high = quantiles.amin(-1), quantiles.amax(-1)  # a mixture's quantile lies between
        return invert_cdf(self.cdf, self.log_prob, u, low, high)

    def select(self, tokens: Sequence[int]) -> MixtureOfGaussians:
        """The laws of those tokens only."""
        index = list(tokens)
        weights = self.log_weights
        return MixtureOfGaussians(
            weights if weights.shape[1] == 1 else weights[:, index],
            self.means[:, index],
            self.variances[:, index],
        )


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
