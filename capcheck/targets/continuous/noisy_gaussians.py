"""Posteriors of the clean tokens of Gaussian components that are observed through noise.

With amplitudes A = diag(alpha_i) and S = diag(sigma_i), a sequence of component c is observed as
y ~ N(A mu, C) with C = A Sigma A + S^2 = L L^T. The innovations z = L^-1 (y - A mu) come in the
order of the tokens, so sums over their first entries give the evidence of any prefix, and with the
covariance G of x (or of the noise e) with z

    E[x_i | y] = mu_i + sum_m G_im z_m,    Cov[x_i | y] = Sigma_ii - sum_m G_im G_im^T

over the innovations of the tokens that token i is conditioned on. For a token with little noise the
noise is inferred instead, x_i = (y_i - sigma_i e_i) / alpha_i, which avoids cancellation and gives
a known token exactly. Factors of levels that all rows share are cached. Of a single component no
evidence is needed: there the means of a few tokens come from their own columns of C^-1 alone.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from capcheck.core.tiles import tile_size
from capcheck.noise.paths import NoisePath
from capcheck.targets.continuous.gaussian_components import derivative_of_mixture
from capcheck.targets.evidence import Prefix, earlier

__all__ = ["CACHED", "HELD", "TILE", "NoisyGaussians", "View", "amplitudes", "symmetric"]

TILE = 1 << 20  # most numbers of an intermediate result
T = TypeVar("T")

CACHED = 2  # patterns of levels whose factors are cached in any case
HELD = 1 << 24  # numbers in the factors of all patterns that are cached: 128 MiB


@dataclass(frozen=True, kw_only=True)
class View:
    """Observed rows x (n, D), distinct amplitudes (P, D), and their index `pattern` per row."""

    x: Tensor
    alpha: Tensor
    sigma: Tensor
    pattern: Tensor

    @property
    def name(self) -> bytes:
        """The amplitudes as bytes."""
        return self.alpha.cpu().numpy().tobytes() + self.sigma.cpu().numpy().tobytes()

    @property
    def shared(self) -> bool:
        """Whether all rows are observed at the same levels."""
        return len(self.alpha) == 1

    def amplitudes(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Alpha and sigma of some rows, (r, D), or (1, D) if all rows share them."""
        if self.shared:
            return self.alpha, self.sigma
        return self.alpha[self.pattern[rows]], self.sigma[self.pattern[rows]]


