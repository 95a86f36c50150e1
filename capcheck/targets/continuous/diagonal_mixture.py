"""Diagonal Gaussian mixtures: p(x) = sum_c w_c prod_i N(x_i; mu_ci, s_ci^2), few components.

Unlike in a product mixture, each component has scales of its own. Observed through a noise path,
token i of component c is N(alpha_i mu_ci, V_ci) with V_ci = alpha_i^2 s_ci^2 + sigma_i^2. Given the
observation x_i, the clean token is N((sigma_i^2 mu_ci + alpha_i s_ci^2 x_i) / V_ci,
sigma_i^2 s_ci^2 / V_ci). The class is meant for tens of fitted components, not for one component
per row of data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.log_sums import log_sum_exp
from capcheck.core.randomness import Randomness
from capcheck.core.slopes import LARGE, FewDirections, Slope
from capcheck.core.tiles import slices, tile_size
from capcheck.laws import MixtureOfGaussians, TiledMixture, TokenLaw
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.continuous.gaussian_components import (
    GaussianComponents,
    derivative_of_mixture,
)
from capcheck.targets.continuous.gaussian_mixture import GaussianMixture
from capcheck.targets.evidence import earlier
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
from capcheck.targets.products import Products, gaussian_log_likelihood
from capcheck.targets.provenance import Provenance
from capcheck.targets.target import EXPONENTIAL
from capcheck.targets.tokens import require_tokens

__all__ = ["CORRELATED", "TILE", "DiagonalMixture"]

TILE = 1 << 20  # numbers held at once per intermediate result
ELEMENTWISE = 700  # multiply-adds in the time of the arithmetic of one number of a component
CORRELATED = 1e-6  # correlation above which coordinates count as dependent


class DiagonalMixture(GaussianComponents):
    """p(x) = sum_c w_c prod_i N(x_i; mu_ci, s_ci^2), in closed form.

    Args:
        means: (K, N, d) float32 or float64, which is the precision of every computation.
        scales: (K, N, d) standard deviations, from 1e-100 to 1e100 (1e-15 to 1e15 in float32).
        weights: (K,) non-negative, not all zero; equal by default. They are normalised.
        grid: (rows, columns) of the tokens, if they have any.
        provenance: Where the parameters come from.

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
    ) -> None:
        means = require_reals("means", means, "(components, tokens, dim)")
        scales = require_reals("scales", scales, "(components, tokens, dim)").to(means)
        if scales.shape != means.shape:
            raise InputError(
                "means and scales must have one shape (components, tokens, dim), "
                f"got {tuple(means.shape)} and {tuple(scales.shape)}."
            )
        require_size("means", means)
        require_deviations("scales", scales)
        grid = require_grid(grid, means.shape[1])
        weights = mixture_weights(weights, len(means), means)
        kept = weights > 0
        self._scales = scales[kept]
        self._hold(
            means[kept],
            weights[kept],
            self._scales.square(),
            narrowest=float(self._scales.min()),
            grid=grid,
        )
        require_provenance(provenance)
        self.provenance = provenance or Provenance(
            description=f"mixture of {len(self._means)} diagonal Gaussians"
        )

    @property
    def scales(self) -> Tensor:
        """(K, N, d) their standard deviations."""
        return self._scales

    def products(self) -> Products:
        """Its components."""
        variances = self._scales.square()  # (K, N, d)

        def law(component: Tensor) -> TokenLaw:
            means = self._means[component][:, :, None]  # (n, N, 1, d)
            return MixtureOfGaussians(
                means.new_zeros(1, 1, 1), means, variances[component][:, :, None]
            )

        return Products(
            log_weights=self._weights.log()[None],
            law=law,
            log_likelihood=lambda x, tokens: gaussian_log_likelihood(
                x, self._means[:, tokens], variances[:, tokens]
            ),
        )

    def gaussian(self) -> tuple[Tensor, Tensor] | None:
        """Its mean and covariance if there is one component."""
        if len(self._means) > 1:
            return None
        return self._means[0].flatten(), self._scales[0].square().flatten().diag()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the parameters in float64."""
        parameters = (self._means, self._scales, self._weights)
        return fingerprint("diagonal mixture", self._spec.grid, parameters)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> DiagonalMixture:
        """The same law, computed elsewhere or in another precision."""
        if torch.device(device) == self.device and dtype == self.dtype:
            return self
        return self._with(self._means.to(device, dtype), self._scales.to(device, dtype))

    def with_noise(self, levels: Tensor, path: NoisePath = PATHS["linear"]) -> DiagonalMixture:
        """Again a diagonal mixture: means alpha mu, variances alpha^2 s^2 + sigma^2."""
        levels = require_tensor("levels", levels)
        require_levels(levels, self._spec.tokens)
        levels = levels.to(self._means)
        alpha, sigma = path.alpha(levels)[:, None], path.sigma(levels)[:, None]
        scales = torch.hypot(alpha * self._scales, sigma.expand_as(self._scales))
        return self._with(alpha * self._means, scales)

    def relative_to(self, origin: Tensor, unit: float) -> DiagonalMixture:
        """Again a diagonal mixture: means (mu - origin) / unit, scales s / unit."""
        return self._with((self._means - origin.to(self._means)) / unit, self._scales / unit)

    def transformed(self, matrix: Tensor) -> DiagonalMixture | GaussianMixture:
        """The law of matrix @ x: again diagonal where M diag(s_c^2) M^T is, else with covariances.

        It stays diagonal for signed permutations, and for matrices that mix coordinates of one
        scale only.
        """
        K, N, d = self._means.shape
        matrix = require_tensor("matrix", matrix)
        require_orthonormal(matrix, N * d)
        matrix = matrix.to(self._means)
        scales = torch.empty_like(self._scales)
        means = (self._means.flatten(1) @ matrix.T).reshape(K, N, d)
        for c, s in enumerate(self._scales.flatten(1)):
            root = matrix * s  # M diag(s): the covariance is root root^T, (N d, N d)
            spread = torch.linalg.vector_norm(root, dim=1)
            correlation = (root / spread[:, None]) @ (root / spread[:, None]).T
            if float(correlation.fill_diagonal_(0).abs().max()) > CORRELATED:
                roots = matrix * self._scales.flatten(1)[:, None]
                return GaussianMixture(
                    means,
                    roots @ roots.mT,
                    weights=self._weights,
                    grid=self._spec.grid,
                    provenance=self.provenance,
                )
            scales[c] = spread.reshape(N, d)
        return self._with(means, scales)

    def _with(self, means: Tensor, scales: Tensor) -> DiagonalMixture:
        """Other means and scales, and everything else as it is."""
        return DiagonalMixture(
            means, scales, self._weights, grid=self._spec.grid, provenance=self.provenance
        )

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its Gaussians: (n, N, d)."""
        component = rng.categorical(self._weights, (n,))
        noise = rng.normal((n, self._spec.tokens, self._spec.dim)).to(self._means)
        return self._means[component] + self._scales[component] * noise

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> TiledMixture:
        """The law of every clean token given every token seen at its own level; see `Target`."""
        require_tokens(self.spec, x, levels)
        x, alpha, sigma = self._view(x, levels, path)

        def tile(rows: slice, tokens: list[int]) -> MixtureOfGaussians:
            seen = (x[rows], _rows_of(alpha, rows), _rows_of(sigma, rows))
            by_token = self._evidence(*seen)  # (r, N, K)
            if causal:
                unseen = self._means.transpose(0, 1)[None, tokens]
                before = earlier(by_token).cumsum(1)[:, tokens] + self._weights.log()
                variances = self._scales.square().transpose(0, 1)[None, tokens]
                return MixtureOfGaussians(before, unseen, variances)
            log_weights = by_token.sum(1, keepdim=True) + self._weights.log()
            means, variances = self._clean(*seen, tokens)
            return MixtureOfGaussians(log_weights, means, variances)

        return TiledMixture(
            tile,
            rows=len(x),
            tokens=range(self._spec.tokens),
            dim=self._spec.dim,
            size=max(1, tile_size(TILE, self.device) // self._means.numel()),
        )

    def denoise(
        self, x: Tensor, levels: Tensor, path: NoisePath, *, causal: bool = False
    ) -> Tensor:
        """E[x_0 | x seen at those levels], (n, N, d); see `Target`."""
        require_tokens(self.spec, x, levels)
        if not causal:
            return self.marginals(x, levels, path).mean()
        x, alpha, sigma = self._view(x, levels, path)
        answers = []
        for rows in self._tiles(len(x)):
            seen = (x[rows], _rows_of(alpha, rows), _rows_of(sigma, rows))
            log_weights = self._evidence(*seen).cumsum(1) + self._weights.log()
            means, _ = self._clean(*seen, list(range(self._spec.tokens)))
            answers.append((log_weights.softmax(-1)[..., None] * means).sum(2))
        return torch.cat(answers)

    def denoise_with_derivative(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath,
        tokens: Sequence[int],
        *,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """E[x_0 | x] of some tokens and its derivative; see `derivative_of_mixture`."""
        require_tokens(self.spec, x, levels)
        wide, chosen, d = self.to(device=self.device, dtype=torch.float64), list(tokens), x.shape[2]
        x, alpha, sigma = wide._view(x.double(), levels, path)
        numbers = len(chosen) * d
        of_token = torch.arange(numbers, device=self.device) // d
        seen_by = of_token[:, None] >= of_token[None]
        means, derivatives = [], []
        size = max(1, tile_size(TILE, self.device) // (len(self._means) * numbers**2))
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            seen = (x[rows], _rows_of(alpha, rows), _rows_of(sigma, rows))
            evidence = wide._evidence(*seen)  # (r, N, K)
            evidence = evidence.cumsum(1)[:, chosen] if causal else evidence.sum(1, keepdim=True)
            log_weights = (evidence + wide._weights.log()).mT  # (r, K, 1|S)
            if causal:
                log_weights = log_weights.repeat_interleave(d, 2)
            clean = wide._clean(*seen, chosen)[0].transpose(1, 2).flatten(2)  # (r, K, S d)
            pulls, slopes = wide._pulls(*seen, chosen)
            slopes = torch.diag_embed(slopes)
            if causal:
                pulls = pulls[:, :, None] * seen_by
            mean, derivative = derivative_of_mixture(log_weights, clean, slopes, pulls)
            means.append(mean.unflatten(1, (len(chosen), d)))
            derivatives.append(derivative)
        return torch.cat(means), torch.cat(derivatives)

    def denoise_with_slope(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath,
        tokens: Sequence[int],
        *,
        causal: bool = False,
    ) -> tuple[Tensor, Slope]:
        """In many numbers a diagonal and one direction for each component."""
        if causal or len(tokens) * x.shape[2] <= max(LARGE, len(self._means)):
            return super().denoise_with_slope(x, levels, path, tokens, causal=causal)
        require_tokens(self.spec, x, levels)
        wide, chosen = self.to(device=self.device, dtype=torch.float64), list(tokens)
        x, alpha, sigma = wide._view(x.double(), levels, path)
        parts = []
        size = max(1, tile_size(TILE, self.device) // self._means.numel())
        for rows in slices(len(x), size):
            seen = (x[rows], _rows_of(alpha, rows), _rows_of(sigma, rows))
            log_weights = wide._evidence(*seen).sum(1) + wide._weights.log()  # (r, K)
            clean = wide._clean(*seen, chosen)[0].transpose(1, 2).flatten(2)  # (r, K, S d)
            pulls, slopes = wide._pulls(*seen, chosen)
            share = log_weights.softmax(1)[..., None]
            mean = (share * clean).sum(1)
            left = (share * (clean - mean[:, None])).mT
            parts.append((mean, (share * slopes).sum(1), left, pulls))
        mean, own, left, right = (torch.cat(each) for each in zip(*parts, strict=True))
        return mean.unflatten(1, (len(chosen), -1)), FewDirections(own, left, right)

    def _pulls(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, tokens: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Gradients of each component's log-evidence, and slopes of its means: (r, K, S d)."""
        mu, s2 = self._means[:, tokens], self._scales[:, tokens].square()  # (K, S, d)
        a, noise = alpha[:, None, tokens], sigma[:, None, tokens].square()
        V = a.square() * s2 + noise  # (r, K, S, d)
        pulls = -((x[:, None, tokens] - a * mu) / V).flatten(2)
        return pulls, (a * s2 / V).flatten(2)

    @property
    def derivative_cost(self) -> float:
        """In many numbers a share for each component, and the products of their directions."""
        K, numbers = len(self._means), self._means[0].numel()
        if numbers <= max(LARGE, K):
            return super().derivative_cost
        return K * (numbers * (K + ELEMENTWISE) + EXPONENTIAL)

    def kernel_self_mean(self, bandwidth: float) -> float:
        """`E exp(-|Y - Y'|^2 / (2 bandwidth^2))` over independent Y and Y'."""
        total = 0.0
        for c in range(len(self._means)):
            V = self._scales.square() + self._scales[c].square() + bandwidth**2
            square = (self._means - self._means[c]).square() / V + (V / bandwidth**2).log()
            total += float(self._weights[c] * (self._weights @ (-0.5 * square.sum((1, 2))).exp()))
        return total

    def _log_smoothed(self, x: Tensor, h2: float) -> Tensor:
        """Log sum_c w_c prod_i |V_ci|^-1/2 exp(-(x_i - mu_ci)^2 / 2 V_ci), V = s^2 + h2: (n,)."""
        one = torch.ones(len(x), self._spec.tokens, 1).to(self._means)
        parts = [
            self._evidence(x[rows].to(self._means), one[rows], one[rows] * h2**0.5).sum(1)
            for rows in self._tiles(len(x))
        ]
        return log_sum_exp(torch.cat(parts) + self._weights.log())

    def _view(self, x: Tensor, levels: Tensor, path: NoisePath) -> tuple[Tensor, Tensor, Tensor]:
        """The rows as seen (n, N, d), and their amplitudes, (n, N, 1) or (1, N, 1) if all alike."""
        levels = levels.to(self._means)
        if bool((levels == levels[:1]).all()):
            levels = levels[:1]  # what depends on them alone is then computed once
        alpha, sigma = path.alpha(levels)[..., None], path.sigma(levels)[..., None]
        return torch.where(alpha > 0, x.to(self._means), 0), alpha, sigma

    def _evidence(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Log-evidence of each token about the component, (r, N, K), up to (2 pi)^(d/2)."""
        mu, s2 = self._means.transpose(0, 1), self._scales.square().transpose(0, 1)  # (N, K, d)
        alpha, sigma = alpha[:, :, None], sigma[:, :, None]  # (r, N, 1, 1)
        V = alpha.square() * s2 + sigma.square()  # (r, N, K, d)
        square = (x[:, :, None] - alpha * mu).square_() / V
        return square.add_(V.log_()).sum(-1).mul_(-0.5)

    def _clean(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, tokens: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance of some clean tokens in each component: (r, S, K, d)."""
        x, alpha, sigma = x[:, tokens], alpha[:, tokens], sigma[:, tokens]
        mu = self._means.transpose(0, 1)[tokens]  # (S, K, d)
        s2 = self._scales.square().transpose(0, 1)[tokens]
        alpha, noise = alpha[:, :, None], sigma[:, :, None].square()
        V = alpha.square() * s2 + noise
        x = x[:, :, None]
        mean = torch.where(noise > 0, (noise * mu + alpha * s2 * x) / V, x)  # known is exact
        return mean, noise * s2 / V

    def _tiles(self, n: int) -> Iterator[slice]:
        size = max(1, tile_size(TILE, self.device) // self._means.numel())
        return slices(n, size)


def _rows_of(amplitude: Tensor, rows: slice) -> Tensor:
    """Some rows of amplitudes (n, N, 1), or the one (1, N, 1) of all rows."""
    return amplitude if len(amplitude) == 1 else amplitude[rows]
