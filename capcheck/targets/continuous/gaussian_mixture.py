"""Gaussian mixtures with full covariances: p(x) = sum_c w_c N(x; mu_c, Sigma_c), K >= 1.

Observed through noise, the law is a Gaussian mixture with means A mu_c and covariances
A Sigma_c A + S^2, for the amplitudes A = diag(alpha_i) and S = diag(sigma_i) of the tokens. The
conditionals of clean tokens are in `noisy_gaussians`, and in `gaussian_eigenbasis` if all tokens
of a row have the same level.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.log_sums import log_sum_exp
from capcheck.core.randomness import Randomness
from capcheck.core.tiles import slices, tile_size
from capcheck.laws import MixtureOfGaussians, TiledMixture, TokenLaw
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.continuous.gaussian_components import GaussianComponents
from capcheck.targets.continuous.gaussian_eigenbasis import Eigenbasis
from capcheck.targets.continuous.given_first import LawsGiven
from capcheck.targets.continuous.known_gaussians import HELD, KnownGaussians
from capcheck.targets.continuous.noisy_gaussians import NoisyGaussians, amplitudes, symmetric
from capcheck.targets.evidence import Prefix
from capcheck.targets.fingerprint import fingerprint
from capcheck.targets.parameters import (
    mixture_weights,
    require_deviations,
    require_grid,
    require_levels,
    require_orthonormal,
    require_provenance,
    require_reals,
    require_size,
    require_tensor,
)
from capcheck.targets.provenance import Provenance
from capcheck.targets.tokens import require_tokens

__all__ = ["GROWING", "ROUNDINGS", "TILE", "GaussianMixture"]

GROWING = 4.0  # time of a multiply-add of a row's own factorisation, in those of a large product
TILE = 1 << 18  # numbers held at once per intermediate result
ROUNDINGS = 4  # machine epsilons of a correlation that must leave a matrix positive definite


class GaussianMixture(GaussianComponents):
    """p(x) = sum_c w_c N(x; mu_c, Sigma_c) over flat sequences x of N d numbers.

    Args:
        means: (K, N, d) float32 or float64, which is the precision of every computation.
        covariances: (K, N d, N d), symmetric and positive definite in that precision, of standard
            deviations from 1e-100 to 1e100 (1e-15 to 1e15 in float32).
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
        means = require_reals("means", means, "(components, tokens, dim)")
        covariances = require_reals("covariances", covariances, "(components, N d, N d)").to(means)
        _require_parameters(means, covariances)
        grid = require_grid(grid, means.shape[1])
        weights = mixture_weights(weights, len(means), means)
        kept = weights > 0
        self._covariances = covariances[kept]  # (K, D, D)
        self._hold(
            means[kept],
            weights[kept],
            self._covariances.diagonal(dim1=1, dim2=2).reshape(-1, *means.shape[1:]),
            narrowest=float(torch.linalg.eigvalsh(self._covariances).min().clamp(min=0).sqrt()),
            grid=grid,
        )
        self._noisy = NoisyGaussians(self._means, self._covariances, self._weights)
        self._known = KnownGaussians(self._means, self._covariances, self._weights)
        what = "Gaussian" if len(self._means) == 1 else f"mixture of {len(self._means)} Gaussians"
        require_provenance(provenance)
        self.provenance = provenance or Provenance(description=f"{what} with full covariance")

    @property
    def covariances(self) -> Tensor:
        """(K, N d, N d) covariances of the components of positive weight."""
        return self._covariances

    def gaussian(self) -> tuple[Tensor, Tensor] | None:
        """Mean and covariance if there is one component, else None."""
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
        levels = require_tensor("levels", levels)
        require_levels(levels, self._spec.tokens)
        levels = levels.to(self._means)
        alpha = path.alpha(levels)[:, None].expand_as(self._means[0])  # (N, d)
        view = amplitudes(levels[None], path, self._spec.dim)
        return self._with(alpha * self._means, self._noisy.covariance(*view)[0])

    def relative_to(self, origin: Tensor, unit: float) -> GaussianMixture:
        """Again a Gaussian mixture: means (mu - origin) / unit, covariances Sigma / unit^2."""
        means = (self._means - origin.to(self._means)) / unit
        return self._with(means, self._covariances / unit / unit)

    def transformed(self, matrix: Tensor) -> GaussianMixture:
        """Again a Gaussian mixture: means M mu, covariances M Sigma M^T."""
        matrix = require_tensor("matrix", matrix)
        require_orthonormal(matrix, self._covariances.shape[-1])
        matrix = matrix.to(self._means)
        means = (self._means.flatten(1) @ matrix.T).reshape(self._means.shape)
        return self._with(means, symmetric(matrix @ self._covariances @ matrix.T))

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

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> TiledMixture:
        """The law of every clean token given every token seen at its own level; see `Target`."""
        require_tokens(self.spec, x, levels)
        known = self._given_known(x, levels, causal)
        if known is not None:
            return self._tiled(len(x), known)
        prefix: Prefix = "before" if causal else "all"
        view = self._noisy.view(x, levels, path)

        def tile(rows: slice, tokens: list[int]) -> MixtureOfGaussians:
            return self._mixture(
                *self._noisy.posterior(view, rows, prefix, tokens),
                self._noisy.posterior_covariances(view, rows, prefix, tokens),
            )

        return TiledMixture(
            tile,
            rows=len(x),
            tokens=range(self._spec.tokens),
            dim=self._spec.dim,
            size=self._noisy.tile_rows(view),
        )

    def one_by_one(self, x: Tensor) -> Iterator[TokenLaw]:
        """From the Cholesky factors of the covariances; see `Target`."""
        if len(x) * self._means.numel() > HELD:
            yield from super().one_by_one(x)
            return
        for laws in self._known.one_by_one(x):
            yield self._mixture(*laws)

    def _tiled(self, n: int, laws: LawsGiven) -> TiledMixture:
        """Laws of n rows, read in tiles."""

        def tile(rows: slice, tokens: list[int]) -> MixtureOfGaussians:
            return self._mixture(*laws.of(rows, tokens))

        return TiledMixture(
            tile,
            rows=n,
            tokens=range(self._spec.tokens),
            dim=self._spec.dim,
            size=max(1, tile_size(TILE, self.device) // (self._means.numel() * self._spec.dim)),
        )

    @property
    def rows_at_once(self) -> int:
        """As many rows as `KnownGaussians` holds."""
        return max(1, HELD // self._covariances.numel())

    @property
    def rows_in_step(self) -> int:
        """As many rows as have `HELD` innovations."""
        return max(1, HELD // self._means.numel())

    def own_order_cost(self, tokens: int) -> float:
        """That of a factorisation of every row's own covariances; see `Target`."""
        known = tokens * self._spec.dim
        return GROWING * 0.5 * known**2 * self._means.numel()

    def _given_known(self, x: Tensor, levels: Tensor, causal: bool) -> LawsGiven | None:
        """The laws of all tokens if each is known or unseen, unless they are too many."""
        known = levels == 0
        if not bool((known | (levels == 1)).all()):
            return None
        return self._known.laws(x, known, causal=causal)

    def _mixture(
        self, log_weights: Tensor, means: Tensor, covariances: Tensor
    ) -> MixtureOfGaussians:
        scalar = self._spec.dim == 1
        return MixtureOfGaussians(
            log_weights, means, covariances[..., 0] if scalar else covariances
        )

    def denoise(
        self, x: Tensor, levels: Tensor, path: NoisePath, *, causal: bool = False
    ) -> Tensor:
        """E[x_0 | x seen at those levels], (n, N, d); see `Target`."""
        require_tokens(self.spec, x, levels)
        even = bool((levels == levels[:, :1]).all()) and bool((levels < 1).all())
        if even and not causal and self._eigenbasis.well_scaled:
            return self._eigenbasis.denoise(x, levels[:, 0], path)
        view = self._noisy.view(x, levels, path)
        size, tokens = self._noisy.tile_rows(view), list(range(self._spec.tokens))
        tiles = []
        for rows in slices(len(x), size):
            weights, means = self._noisy.posterior(
                view, rows, "through" if causal else "all", tokens
            )
            tiles.append((weights.softmax(-1)[..., None] * means).sum(2))
        return torch.cat(tiles)

    def denoise_with_derivative(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath,
        tokens: Sequence[int],
        *,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """E[x_0 | x] of some tokens and its derivative; see `NoisyGaussians`."""
        require_tokens(self.spec, x, levels)
        noisy = self.to(device=self.device, dtype=torch.float64)._noisy
        view = noisy.view(x, levels, path)
        size = max(1, noisy.tile_rows(view) // (1 if not causal else x[0].numel()))
        parts = [
            noisy.denoise_with_derivative(view, rows, "through" if causal else "all", tokens)
            for rows in slices(len(x), size)
        ]
        means, derivatives = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(derivatives)

    def kernel_self_mean(self, bandwidth: float) -> float:
        """`E exp(-|Y - Y'|^2 / (2 bandwidth^2))` over independent Y and Y'."""
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

    def principal_axes(self) -> tuple[Tensor, Tensor] | None:
        """Variances (D,) and eigenvectors, the columns of (D, D), of D = N d numbers.

        None if there are several components, or if eigenvectors lose half of the digits of some
        variance.
        """
        if len(self._means) > 1 or not self._eigenbasis.well_scaled:
            return None
        return self._eigenbasis.principal

    @functools.cached_property
    def _eigenbasis(self) -> Eigenbasis:
        return Eigenbasis(self._means, self._covariances, self._weights)

    def _log_smoothed(self, x: Tensor, h2: float) -> Tensor:
        """Log sum_c w_c |Sigma_c + h2|^-1/2 exp(-1/2 |x - mu_c|^2 in that metric): (n,)."""
        # By Cholesky factors: eigenvectors lose what is small beside what is large.
        D = self._covariances.shape[-1]
        root = torch.linalg.cholesky(self._covariances + h2 * torch.eye(D).to(self._means))
        constant = self._weights.log() - root.diagonal(dim1=1, dim2=2).log().sum(1)  # (K,)
        answers = []
        size = max(1, tile_size(TILE, self.device) // self._means.numel())
        for tile in x.to(self._means).flatten(1).split(size):
            residual = (tile - self._means.flatten(1)[:, None]).mT  # (K, D, r)
            z = torch.linalg.solve_triangular(root, residual, upper=False)
            answers.append(log_sum_exp(constant[:, None] - 0.5 * z.square().sum(1), 0))
        return torch.cat(answers)


def _require_parameters(means: Tensor, covariances: Tensor) -> None:
    D = means.shape[1] * means.shape[2]
    if tuple(covariances.shape) != (len(means), D, D):
        raise InputError(
            f"covariances must have shape {(len(means), D, D)} to fit the means, "
            f"got {tuple(covariances.shape)}."
        )
    if not (means.isfinite().all() and covariances.isfinite().all()):
        raise InputError(
            "means and covariances must be finite, got NaN or infinity; repair or rescale them."
        )
    require_size("means", means)
    variances = covariances.diagonal(dim1=1, dim2=2)  # (K, D)
    scale = variances.abs().amax(1)[:, None, None]
    if not bool(((covariances - covariances.mT).abs() <= 1e-6 * scale).all()):
        raise InputError("covariances must be symmetric; average each with its transpose.")
    if bool((variances > 0).all()):
        require_deviations("standard deviations on the covariances' diagonals", variances.sqrt())
    if not _definite(covariances):
        raise InputError(
            "covariances must be positive definite, got one that is not; "
            "add a small multiple of the identity, or rescale the tokens."
        )


def _definite(covariances: Tensor) -> bool:
    """Whether every correlation matrix has a Cholesky factor with a margin for rounding."""
    variances = covariances.diagonal(dim1=1, dim2=2)
    if not bool((variances > 0).all()):
        return False
    unit = variances.rsqrt()
    correlations = unit[:, :, None] * covariances * unit[:, None, :]
    margin = ROUNDINGS * torch.finfo(covariances.dtype).eps
    correlations.diagonal(dim1=1, dim2=2).sub_(margin)
    return not bool(torch.linalg.cholesky_ex(correlations).info.any())