class NoisyGaussians:
    """K Gaussian components, and their posteriors given noisy tokens.

    Args:
        means: Means, (K, N, d).
        covariances: Covariances, (K, N d, N d).
        weights: Positive normalised weights, (K,).
    """

    def __init__(self, means: Tensor, covariances: Tensor, weights: Tensor) -> None:
        self._means = means
        self._covariances = covariances
        self._weights = weights
        self._factors: OrderedDict[bytes, _Factors] = OrderedDict()
        self._gains: OrderedDict[bytes, _Gains] = OrderedDict()

    def __reduce__(self) -> tuple[type[NoisyGaussians], tuple[Tensor, Tensor, Tensor]]:
        """Copies leave the factors behind."""
        return NoisyGaussians, (self._means, self._covariances, self._weights)

    def covariance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Covariance C = A Sigma A + S^2 of the observation at amplitudes (P, D): (P, K, D, D)."""
        C = alpha[:, None, :, None] * self._covariances * alpha[:, None, None, :]
        C.diagonal(dim1=-2, dim2=-1).add_(sigma.square()[:, None])
        return C

    def view(self, x: Tensor, levels: Tensor, path: NoisePath) -> View:
        """The view of rows x (n, N, d) that are observed at levels (n, N)."""
        levels = levels.to(self._means)
        if bool((levels == levels[:1]).all()):
            levels = levels[:1]
        patterns, pattern = torch.unique(levels, dim=0, return_inverse=True)
        alpha, sigma = amplitudes(patterns, path, self._means.shape[2])
        flat = x.to(self._means).flatten(1)
        seen = alpha[pattern] > 0  # values at level 1 are arbitrary
        return View(x=torch.where(seen, flat, 0), alpha=alpha, sigma=sigma, pattern=pattern)

    def tile_rows(self, view: View) -> int:
        """Number of rows whose posteriors are held at once."""
        K, D, _ = self._covariances.shape
        return max(1, tile_size(TILE, self._means.device) // (K * D * (1 if view.shared else D)))

    def _factors_of(self, view: View, rows: slice) -> _Factors:
        """L, G and the base covariances of the rows' patterns; (1|r, K, D, D)."""
        if view.shared:
            make = functools.partial(self._factorise, view.alpha, view.sigma)
            return _kept(self._factors, view.name, make, 3 * self._covariances.numel())
        chosen = view.pattern[rows]
        return self._factorise(view.alpha[chosen], view.sigma[chosen])

    def _factorise(self, alpha: Tensor, sigma: Tensor) -> _Factors:
        D = alpha.shape[1]
        L = torch.linalg.cholesky(self.covariance(alpha, sigma))
        eye = torch.eye(D).to(L)
        inverse = torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False)  # L^-1
        of_noise = sigma[:, None, :, None] * inverse.mT  # Cov(e, z), with z the innovations
        of_clean = (self._covariances * alpha[:, None, None, :]) @ inverse.mT  # Cov(x, z)
        return _Factors(
            inverse=inverse,
            log_diagonal=L.diagonal(dim1=-2, dim2=-1).log(),
            of_noise=of_noise,
            of_clean=of_clean,
        )

    def _gains_of(self, view: View, tokens: Sequence[int]) -> _Gains:
        """Gains of some tokens of the only component, at levels that all rows share."""
        own = _coordinates(tokens, self._means.shape[2], self._means.device)
        make = functools.partial(self._gain, view.alpha, view.sigma, own)
        name = view.name + repr(list(tokens)).encode()
        return _kept(self._gains, name, make, 2 * len(own) * view.alpha.shape[1])

    def _gain(self, alpha: Tensor, sigma: Tensor, own: Tensor) -> _Gains:
        L = torch.linalg.cholesky(self.covariance(alpha, sigma)[0, 0])
        from_noise = self._infer_noise(alpha, sigma, "all")[0, own]
        columns = torch.where(from_noise, 0, alpha[0, :, None] * self._covariances[0][:, own])
        columns[own, torch.arange(len(own)).to(own)] += torch.where(from_noise, sigma[0, own], 0)
        with_z = torch.linalg.solve_triangular(L, columns, upper=False)  # (D, E)
        return _Gains(
            of_residual=torch.linalg.solve_triangular(L.mT, with_z, upper=True),
            with_z=with_z.mT.contiguous(),
        )

    def _alone(self, view: View, prefix: Prefix) -> bool:
        """Whether there is one component only, with one factor for all rows."""
        return view.shared and prefix == "all" and len(self._means) == 1

    def _infer_noise(self, alpha: Tensor, sigma: Tensor, prefix: Prefix) -> Tensor:
        """Coordinates with so little noise that the noise is inferred instead: (P, D) bool."""
        if prefix == "before":
            return torch.zeros_like(alpha, dtype=torch.bool)
        spread = self._covariances.diagonal(dim1=1, dim2=2).amin(0)  # (D,)
        d = self._means.shape[2]
        well = sigma.square() < alpha.square() * spread
        whole: Tensor = well.reshape(len(well), -1, d).all(2)
        return whole.repeat_interleave(d, 1)

    def _informed_by(self, prefix: Prefix) -> Tensor:
        """Whether innovation m enters the posterior of coordinate i, (D, D) bool."""
        token = (
            torch.arange(self._covariances.shape[-1], device=self._means.device)
            // self._means.shape[2]
        )
        if prefix == "all":
            return torch.ones(len(token), len(token), dtype=torch.bool, device=self._means.device)
        earlier = token[None, :] < token[:, None]
        return earlier if prefix == "before" else earlier | (token[None, :] == token[:, None])

    def posterior(
        self, view: View, rows: slice, prefix: Prefix, tokens: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Log-weights (r, 1|S, K) and means (r, S, K, d) of the clean tokens' mixtures."""
        _, N, d = self._means.shape
        alpha, sigma = view.amplitudes(rows)  # (1|r, D)
        x = view.x[rows]  # (r, D)
        own = _coordinates(tokens, d, self._means.device)
        from_noise = self._infer_noise(alpha, sigma, prefix)[:, None, own]  # (1|r, 1, S d)
        a, s = alpha[:, None, own], sigma[:, None, own]
        residual = x[:, None] - alpha[:, None] * self._means.flatten(1)  # (r, K, D)
        if self._alone(view, prefix):
            inferred = residual @ self._gains_of(view, tokens).of_residual  # (r, 1, S d)
            clean = self._means.flatten(1)[:, own] + inferred
            clean = torch.where(from_noise, (x[:, None, own] - s * inferred) / a, clean)
            log_weights = x.new_zeros(len(x), 1, 1)
            return log_weights, clean.unflatten(2, (len(tokens), d)).transpose(1, 2)
        factors = self._factors_of(view, rows)
        z = _apply(factors.inverse, residual)  # (r, K, D) innovations
        by_token = (-0.5 * z.square() - factors.log_diagonal).unflatten(2, (N, d)).sum(3)
        by_token = by_token.transpose(1, 2)  # (r, N, K)
        if prefix == "all":
            evidence = by_token.sum(1, keepdim=True)
        else:
            seen = earlier(by_token) if prefix == "before" else by_token
            evidence = seen.cumsum(1)[:, list(tokens)]
        log_weights = evidence + self._weights.log()
        informed = self._informed_by(prefix)[own]
        clean = self._means.flatten(1)[:, own] + _apply(factors.of_clean[:, :, own] * informed, z)
        noise = _apply(factors.of_noise[:, :, own] * informed, z)
        clean = torch.where(from_noise, (x[:, None, own] - s * noise) / a, clean)
        return log_weights, clean.unflatten(2, (len(tokens), d)).transpose(1, 2)

    def denoise_with_derivative(
        self, view: View, rows: slice, prefix: Prefix, tokens: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Means of some clean tokens (r, S, d), and their derivative (r, S d, S d).

        The derivative is in the noisy values of the same tokens; see `derivative_of_mixture`.
        """
        d = self._means.shape[2]
        own = _coordinates(tokens, d, self._means.device)
        log_weights, clean = self.posterior(view, rows, prefix, tokens)
        factors = self._factors_of(view, rows)
        alpha, sigma = view.amplitudes(rows)  # (1|r, D)
        from_noise = self._infer_noise(alpha, sigma, prefix)[:, None, own, None]
        informed = self._informed_by(prefix)[own]
        inverse = factors.inverse[..., own]  # (1|r, K, D, E): columns of the tokens that move
        of_clean = (factors.of_clean[:, :, own] * informed) @ inverse  # (1|r, K, E, E)
        of_noise = (factors.of_noise[:, :, own] * informed) @ inverse
        a, s = alpha[:, None, own, None], sigma[:, None, own, None]
        slopes = torch.where(
            from_noise, (torch.eye(len(own)).to(a) - s * of_noise) / torch.where(a > 0, a, 1),
            of_clean,
        )  # fmt: skip
        residual = view.x[rows][:, None] - alpha[:, None] * self._means.flatten(1)
        z = _apply(factors.inverse, residual)  # (r, K, D)
        if prefix == "all":
            pulls = -_apply(inverse.mT, z)  # (r, K, E)
        else:
            pulls = -torch.einsum("rkm,em,xkmf->rkef", z, informed.to(z), inverse)
        clean = clean.transpose(1, 2).flatten(2)  # (r, K, E)
        log_weights = log_weights.mT  # (r, K, 1|S)
        if prefix != "all":
            log_weights = log_weights.repeat_interleave(d, 2)
        mean, derivative = derivative_of_mixture(log_weights, clean, slopes, pulls)
        return mean.unflatten(1, (-1, d)), derivative

    def posterior_covariances(
        self, view: View, rows: slice, prefix: Prefix, tokens: Sequence[int]
    ) -> Tensor:
        """Covariance of every clean token in each component: (1|r, S, K, d, d)."""
        d, S = self._means.shape[2], len(tokens)
        alpha, sigma = view.amplitudes(rows)
        own = _coordinates(tokens, d, self._means.device)
        from_noise = self._infer_noise(alpha, sigma, prefix)[:, None, own]  # (1|r, 1, S d)
        ratio = torch.where(from_noise, sigma[:, None, own] / alpha[:, None, own], 1)
        if self._alone(view, prefix):
            G = self._gains_of(view, tokens).with_z[None, None]
        else:
            factors = self._factors_of(view, rows)
            G = torch.where(
                from_noise[..., None], factors.of_noise[:, :, own], factors.of_clean[:, :, own]
            )
            G = G * self._informed_by(prefix)[own]
        G = G.unflatten(2, (S, d))  # (1|r, K, S, d, D)
        blocks = self._covariances.unflatten(1, (-1, d)).unflatten(3, (-1, d))
        index = torch.tensor(list(tokens), device=self._means.device)
        base = blocks[:, index, :, index].transpose(0, 1)  # (K, S, d, d)
        eye = torch.eye(d).to(base)
        is_noise = from_noise.unflatten(2, (S, d))[..., None]  # (1|r, 1, S, d, 1)
        remaining = torch.where(is_noise, eye, base) - G @ G.mT
        ratio = ratio.unflatten(2, (S, d))
        covariance = remaining * ratio[..., :, None] * ratio[..., None, :]
        if d == 1:
            covariance = covariance.clamp(min=0)
        return symmetric(covariance).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class _Factors:
    """Factors of P patterns: L^-1, log diag L (P, K, D), Cov(e, z), Cov(x, z), (P, K, D, D)."""

    inverse: Tensor
    log_diagonal: Tensor
    of_noise: Tensor
    of_clean: Tensor


@dataclass(frozen=True, kw_only=True)
class _Gains:
    """How coordinates of one component, or their noises where these are inferred, are told.

    Attributes:
        of_residual: (D, E), the products with which of the residual y - A mu are their means.
        with_z: (E, D), their covariances with the innovations.
    """

    of_residual: Tensor
    with_z: Tensor


def _kept(held: OrderedDict[bytes, T], name: bytes, make: Callable[[], T], numbers: int) -> T:
    """What is held under a name, made if it is missing; the oldest give way to it."""
    found = held.get(name)
    if found is None:
        found = held[name] = make()
        while len(held) > max(CACHED, HELD // numbers):
            held.popitem(last=False)
    return found


def _apply(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Products of matrices (1|r, K, S, D) with the vectors (r, K, D) of each row: (r, K, S)."""
    if len(matrix) == 1:  # one product per component serves all rows
        return torch.bmm(vectors.transpose(0, 1), matrix[0].mT).transpose(0, 1)
    return (matrix @ vectors[..., None]).squeeze(-1)


def amplitudes(levels: Tensor, path: NoisePath, dim: int) -> tuple[Tensor, Tensor]:
    """The amplitudes alpha and sigma of every coordinate, (P, N d), at levels (P, N)."""
    each = levels.repeat_interleave(dim, 1)
    return path.alpha(each), path.sigma(each)


def _coordinates(tokens: Sequence[int], dim: int, device: torch.device) -> Tensor:
    return torch.tensor([i * dim + j for i in tokens for j in range(dim)], device=device)


def symmetric(matrix: Tensor) -> Tensor:
    """The mean of each matrix and its transpose, which rounding makes unequal."""
    return 0.5 * (matrix + matrix.mT)
