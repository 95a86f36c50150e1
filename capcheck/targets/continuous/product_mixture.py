"""Mixtures of products of Gaussians: p(x) = sum_c w_c prod_i N(x_i; mu_ci, s_i^2).

A smoothed data set is such a law, with one component per row and a bandwidth s. Observed through a
noise path, token i of component c is N(alpha_i mu_ci, V_i) with V_i = alpha_i^2 s_i^2 + sigma_i^2.
Given the observation, the clean token is N(gain_i mu_ci + offset_i, gain_i s_i^2) with
gain_i = sigma_i^2 / V_i. Every conditional is thus a softmax over components followed by an average
per token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.slopes import LARGE, Slope
from capcheck.core.tiles import tile_size
from capcheck.laws import (
    LOG_2PI,
    MixtureOfGaussians,
    TiledMixture,
    TokenLaw,
)
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.component_moments import (
    MATRIX_FREE,
    posterior_moments,
    posterior_slope,
)
from capcheck.targets.components import TILE, Components
from capcheck.targets.continuous.posterior_law import PosteriorLaw, View
from capcheck.targets.evidence import Evidence, Prefix
from capcheck.targets.fingerprint import fingerprint
from capcheck.targets.known_logits import KnownLogits
from capcheck.targets.means import Means
from capcheck.targets.parameters import (
    Grid,
    require_grid,
    require_levels,
    require_orthonormal,
    require_precision,
    require_provenance,
    require_tensor,
    require_weights,
)
from capcheck.targets.products import Products, gaussian_log_likelihood
from capcheck.targets.provenance import Provenance
from capcheck.targets.target import EXPONENTIAL, ContinuousTarget
from capcheck.targets.tokens import require_tokens

__all__ = ["QUERIES", "READ", "SUMMED", "WEIGHTS", "ProductMixture", "moments"]

READ = 1 << 21  # most numbers of the means that are read at once
QUERIES = 512  # rows denoised in one pass over the components
WEIGHTS = 1 << 24  # most weights of the components of all rows that are held: 128 MiB
SUMMED = 2e11  # most multiply-adds for the sum over pairs of components: some ten seconds


class ProductMixture(ContinuousTarget):
    """p(x) = sum_c w_c prod_i N(x_i; mu_ci, s_i^2), in closed form.

    Args:
        means: (K, N, d) component means mu, of any floating-point type. They are read in parts and
            never copied: a memory-mapped tensor may be larger than memory.
        scales: (N, d) standard deviations s > 0, shared by the components.
        weights: (K,) non-negative, not all zero; equal by default. They are normalised.
        grid: (rows, columns) of the tokens, if they have any.
        provenance: Where the parameters come from.
        dtype: Precision of every computation; float64 unless the means are float32.

    Raises:
        InputError: A shape, a weight, a scale or a non-finite number breaks these rules.
    """

    def __init__(
        self,
        means: Tensor,
        scales: Tensor,
        weights: Tensor | None = None,
        *,
        grid: tuple[int, int] | None = None,
        provenance: Provenance | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        grid = _require_parameters(means, scales, grid)
        if dtype is None:
            dtype = torch.float32 if means.dtype == torch.float32 else torch.float64
        require_precision("dtype", dtype)
        if weights is None:
            weights = torch.ones(len(means), dtype=torch.float64, device=means.device)
        weights = require_tensor("weights", weights).to(means.device, torch.float64)
        weights = require_weights(weights, len(means))
        if not bool((weights > 0).all()):
            means, weights = means[weights > 0], weights[weights > 0]
        self._hold(Means(means), scales, weights, dtype, grid)
        require_provenance(provenance)
        self.provenance = provenance or Provenance(
            description=f"mixture of {len(means)} products of Gaussians"
        )

    def _hold(
        self,
        means: Means,
        scales: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        grid: tuple[int, int] | None,
    ) -> None:
        """Set parameters that were checked, and the attributes derived from them."""
        self._means, self._weights = means, weights
        self._scales = scales.to(means.device, torch.float64)
        self._dtype = dtype
        self._centre, between = moments(means, weights)
        self._components = Components(means, self._centre, weights.log().to(dtype))
        self._exact = Components(means, self._centre, weights.log())
        self._known = KnownLogits(self._exact)
        self._spec = SequenceSpec(
            tokens=means.shape[1],
            kind="continuous",
            dim=means.shape[2],
            mean=self._centre.to(dtype),
            variance=(between + self._scales.square()).to(dtype),
            grid=grid,
            narrowest=float(self._scales.min()),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision of every computation."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where every computation runs."""
        return self._means.device

    @property
    def means(self) -> Tensor:
        """(K, N, d) means of the components of positive weight."""
        return self._means[:]

    @property
    def scales(self) -> Tensor:
        """(N, d) standard deviation of every component around its mean, float64."""
        return self._scales

    def gaussian(self) -> tuple[Tensor, Tensor] | None:
        """Mean and covariance if there is one component, else None."""
        if len(self._means) > 1:
            return None
        mean = self._means[:1].to(self._dtype).flatten()
        return mean, self._scales.square().flatten().diag().to(self._dtype)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the parameters in float64."""
        parameters = (self._means, self._scales, self._weights)
        return fingerprint("product mixture", self._spec.grid, parameters)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> ProductMixture:
        """The same law, computed elsewhere or in another precision."""
        if torch.device(device) == self.device and dtype == self.dtype:
            return self
        return self._with(self._means.to(device), self._scales, dtype)

    def with_noise(self, levels: Tensor, path: NoisePath = PATHS["linear"]) -> ProductMixture:
        """Again a product mixture: means alpha mu, variances alpha^2 s^2 + sigma^2."""
        require_levels(levels, self._spec.tokens)
        levels = levels.to(self._scales)
        alpha, sigma = path.alpha(levels)[:, None], path.sigma(levels)[:, None]  # (N, 1)
        scales = torch.hypot(alpha * self._scales, sigma.expand_as(self._scales))
        return self._with(self._mapped(lambda mu: alpha * mu), scales, self._dtype)

    def transformed(self, matrix: Tensor) -> ProductMixture:
        """The law of matrix @ x; exact because all scales are equal, or else an InputError."""
        N, d = self._scales.shape
        require_orthonormal(matrix, N * d)
        if not bool((self._scales == self._scales[0, 0]).all()):
            raise InputError(
                "transformed needs a product mixture whose scales are all equal, got scales from "
                f"{float(self._scales.min()):.4g} to {float(self._scales.max()):.4g}; "
                "call rescaled(scales) first."
            )
        rotation = matrix.to(self._centre).T
        means = self._mapped(lambda mu: (mu.flatten(1) @ rotation).reshape(-1, N, d))
        return self._with(means, self._scales, self._dtype)

    def in_basis(self, matrix: Tensor) -> tuple[ProductMixture, Tensor]:
        """The law of matrix @ (x / scales), which is again a product mixture."""
        return self.rescaled(self._scales).transformed(matrix), self._scales.to(self._dtype)

    def products(self) -> Products:
        """The components of the law; see `Products`."""
        variances = self._scales.square()[None]  # (1, N, d)

        def law(component: Tensor) -> TokenLaw:
            means = self._means[component].to(self._dtype)[:, :, None]  # (n, N, 1, d)
            return MixtureOfGaussians(
                means.new_zeros(1, 1, 1), means, variances.to(self._dtype)[:, :, None]
            )

        return Products(
            log_weights=self._weights.log()[None].to(self._dtype),
            law=law,
            log_likelihood=lambda x, tokens: gaussian_log_likelihood(
                x.to(self._scales), self._of_tokens(tokens), variances[:, tokens]
            ).to(self._dtype),
        )

    def relative_to(self, origin: Tensor, unit: float) -> ProductMixture:
        """Again a product mixture: means (mu - origin) / unit, scales s / unit."""
        means = self._means.relative_to(origin.to(self._scales), unit)
        return self._with(means, self._scales / unit, self._dtype)

    def rescaled(self, units: Tensor) -> ProductMixture:
        """The law of x / units, for positive units (N, d)."""
        units = units.to(self._scales)
        means = self._mapped(lambda mu: mu / units)
        return self._with(means, self._scales / units, self._dtype)

    def _of_tokens(self, tokens: Sequence[int]) -> Tensor:
        """(K, S, d) means of some tokens, float64."""
        column = torch.tensor(list(tokens), device=self.device)
        return self._means.of_tokens(column, slice(None)).to(self._scales)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Means:
        """Means that are changed in float64, in parts, and kept in float32 if they were narrow."""
        kept = torch.promote_types(self._means.stored.dtype, torch.float32)
        changed = torch.empty_like(self._means.stored, dtype=kept)
        size = max(1, READ // self._centre.numel())
        for part, mu in zip(changed.split(size), self._means.split(size), strict=True):
            part.copy_(change(mu.to(self._centre)))
        return Means(changed)

    def _with(self, means: Means, scales: Tensor, dtype: torch.dtype) -> ProductMixture:
        """Other means and scales, and everything else as it is."""
        twin = copy.copy(self)
        vars(twin).pop("standardised", None)  # a cached property of the other law
        twin._hold(means, scales, self._weights.to(means.device), dtype, self._spec.grid)
        return twin

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its Gaussians: (n, N, d)."""
        component = rng.categorical(self._weights, (n,))
        noise = rng.normal((n, self._spec.tokens, self._spec.dim)).to(self._scales)
        return (self._means[component] + self._scales * noise).to(self._dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-density of x (n, N, d), in nats: (n,)."""
        require_tokens(self.spec, x)
        smoothed = self._log_smoothed(x, self._scales.square())
        return (smoothed - self._log_scale).to(self._dtype)

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> TokenLaw:
        """The law of every clean token given every token seen at its own level; see `Target`."""
        require_tokens(self.spec, x, levels)
        view = self._view(x, levels, path)
        if causal:  # token i's own value must not enter its law
            s2 = self._scales.square()[None]
            view = replace(view, gain=torch.ones_like(s2), offset=self._centre[None], variance=s2)
        elif self._dtype == torch.float64:
            view = replace(view, evidence=self._known.completed(view.evidence))
        prefix: Prefix = "before" if causal else "all"
        return PosteriorLaw(self._components, self._exact, view, prefix, range(self._spec.tokens))

    def one_by_one(self, x: Tensor) -> Iterator[TokenLaw]:
        """From the weights of the components, to which every token adds; see `Target`."""
        n, K = len(x), len(self._means)
        if n * K > WEIGHTS:
            yield from super().one_by_one(x)
            return
        log_weights = self._weights.log().expand(n, K)
        for i in range(self._spec.tokens):
            mu, centre = self._exact.of_tokens([i])[:, 0], self._centre[i]  # (K, d), (d,)
            variance = self._scales[i].square()
            yield self._law_of_token(log_weights, mu + centre, variance)
            # Factors that all components share are left out.
            y = (x[:, i].to(centre) - centre) / variance
            constant = -0.5 * (mu.square() / variance).sum(1)
            log_weights = log_weights + torch.addmm(constant, y, mu.T)

    def _law_of_token(self, log_weights: Tensor, means: Tensor, variance: Tensor) -> TokenLaw:
        """The law (n, 1) of a token from weights (n, K), means (K, d) and the variance (d,)."""
        m, c = means[None, None].to(self._dtype), variance[None, None, None].to(self._dtype)

        def tile(rows: slice, tokens: list[int]) -> MixtureOfGaussians:
            return MixtureOfGaussians(log_weights[rows, None].to(self._dtype), m, c)

        size = max(1, tile_size(TILE, self.device) // means.numel())
        return TiledMixture(tile, rows=len(log_weights), tokens=[0], dim=self._spec.dim, size=size)

    def denoise(
        self, x: Tensor, levels: Tensor, path: NoisePath, *, causal: bool = False
    ) -> Tensor:
        """E[x_0 | x seen at those levels], (n, N, d); see `Target`."""
        require_tokens(self.spec, x, levels)
        answer = torch.empty(x.shape, dtype=self._dtype, device=self.device)
        for start in range(0, len(x), QUERIES):
            rows = slice(start, start + QUERIES)
            view = self._view(x[rows], levels[rows], path)
            average = self._components.average(view.evidence, "through" if causal else "all")
            answer[rows] = view.gain * average + view.offset
        return answer

    def denoise_with_derivative(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath,
        tokens: Sequence[int],
        *,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """E[x_0 | x] of some tokens and its derivative gain Cov[mu_c] alpha / V + alpha s^2 / V."""
        require_tokens(self.spec, x, levels)
        chosen = list(tokens)
        view = self._view(x, levels, path)
        average, covariance = posterior_moments(
            self._exact, view.evidence, "through" if causal else "all", chosen
        )
        gain, offset = view.gain[:, chosen], view.offset[:, chosen]
        pull, own = self._pull(view, levels, path, chosen)
        derivative = gain.flatten(1)[:, :, None] * covariance * pull.flatten(1)[:, None]
        derivative.diagonal(dim1=1, dim2=2).add_(own.flatten(1))
        return gain * average + offset, derivative

    def denoise_with_slope(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath,
        tokens: Sequence[int],
        *,
        causal: bool = False,
    ) -> tuple[Tensor, Slope]:
        """In many numbers a covariance of means that is not written out; see `posterior_slope`."""
        chosen = list(tokens)
        if causal or len(chosen) * x.shape[2] <= LARGE:
            return super().denoise_with_slope(x, levels, path, tokens, causal=causal)
        require_tokens(self.spec, x, levels)
        view = self._view(x, levels, path)
        gain, offset = view.gain[:, chosen], view.offset[:, chosen]
        pull, own = self._pull(view, levels, path, chosen)
        average, slope = posterior_slope(
            self._exact, view.evidence, chosen, *(part.flatten(1) for part in (own, gain, pull))
        )
        return gain * average + offset, slope

    def _pull(
        self, view: View, levels: Tensor, path: NoisePath, tokens: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Factors alpha / V of evidence and alpha s^2 / V of the tokens themselves, (n|1, S, d)."""
        pull = -2 * view.evidence.quadratic[:, tokens]  # alpha^2 / V
        alpha = path.alpha(levels[: len(pull)].to(pull))[:, tokens, None]
        pull = torch.where(alpha > 0, pull / alpha, 0)
        return pull, pull * self._scales.square()[tokens]

    @property
    def derivative_cost(self) -> float:
        """For each component a share, and half of the products of two coordinates.

        In many numbers it is some products with all means in place of the latter.
        """
        numbers = self._scales.numel()
        products = 0.5 * numbers if numbers <= LARGE else MATRIX_FREE
        return len(self._means) * (products * numbers + EXPONENTIAL)

    def score(self, x: Tensor) -> Tensor:
        """(E[mu_c | x] - x) / s^2, (n, N, d)."""
        return self.log_prob_and_score(x)[1]

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both by one pass over the components."""
        require_tokens(self.spec, x)
        y, s2 = x.to(self._centre) - self._centre, self._scales.square()
        evidence = Evidence(y / s2, -0.5 / s2[None])
        log_mass, average = self._components.log_mass_and_average(evidence)
        log_prob = log_mass[:, 0] - 0.5 * (y.square() / s2).sum((1, 2)) - self._log_scale
        return log_prob.to(self._dtype), ((average - y) / s2).to(self._dtype)

    @property
    def _log_scale(self) -> Tensor:
        """The logarithm of what the densities of the components are divided by."""
        return 0.5 * self._scales.numel() * LOG_2PI + self._scales.log().sum()

    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """`E exp(-|x - Y|^2 / (2 bandwidth^2))` over the target's Y: (n,)."""
        return self._kernel_mean(x, bandwidth**2, self._scales.square()).to(self._dtype)

    def kernel_self_mean(self, bandwidth: float) -> float | None:
        """`E exp(-|Y - Y'|^2 / (2 bandwidth^2))` over independent Y and Y'; None if too large."""
        if len(self._means) ** 2 * self._scales.numel() > SUMMED:
            return None
        of_means = self._kernel_mean(self._means[:], bandwidth**2, 2 * self._scales.square())
        return float(self._weights @ of_means)

    def _kernel_mean(self, x: Tensor, h2: float, variance: Tensor) -> Tensor:
        # A Gaussian kernel convolved with N(mu, variance) is a Gaussian of the summed variances.
        widened = variance + h2
        return (self._log_smoothed(x, widened) + 0.5 * (h2 / widened).log().sum()).exp()

    def _log_smoothed(self, x: Tensor, variance: Tensor) -> Tensor:
        """Log sum_c w_c exp(-1/2 sum_i |x_i - mu_ci|^2 / variance_i), (n,), in float64."""
        y = x.to(self._centre) - self._centre
        evidence = Evidence(y / variance, -0.5 / variance[None])
        return self._components.log_mass(evidence)[:, 0] - 0.5 * (y.square() / variance).sum((1, 2))

    def _view(self, x: Tensor, levels: Tensor, path: NoisePath) -> View:
        levels = levels.to(self._centre)
        if bool((levels == levels[:1]).all()):
            levels = levels[:1]  # one row of coefficients then serves all rows
        alpha, sigma = path.alpha(levels)[..., None], path.sigma(levels)[..., None]  # (n|1, N, 1)
        s2 = self._scales.square()  # (N, d)
        V = alpha.square() * s2 + sigma.square()  # (n|1, N, d)
        x = torch.where(alpha > 0, x.to(self._centre), 0)  # values at level 1 are arbitrary
        gain = sigma.square() / V
        return View(
            evidence=Evidence(alpha * (x - alpha * self._centre) / V, -0.5 * alpha.square() / V),
            gain=gain,
            # A known token is exactly what was seen, whatever the division would round it to.
            offset=torch.where(sigma > 0, gain * self._centre + alpha * s2 * x / V, x),
            variance=gain * s2,
        )


def moments(means: Means, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and variance of rows (K, N, d), (N, d) in float64, read in parts.

    Args:
        means: (K, N, d).
        weights: (K,) float64, normalised.
    """
    size = max(1, READ // means.shape[1:].numel())

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        return zip(means.split(size), weights.split(size), strict=True)

    mean = sum(torch.einsum("k,knd->nd", w, mu.double()) for mu, w in parts())
    assert isinstance(mean, Tensor)
    variance = sum(
        torch.einsum("k,knd->nd", w, (mu.double() - mean).square_()) for mu, w in parts()
    )
    assert isinstance(variance, Tensor)
    return mean, variance


def _require_parameters(means: Tensor, scales: Tensor, grid: Grid) -> Grid:
    means, scales = require_tensor("means", means), require_tensor("scales", scales)
    if means.dim() != 3 or means.numel() == 0 or not means.is_floating_point():
        raise InputError(
            f"means must be floating-point numbers of shape (components, tokens, dim), none of "
            f"them 0, got {means.dtype} of {tuple(means.shape)}."
        )
    if scales.shape != means.shape[1:]:
        raise InputError(
            f"scales must have shape {tuple(means.shape[1:])} to fit the means, "
            f"got {tuple(scales.shape)}; components with their own scales are a DiagonalMixture."
        )
    size = max(1, READ // scales.numel())
    if not all(bool(part.isfinite().all()) for part in means.split(size)):
        raise InputError("means must be finite, got NaN or infinity.")
    if not bool(((scales > 0) & scales.isfinite()).all()):
        raise InputError(f"scales must be positive and finite, got {float(scales.min())}.")
    return require_grid(grid, means.shape[1])
