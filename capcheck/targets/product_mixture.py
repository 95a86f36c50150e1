"""Mixture of products: p(x) = sum_c w_c prod_i N(x_i; mu_ci, s_i^2).

A data set is such a law with one component per row and a bandwidth s. Seen through a noise path,
token i of component c is N(alpha_i mu_ci, V_i) with V_i = alpha_i^2 s_i^2 + sigma_i^2, and clean it
is N(gain_i mu_ci + offset_i, gain_i s_i^2) with gain_i = sigma_i^2 / V_i: so every conditional is a
softmax over components followed by a per-token average.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from capcheck.errors import InputError
from capcheck.laws import LOG_2PI, TokenLaw, invert_cdf, require_scalar_tokens
from capcheck.paths import PATHS, NoisePath
from capcheck.randomness import Randomness, inverse_cdf
from capcheck.sequences import SequenceSpec
from capcheck.targets.components import Components, Evidence, Prefix
from capcheck.targets.target import Provenance, Target


class ProductMixture(Target):
    """p(x) = sum_c w_c prod_i N(x_i; mu_ci, s_i^2), in closed form.

    Args:
        means: (K, N, d) component means mu.
        scales: (N, d) standard deviations s > 0, shared by the components.
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
        weights = means.new_ones(len(means)) if weights is None else weights.to(means)
        _require_parameters(means, scales, weights, grid)
        weights = weights / weights.sum()
        kept = weights > 0
        self._means, self._weights = means[kept], weights[kept]
        self._scales = scales.to(means)
        self._centre = torch.einsum("k,knd->nd", self._weights, self._means)
        centred = self._means - self._centre
        self._components = Components(centred, self._weights.log())
        between = torch.einsum("k,knd->nd", self._weights, centred.square())
        self._spec = SequenceSpec(
            tokens=means.shape[1],
            kind="continuous",
            dim=means.shape[2],
            mean=self._centre,
            variance=between + self._scales.square(),
            grid=grid,
        )
        self._provenance = provenance or Provenance(
            description=f"mixture of {len(self._means)} products of Gaussians"
        )

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
    def provenance(self) -> Provenance:
        """Where the parameters come from."""
        return self._provenance

    @property
    def means(self) -> Tensor:
        """(K, N, d) means of the components of positive weight."""
        return self._means

    @property
    def scales(self) -> Tensor:
        """(N, d) standard deviation of every component around its mean."""
        return self._scales

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the parameters in float64."""
        digest = hashlib.sha256(repr((tuple(self._means.shape), self._spec.grid)).encode())
        for tensor in (self._means, self._scales, self._weights):
            digest.update(tensor.to("cpu", torch.float64).contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> ProductMixture:
        """The same law, computed elsewhere or in another precision."""
        return ProductMixture(
            self._means.to(device, dtype),
            self._scales.to(device, dtype),
            self._weights.to(device, dtype),
            grid=self._spec.grid,
            provenance=self._provenance,
        )

    def with_provenance(self, **facts: object) -> ProductMixture:
        """The same law with other facts about where it comes from; see `Provenance`."""
        return ProductMixture(
            self._means,
            self._scales,
            self._weights,
            grid=self._spec.grid,
            provenance=self._provenance.model_copy(update=facts),
        )

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its Gaussians: (n, N, d)."""
        component = rng.categorical(self._weights, (n,))
        noise = rng.normal((n, self._spec.tokens, self._spec.dim)).to(self._means)
        return self._means[component] + self._scales * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-density of x (n, N, d), in nats: (n,)."""
        log_scale = 0.5 * self._scales.numel() * LOG_2PI + self._scales.log().sum()
        return self._log_smoothed(x, self._scales.square()) - log_scale

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> TokenLaw:
        """The law of every clean token given every token seen at its own level; see `Target`."""
        view = self._view(x, levels, path)
        if causal:  # token i is not told its own value
            s2 = self._scales.square()[None]
            view = replace(view, gain=torch.ones_like(s2), offset=self._centre[None], variance=s2)
        prefix: Prefix = "before" if causal else "all"
        return _PosteriorLaw(self._components, view, prefix, range(self._spec.tokens))

    def denoise(
        self, x: Tensor, levels: Tensor, path: NoisePath, *, causal: bool = False
    ) -> Tensor:
        """E[x_0 | x seen at those levels], (n, N, d); see `Target`."""
        view = self._view(x, levels, path)
        average = self._components.average(view.evidence, "through" if causal else "all")
        return view.gain * average + view.offset

    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """E exp(-|x - Y|^2 / (2 bandwidth^2)) over the target's Y: (n,)."""
        return self._kernel_mean(x, bandwidth**2, self._scales.square())

    def kernel_self_mean(self, bandwidth: float) -> float:
        """E exp(-|Y - Y'|^2 / (2 bandwidth^2)) over independent Y and Y'."""
        of_means = self._kernel_mean(self._means, bandwidth**2, 2 * self._scales.square())
        return float(self._weights @ of_means)

    def _kernel_mean(self, x: Tensor, h2: float, variance: Tensor) -> Tensor:
        # A Gaussian kernel convolved with N(mu, variance) is a Gaussian of the summed variances.
        widened = variance + h2
        return (self._log_smoothed(x, widened) + 0.5 * (h2 / widened).log().sum()).exp()

    def _log_smoothed(self, x: Tensor, variance: Tensor) -> Tensor:
        """Log sum_c w_c exp(-1/2 sum_i |x_i - mu_ci|^2 / variance_i): (n,)."""
        y = x.to(self._means) - self._centre
        evidence = Evidence(y / variance, -0.5 / variance[None])
        return self._components.log_mass(evidence)[:, 0] - 0.5 * (y.square() / variance).sum((1, 2))

    def _view(self, x: Tensor, levels: Tensor, path: NoisePath) -> _View:
        levels = levels.to(self._means)
        if bool((levels == levels[:1]).all()):
            levels = levels[:1]  # one row of coefficients then serves all rows
        alpha, sigma = path.alpha(levels)[..., None], path.sigma(levels)[..., None]  # (n|1, N, 1)
        s2 = self._scales.square()  # (N, d)
        V = alpha.square() * s2 + sigma.square()  # (n|1, N, d)
        x = torch.where(alpha > 0, x.to(self._means), 0)  # what stands at level 1 may be anything
        gain = sigma.square() / V
        return _View(
            evidence=Evidence(alpha * (x - alpha * self._centre) / V, -0.5 * alpha.square() / V),
            gain=gain,
            offset=gain * self._centre + alpha * s2 * x / V,
            variance=gain * s2,
        )


