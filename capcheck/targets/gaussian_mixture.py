"""Gaussian mixtures with full covariances: p(x) = sum_c w_c N(x; mu_c, Sigma_c), K >= 1.

Seen through a noise path with amplitudes A = diag(alpha_i) and S = diag(sigma_i), a sequence of
component c is y ~ N(A mu, C) with C = A Sigma A + S^2 = L L^T. The innovations z = L^-1 (y - A mu)
come in the order of the tokens, so sums over their first entries give the evidence of any prefix,
and with the covariance G of x (or of the noise e) with z

    E[x_i | y] = mu_i + sum_m G_im z_m,    Cov[x_i | y] = Sigma_ii - sum_m G_im G_im^T

over the innovations of the tokens that token i is told. Where a token is seen at little noise its
own noise is inferred instead, x_i = (y_i - sigma_i e_i) / alpha_i: nothing cancels there, and a
known token comes out exactly.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.errors import InputError
from capcheck.laws import LOG_2PI, MixtureOfGaussians, TiledMixture
from capcheck.paths import PATHS, NoisePath
from capcheck.randomness import Randomness
from capcheck.sequences import SequenceSpec
from capcheck.targets.components import Prefix, earlier
from capcheck.targets.target import (
    ContinuousTarget,
    Provenance,
    fingerprint,
    require_grid,
    require_orthonormal,
    require_weights,
)

TILE = 1 << 20  # numbers held at once per intermediate result
CACHED = 8  # patterns of levels whose factors are kept


class GaussianMixture(ContinuousTarget):
    """p(x) = sum_c w_c N(x; mu_c, Sigma_c) over flat sequences x of N d numbers.

    Args:
        means: (K, N, d).
        covariances: (K, N d, N d), symmetric and positive definite.
        weights: (K,) non-negative, not all zero; equal by default. They are normalised.
        grid: (rows, columns) of the tokens, if they have any.
        provenance: Where the parameters come from.

    Raises:
        InputError: A shape, a weight, a covariance or a non-finite number breaks these rules.

    Example:
        >>> ar1 = 0.9 ** torch.arange(3.0).sub(torch.arange(3.0)[:, None]).abs()
        >>> GaussianMixture(torch.zeros(1, 3, 1), ar1[None]).spec.variance[:, 0].tolist()
        [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor,
        weights: Tensor | None = None,
        *,
        grid: tuple[int, int] | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        weights = means.new_ones(len(means)) if weights is None else weights.to(means)
        _require_parameters(means, covariances)
        require_grid(grid, means.shape[1])
        weights = require_weights(weights, len(means))
        kept = weights > 0
        self._means, self._weights = means[kept], weights[kept]  # (K, N, d), (K,)
        self._covariances = covariances[kept].to(means)  # (K, D, D)
        mean = torch.einsum("k,knd->nd", self._weights, self._means)
        second = self._covariances.diagonal(dim1=1, dim2=2).reshape(self._means.shape)
        second = second + (self._means - mean).square()
        self._spec = SequenceSpec(
            tokens=means.shape[1],
            kind="continuous",
            dim=means.shape[2],
            mean=mean,
            variance=torch.einsum("k,knd->nd", self._weights, second),
            grid=grid,
        )
        self._factors: OrderedDict[bytes, _Factors] = OrderedDict()
        what = "Gaussian" if len(self._means) == 1 else f"mixture of {len(self._means)} Gaussians"
        self.provenance = provenance or Provenance(description=f"{what} with full covariance")

    @property
    def spec(self) -> SequenceSpec:
        """Number, kind, size and first two moments of the tokens."""
        return self._spec

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of every computation."""
        return self._means.dtype

    @property
    def device(self) -> torch.device:
        """Where every computation runs."""
        return self._means.device

    @property
    def means(self) -> Tensor:
        """(K, N, d) means of the components of positive weight."""
        return self._means

    @property
    def covariances(self) -> Tensor:
        """(K, N d, N d) covariances of the components of positive weight."""
        return self._covariances

    @property
    def weights(self) -> Tensor:
        """(K,) normalised weights."""
        return self._weights

    def gaussian(self) -> tuple[Tensor, Tensor] | None:
        """Its mean and covariance if there is one component."""
        return (self._means[0].flatten(), self._covariances[0]) if len(self._means) == 1 else None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the parameters in float64."""
        parameters = (self._means, self._covariances, self._weights)
        return fingerprint("Gaussian mixture", self._spec.grid, parameters)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> GaussianMixture:
        """The same law, computed elsewhere or in another precision."""
        if torch.device(device) == self.device and dtype == self.dtype:
            return self
        return self._with(self._means.to(device, dtype), self._covariances.to(device, dtype))

    def with_noise(self, levels: Tensor, path: NoisePath = PATHS["linear"]) -> GaussianMixture:
        """Again a Gaussian mixture: means A mu, covariances A Sigma A + S^2."""
        levels = levels.to(self._means)
        alpha = path.alpha(levels)[:, None].expand_as(self._means[0])  # (N, d)
        view = _amplitudes(levels[None], path, self._spec.dim)
        return self._with(alpha * self._means, self._covariance_of_view(*view)[0])

    def transformed(self, matrix: Tensor) -> GaussianMixture:
        """Again a Gaussian mixture: means M mu, covariances M Sigma M^T."""
        D = self._covariances.shape[-1]
        require_orthonormal(matrix, D)
        matrix = matrix.to(self._means)
        means = (self._means.flatten(1) @ matrix.T).reshape(self._means.shape)
        return self._with(means, _symmetric(matrix @ self._covariances @ matrix.T))

    def _with(self, means: Tensor, covariances: Tensor) -> GaussianMixture:
        """Other means and covariances, and everything else as it is."""
        return GaussianMixture(
            means, covariances, self._weights, grid=self._spec.grid, provenance=self.provenance
        )

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its Gaussian: (n, N, d)."""
        component = rng.categorical(self._weights, (n,))
        noise = rng.normal((n, self._covariances.shape[-1])).to(self._means)
        draws = torch.empty_like(noise)
        for c, root in enumerate(torch.linalg.cholesky(self._covariances)):
            of_c = component == c
            draws[of_c] = noise[of_c] @ root.T
        return self._means[component] + draws.reshape(n, *self._means.shape[1:])

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-density of x (n, N, d), in nats: (n,)."""
        self._require(x)
        return self._log_smoothed(x, 0.0) - 0.5 * x[0].numel() * LOG_2PI

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> TiledMixture:
        """The law of every clean token given every token seen at its own level; see `Target`."""
        self._require(x, levels)
        prefix: Prefix = "before" if causal else "all"
        view = self._view(x, levels, path)

        def tile(rows: slice, tokens: list[int]) -> MixtureOfGaussians:
            log_weights, means = self._posterior(view, rows, prefix, tokens)
            covariances = self._posterior_covariances(view, rows, prefix, tokens)
            if self._spec.dim == 1:
                covariances = covariances[..., 0]
            return MixtureOfGaussians(log_weights, means, covariances)

        return TiledMixture(
            tile,
            rows=len(x),
            tokens=range(self._spec.tokens),
            dim=self._spec.dim,
            size=self._tile_rows(view),
        )

    def denoise(
        self, x: Tensor, levels: Tensor, path: NoisePath, *, causal: bool = False
    ) -> Tensor:
        """E[x_0 | x seen at those levels], (n, N, d); see `Target`."""
        self._require(x, levels)
        even = bool((levels == levels[:, :1]).all()) and bool((levels < 1).all())
        if even and not causal and self._well_scaled:
            return self._denoise_evenly(x, levels[:, 0], path)
        view = self._view(x, levels, path)
        size, tokens = self._tile_rows(view), list(range(self._spec.tokens))
        tiles = []
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            weights, means = self._posterior(view, rows, "through" if causal else "all", tokens)
            tiles.append((weights.softmax(-1)[..., None] * means).sum(2))
        return torch.cat(tiles)

    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """E exp(-|x - Y|^2 / (2 bandwidth^2)) over the target's Y: (n,)."""
        # A Gaussian kernel is a Gaussian density times (2 pi h^2)^(D/2).
        log_scale = x[0].numel() * torch.tensor(bandwidth, dtype=torch.float64).log().item()
        return (self._log_smoothed(x, bandwidth**2) + log_scale).exp()

    def kernel_self_mean(self, bandwidth: float) -> float:
        """E exp(-|Y - Y'|^2 / (2 bandwidth^2)) over independent Y and Y'."""
        total, D = 0.0, self._covariances.shape[-1]
        widened = self._covariances + bandwidth**2 * torch.eye(D).to(self._means)
        flat = self._means.flatten(1)
        for c in range(len(flat)):
            root = torch.linalg.cholesky(widened + self._covariances[c])  # (K, D, D)
            z = torch.linalg.solve_triangular(root, (flat - flat[c])[..., None], upper=False)
            log_det = (root.diagonal(dim1=1, dim2=2) / bandwidth).log().sum(1)
            kernel = (-0.5 * z.square().sum((1, 2)) - log_det).exp()
            total += float(self._weights[c] * (self._weights @ kernel))
        return total

    @functools.cached_property
    def _eigen(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues (K, D), all eigenvectors side by side (D, K D), means in them (K, D)."""
        values, vectors = torch.linalg.eigh(self._covariances)
        rotated = torch.einsum("kde,kd->ke", vectors, self._means.flatten(1))
        basis = vectors.permute(1, 0, 2).reshape(vectors.shape[1], -1).contiguous()
        return values, basis, rotated

    def _log_smoothed(self, x: Tensor, h2: float) -> Tensor:
        """Log sum_c w_c |Sigma_c + h2|^-1/2 exp(-1/2 |x - mu_c|^2 in that metric): (n,)."""
        # By Cholesky factors: eigenvectors lose what is small beside what is large.
        D = self._covariances.shape[-1]
        root = torch.linalg.cholesky(self._covariances + h2 * torch.eye(D).to(self._means))
        constant = self._weights.log() - root.diagonal(dim1=1, dim2=2).log().sum(1)  # (K,)
        answers = []
        for tile in x.to(self._means).flatten(1).split(self._eigen_rows()):
            residual = (tile - self._means.flatten(1)[:, None]).mT  # (K, D, r)
            z = torch.linalg.solve_triangular(root, residual, upper=False)
            answers.append((constant[:, None] - 0.5 * z.square().sum(1)).logsumexp(0))
        return torch.cat(answers)

    @functools.cached_property
    def _well_scaled(self) -> bool:
        """Whether the eigenbasis keeps at least half of the digits of every variance."""
        values = self._eigen[0]
        least = math.sqrt(torch.finfo(values.dtype).eps)
        return bool((values.amin(1) > least * values.amax(1)).all())

    def _denoise_evenly(self, x: Tensor, levels: Tensor, path: NoisePath) -> Tensor:
        """All tokens of a row at one level: two matrix products in the eigenbasis."""
        values, basis, _ = self._eigen
        answer = torch.empty_like(x, dtype=self.dtype)
        flat = x.to(self._means).flatten(1)
        for level in levels.unique():
            rows = (levels == level).nonzero()[:, 0]
            t = level.to(self._means)
            alpha, sigma2 = float(path.alpha(t)), float(path.sigma(t).square())
            standard = self._standardiser(alpha, sigma2)
            V = alpha**2 * values + sigma2
            back = basis * (alpha * values / V.sqrt()).flatten()  # (D, K D)
            for tile in rows.split(self._eigen_rows()):
                log_weights, z = standard(flat[tile])
                share = log_weights.softmax(1)  # (r, K)
                pulled = z.mul_(share[..., None]).flatten(1) @ back.T
                clean = pulled.addmm_(share, self._means.flatten(1))
                answer[tile] = clean.reshape(-1, *x.shape[1:])
        return answer

    def _standardiser(
        self, alpha: float, sigma2: float
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """A function from rows (r, D) to log-weights (r, K) and V^-1/2 U^T (x - alpha mu) of each.

        V = alpha^2 Lambda + sigma^2 in the eigenbasis U of each component; the last is (r, K, D).
        """
        values, basis, rotated = self._eigen
        V = alpha**2 * values + sigma2  # (K, D)
        root = V.rsqrt()
        onto, shift = basis * root.flatten(), alpha * rotated * root
        constant = self._weights.log() - 0.5 * V.log().sum(1)

        def standard(x: Tensor) -> tuple[Tensor, Tensor]:
            z = (x @ onto).reshape(len(x), *values.shape).sub_(shift)
            return constant - 0.5 * torch.linalg.vector_norm(z, dim=2).square_(), z

        return standard

    def _eigen_rows(self) -> int:
        return max(1, TILE // 4 // self._eigen[1].shape[1])

    def _covariance_of_view(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """C = A Sigma A + S^2 for amplitudes (P, D): (P, K, D, D)."""
        C = alpha[:, None, :, None] * self._covariances * alpha[:, None, None, :]
        C.diagonal(dim1=-2, dim2=-1).add_(sigma.square()[:, None])
        return C

    def _view(self, x: Tensor, levels: Tensor, path: NoisePath) -> _View:
        levels = levels.to(self._means)
        if bool((levels == levels[:1]).all()):
            levels = levels[:1]
        patterns, pattern = torch.unique(levels, dim=0, return_inverse=True)
        alpha, sigma = _amplitudes(patterns, path, self._spec.dim)
        flat = x.to(self._means).flatten(1)
        seen = alpha[pattern] > 0  # what stands at level 1 may be anything
        return _View(x=torch.where(seen, flat, 0), alpha=alpha, sigma=sigma, pattern=pattern)

    def _tile_rows(self, view: _View) -> int:
        K, D, _ = self._covariances.shape
        return max(1, TILE // (K * D * (1 if view.shared else D)))

    def _factors_of(self, view: _View, rows: slice) -> _Factors:
        """L, G and the base covariances of the rows' patterns; (1|r, K, D, D)."""
        if view.shared:
            key = view.alpha.cpu().numpy().tobytes() + view.sigma.cpu().numpy().tobytes()
            if key not in self._factors:
                self._factors[key] = self._factorise(view.alpha, view.sigma)
                while len(self._factors) > CACHED:
                    self._factors.popitem(last=False)
            return self._factors[key]
        chosen = view.pattern[rows]
        return self._factorise(view.alpha[chosen], view.sigma[chosen])

    def _factorise(self, alpha: Tensor, sigma: Tensor) -> _Factors:
        D = alpha.shape[1]
        L = torch.linalg.cholesky(self._covariance_of_view(alpha, sigma))
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

    def _infer_noise(self, alpha: Tensor, sigma: Tensor, prefix: Prefix) -> Tensor:
        """Which coordinates are seen so well that their noise is inferred: (P, D) bool."""
        if prefix == "before":
            return torch.zeros_like(alpha, dtype=torch.bool)
        spread = self._covariances.diagonal(dim1=1, dim2=2).amin(0)  # (D,)
        d = self._spec.dim
        well = sigma.square() < alpha.square() * spread
        whole: Tensor = well.reshape(len(well), -1, d).all(2)
        return whole.repeat_interleave(d, 1)

    def _told(self, prefix: Prefix) -> Tensor:
        """(D, D) bool: whether coordinate i is told innovation m."""
        token = torch.arange(self._covariances.shape[-1], device=self.device) // self._spec.dim
        if prefix == "all":
            return torch.ones(len(token), len(token), dtype=torch.bool, device=self.device)
        earlier = token[None, :] < token[:, None]
        return earlier if prefix == "before" else earlier | (token[None, :] == token[:, None])

    def _posterior(
        self, view: _View, rows: slice, prefix: Prefix, tokens: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Log-weights (r, 1|S, K) and means (r, S, K, d) of the clean tokens' mixtures."""
        _, N, d = self._means.shape
        factors = self._factors_of(view, rows)
        alpha, sigma = view.amplitudes(rows)  # (1|r, D)
        x = view.x[rows]  # (r, D)
        residual = x[:, None] - alpha[:, None] * self._means.flatten(1)  # (r, K, D)
        z = _apply(factors.inverse, residual)  # (r, K, D) innovations
        by_token = (-0.5 * z.square() - factors.log_diagonal).unflatten(2, (N, d)).sum(3)
        by_token = by_token.transpose(1, 2)  # (r, N, K)
        if prefix == "all":
            evidence = by_token.sum(1, keepdim=True)
        else:
            seen = earlier(by_token) if prefix == "before" else by_token
            evidence = seen.cumsum(1)[:, list(tokens)]
        log_weights = evidence + self._weights.log()
        own = _coordinates(tokens, d, self.device)
        told = self._told(prefix)[own]
        from_noise = self._infer_noise(alpha, sigma, prefix)[:, None, own]  # (1|r, 1, S d)
        clean = self._means.flatten(1)[:, own] + _apply(factors.of_clean[:, :, own] * told, z)
        noise = _apply(factors.of_noise[:, :, own] * told, z)
        a, s = alpha[:, None, own], sigma[:, None, own]
        clean = torch.where(from_noise, (x[:, None, own] - s * noise) / a, clean)
        return log_weights, clean.unflatten(2, (len(tokens), d)).transpose(1, 2)

    def _posterior_covariances(
        self, view: _View, rows: slice, prefix: Prefix, tokens: Sequence[int]
    ) -> Tensor:
        """Covariance of every clean token in each component: (1|r, S, K, d, d)."""
        d, S = self._spec.dim, len(tokens)
        factors = self._factors_of(view, rows)
        alpha, sigma = view.amplitudes(rows)
        own = _coordinates(tokens, d, self.device)
        told = self._told(prefix)[own]
        from_noise = self._infer_noise(alpha, sigma, prefix)[:, None, own]  # (1|r, 1, S d)
        ratio = torch.where(from_noise, sigma[:, None, own] / alpha[:, None, own], 1)
        G = torch.where(
            from_noise[..., None], factors.of_noise[:, :, own], factors.of_clean[:, :, own]
        )
        G = (G * told).unflatten(2, (S, d))  # (1|r, K, S, d, D)
        blocks = self._covariances.unflatten(1, (-1, d)).unflatten(3, (-1, d))
        index = torch.tensor(list(tokens), device=self.device)
        base = blocks[:, index, :, index].transpose(0, 1)  # (K, S, d, d)
        eye = torch.eye(d).to(base)
        is_noise = from_noise.unflatten(2, (S, d))[..., None]  # (1|r, 1, S, d, 1)
        remaining = torch.where(is_noise, eye, base) - G @ G.mT
        ratio = ratio.unflatten(2, (S, d))
        covariance = remaining * ratio[..., :, None] * ratio[..., None, :]
        if d == 1:
            covariance = covariance.clamp(min=0)
        return _symmetric(covariance).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class _Factors:
    """Of P patterns: L^-1, log diag L (P, K, D), Cov(e, z) and Cov(x, z), (P, K, D, D) each."""

    inverse: Tensor
    log_diagonal: Tensor
    of_noise: Tensor
    of_clean: Tensor


@dataclass(frozen=True, kw_only=True)
class _View:
    """Rows (n, D) as seen, the distinct amplitudes (P, D), and which of them each row has."""

    x: Tensor
    alpha: Tensor
    sigma: Tensor
    pattern: Tensor

    @property
    def shared(self) -> bool:
        return len(self.alpha) == 1

    def amplitudes(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Alpha and sigma of some rows, (r, D), or (1, D) if all rows share them."""
        if self.shared:
            return self.alpha, self.sigma
        return self.alpha[self.pattern[rows]], self.sigma[self.pattern[rows]]


def _apply(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Matrices (1|r, K, S, D) times the vectors (r, K, D) of each row: (r, K, S)."""
    if len(matrix) == 1:  # one product per component serves all rows
        return torch.bmm(vectors.transpose(0, 1), matrix[0].mT).transpose(0, 1)
    return (matrix @ vectors[..., None]).squeeze(-1)


def _amplitudes(levels: Tensor, path: NoisePath, dim: int) -> tuple[Tensor, Tensor]:
    """Alpha and sigma of every coordinate, (P, N d), at levels (P, N)."""
    each = levels.repeat_interleave(dim, 1)
    return path.alpha(each), path.sigma(each)


def _coordinates(tokens: Sequence[int], dim: int, device: torch.device) -> Tensor:
    return torch.tensor([i * dim + j for i in tokens for j in range(dim)], device=device)


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)


def _require_parameters(means: Tensor, covariances: Tensor) -> None:
    if means.dim() != 3 or means.numel() == 0 or not means.is_floating_point():
        raise InputError(
            "means must be floating-point numbers of shape (components, tokens, dim), none of them "
            f"0, got {means.dtype} of {tuple(means.shape)}."
        )
    D = means.shape[1] * means.shape[2]
    if tuple(covariances.shape) != (len(means), D, D):
        raise InputError(
            f"covariances must have shape {(len(means), D, D)} to fit the means, "
            f"got {tuple(covariances.shape)}."
        )
    if not (means.isfinite().all() and covariances.isfinite().all()):
        raise InputError("means and covariances must be finite, got NaN or infinity.")
    scale = covariances.diagonal(dim1=1, dim2=2).abs().amax(1)[:, None, None]
    if not bool(((covariances - covariances.mT).abs() <= 1e-6 * scale).all()):
        raise InputError("covariances must be symmetric; average each with its transpose.")
    if bool(torch.linalg.cholesky_ex(covariances.double()).info.any()):
        raise InputError(
            "covariances must be positive definite, got one that is not; "
            "add a small multiple of the identity."
        )