@dataclass(frozen=True, kw_only=True)
class _View:
    """Noisy tokens: their evidence about the component, and the clean token of each component.

    Clean, token i of component c is N(gain_i (mu_ci - centre_i) + offset_i, variance_i). Shapes are
    (n|1, N, d).
    """

    evidence: Evidence
    gain: Tensor
    offset: Tensor
    variance: Tensor


class _PosteriorLaw(TokenLaw):
    """The mixture that a view leaves for some tokens, evaluated in tiles and held nowhere."""

    def __init__(
        self, components: Components, view: _View, prefix: Prefix, tokens: Sequence[int]
    ) -> None:
        self._components = components
        self._view = view
        self._prefix = prefix
        self._tokens = list(tokens)
        self._gain = view.gain[:, self._tokens]  # (n|1, S, d) for S selected tokens
        self._offset = view.offset[:, self._tokens]
        self._variance = view.variance[:, self._tokens]
        self._mu = components.mu[:, self._tokens]  # (K, S, d)
        self._n = len(view.evidence.linear)

    def select(self, tokens: Sequence[int]) -> _PosteriorLaw:
        """The laws of those tokens only."""
        chosen = [self._tokens[i] for i in tokens]
        return _PosteriorLaw(self._components, self._view, self._prefix, chosen)

    def sample(self, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its Gaussian: (n, S, d)."""
        S, d = self._mu.shape[1:]
        u = rng.uniform((self._n, S))
        noise = rng.normal((self._n, S, d)).to(self._mu)
        mu = torch.empty(self._n, S, d).to(self._mu)
        column = torch.arange(S, device=u.device)
        for rows, weights in self._weights():
            if weights.shape[1] == 1:  # one law of the component serves all tokens
                component = inverse_cdf(weights[:, 0], u[rows])
            else:
                component = inverse_cdf(weights, u[rows][..., None])[..., 0]
            mu[rows] = self._mu[component, column]
        return self._gain * mu + self._offset + self._variance.sqrt() * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x (n, S, d): (n, S); +-infinite on and off a known value."""
        residual = x.to(self._mu) - self._offset
        known = self._variance == 0
        variance = torch.where(known, 1, self._variance)
        own = Evidence(
            (residual * self._gain / variance).expand(self._n, -1, -1),
            -0.5 * self._gain.square() / variance,
        )
        joint = self._components.mixture_log_mass(
            self._view.evidence, own, self._tokens, self._prefix
        )
        marginal = self._components.log_mass(self._view.evidence, self._prefix)
        if self._prefix != "all":
            marginal = marginal[:, self._tokens]
        constant = -0.5 * (residual.square() / variance + variance.log() + LOG_2PI)
        atom = torch.where(residual == 0, torch.inf, -torch.inf)
        return joint - marginal + torch.where(known, atom, constant).sum(-1)

    def mean(self) -> Tensor:
        """(n, S, d)."""
        return self._gain * self._moment(1) + self._offset

    def variance(self) -> Tensor:
        """(n, S, d)."""
        between = self._moment(2) - self._moment(1).square()
        return self._variance + self._gain.square() * between.clamp(min=0)

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for x (n, S, 1): (n, S)."""
        require_scalar_tokens("cdf", self._mu.shape[-1])
        z = (x.to(self._mu) - self._offset) / self._variance.sqrt()  # (n, S, 1)
        slope = (self._gain / self._variance.sqrt()).expand_as(z)
        total = torch.empty(z.shape[:2]).to(z)
        for rows, weights in self._weights(heads=len(self._tokens)):
            standard = z[rows] - slope[rows] * self._mu[..., 0].T  # (r, S, K)
            total[rows] = (weights * torch.special.ndtr(standard)).sum(-1)
        return total

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile of u (n, S), by Newton's method inside a shrinking bracket: (n, S, 1)."""
        require_scalar_tokens("icdf", self._mu.shape[-1])
        own = self._offset[..., 0] + self._variance[..., 0].sqrt() * torch.special.ndtri(u)
        ends = [self._gain[..., 0] * end for end in (self._mu.amin(0).T, self._mu.amax(0).T)]
        return invert_cdf(self.cdf, self.log_prob, u, own + ends[0], own + ends[1])

    def _weights(self, heads: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """Tiles of rows with the weights of all components: (r, 1|S, K)."""
        evidence = self._view.evidence
        for rows, weights in self._components.posterior(evidence, self._prefix, heads):
            yield rows, weights if weights.shape[1] == 1 else weights[:, self._tokens]

    def _moment(self, power: int) -> Tensor:
        evidence = self._view.evidence
        return self._components.average(evidence, self._prefix, power)[:, self._tokens]


def _require_parameters(
    means: Tensor, scales: Tensor, weights: Tensor, grid: tuple[int, int] | None
) -> None:
    if means.dim() != 3 or means.numel() == 0:
        raise InputError(
            f"means must have shape (components, tokens, dim), none of them 0, "
            f"got {tuple(means.shape)}."
        )
    if scales.shape != means.shape[1:] or weights.shape != means.shape[:1]:
        raise InputError(
            f"scales must have shape {tuple(means.shape[1:])} and weights {tuple(means.shape[:1])} "
            f"to fit the means, got {tuple(scales.shape)} and {tuple(weights.shape)}."
        )
    if not (means.isfinite().all() and scales.isfinite().all() and weights.isfinite().all()):
        raise InputError("means, scales and weights must be finite, got NaN or infinity.")
    if not bool((scales > 0).all()):
        raise InputError(f"scales must be positive, got {float(scales.min())}.")
    if not (bool((weights >= 0).all()) and float(weights.sum()) > 0):
        raise InputError("weights must be non-negative and not all zero; drop or fix the rows.")
    if grid is not None and grid[0] * grid[1] != means.shape[1]:
        raise InputError(f"grid must hold the {means.shape[1]} tokens, got {grid[0]}x{grid[1]}.")
