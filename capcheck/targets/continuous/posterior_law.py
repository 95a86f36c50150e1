"""Posterior token laws of a product mixture given noisy tokens, evaluated in tiles.

Seen through a noise path, component c of a row has a posterior weight r_c, a softmax over all of
them, and its clean token i is N(gain_i (mu_ci - centre_i) + offset_i, variance_i): a mixture of
Gaussians whose weights and means are too many to be held for all rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness, inverse_cdf
from capcheck.core.tiles import tile_size
from capcheck.laws import (
    LOG_2PI,
    DrawnRows,
    MixtureOfGaussians,
    TiledMixture,
    TokenLaw,
    require_scalar_tokens,
)
from capcheck.noise.paths import NoisePath
from capcheck.targets.components import Components
from capcheck.targets.continuous.kept_components import components_above, padded
from capcheck.targets.evidence import Evidence, Prefix

__all__ = ["HELD", "TILE", "PosteriorLaw", "View"]

TILE = 1 << 16  # most numbers of explicit laws held at once, small as they are read repeatedly
NOTHING = 1e-16  # share of a component that changes no sum in float64
NO_TAIL = 1e-24  # share of a component that changes no tail of a distribution function either
HELD = 1 << 24  # most numbers of a law that is held as a whole: 128 MiB


@dataclass(frozen=True, kw_only=True)
class View:
    """Noisy tokens: their evidence about the component, and the clean token of each component.

    Given the noisy tokens, the clean token i of component c is
    N(gain_i (mu_ci - centre_i) + offset_i, variance_i). Shapes are (n|1, N, d).
    """

    evidence: Evidence
    gain: Tensor
    offset: Tensor
    variance: Tensor

    def __getitem__(self, rows: Tensor) -> View:
        def some(x: Tensor) -> Tensor:
            return x if len(x) == 1 else x[rows]

        return View(
            evidence=self.evidence[rows],
            gain=some(self.gain),
            offset=some(self.offset),
            variance=some(self.variance),
        )


class PosteriorLaw(TokenLaw):
    """The posterior laws of some tokens given a view, evaluated in tiles and never held as a whole.

    The argument `exact` holds the components in float64: a variance is a difference of two moments,
    for which float32 has too few digits between near components.
    """

    def __init__(
        self,
        components: Components,
        exact: Components,
        view: View,
        prefix: Prefix,
        tokens: Sequence[int],
        drawn: DrawnRows | None = None,
    ) -> None:
        self._components = components
        self._exact = exact
        self._view = view
        self._prefix = prefix
        self._tokens = list(tokens)
        self._gain = view.gain[:, self._tokens]  # (n|1, S, d) for S selected tokens
        self._offset = view.offset[:, self._tokens]
        self._variance = view.variance[:, self._tokens]
        self._n = len(view.evidence)
        self._drawn = drawn or DrawnRows(self._n, None)

    def select(self, tokens: Sequence[int]) -> PosteriorLaw:
        """The laws of the chosen tokens."""
        chosen = [self._tokens[i] for i in tokens]
        return PosteriorLaw(
            self._components, self._exact, self._view, self._prefix, chosen, self._drawn
        )

    def held(self) -> TokenLaw:
        """The laws with all weights and means held, if they fit and are float64; else self.

        In float32 the tails of explicit weights lose digits.
        """
        S, d = self._gain.shape[1:]
        if self._n * S * len(self._components) * d > HELD:
            return self
        if self._components.dtype != torch.float64:
            return self
        log_weights = self._components.log_posterior(
            self._view.evidence, self._prefix, self._tokens
        )
        mu = self._components.of_tokens(self._tokens).transpose(0, 1)  # (S, K, d)
        means = self._gain[:, :, None] * mu + self._offset[:, :, None]
        means = means.expand(self._n, *means.shape[1:])
        return MixtureOfGaussians(log_weights, means, self._variance[:, :, None], self._drawn)

    def rows(self, index: Tensor) -> PosteriorLaw:
        """The laws of the chosen rows."""
        return PosteriorLaw(
            self._components,
            self._exact,
            self._view[index],
            self._prefix,
            self._tokens,
            self._drawn[index],
        )

    def sample(self, rng: Randomness) -> Tensor:
        """Draw the component by inverse CDF, then its Gaussian: (n, S, d)."""
        S, d = self._gain.shape[1:]
        u = self._drawn.of(rng.uniform((self._drawn.n, S)))
        noise = self._drawn.of(rng.normal((self._drawn.n, S, d))).to(self._gain)
        mu = torch.empty_like(noise)
        for rows, weights in self._weights():
            if weights.shape[1] == 1:  # one law of the component serves all tokens
                component = inverse_cdf(weights[:, 0], u[rows])
            else:
                component = inverse_cdf(weights, u[rows][..., None])[..., 0]
            mu[rows] = self._components.of_tokens(self._tokens, component)
        draws = self._gain * mu + self._offset + self._variance.sqrt() * noise
        return draws.to(self._components.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x (n, S, d): (n, S); +-infinite on and off a known value."""
        residual = x.to(self._offset) - self._offset
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
        log_prob = joint - marginal + torch.where(known, atom, constant).sum(-1)
        return log_prob.to(self._components.dtype)

    def mean(self) -> Tensor:
        """Mean of every token, (n, S, d)."""
        average = self._components.average(self._view.evidence, self._prefix, self._tokens)
        return (self._gain * average + self._offset).to(self._components.dtype)

    def variance(self) -> Tensor:
        """Variance of every coordinate, (n, S, d)."""
        return self.moments()[1]

    def moments(self) -> tuple[Tensor, Tensor]:
        """The answers of `mean` and `variance`, from one pass over the components."""
        first, second = self._exact.moments(self._view.evidence, self._prefix, self._tokens)
        mean = self._gain * first + self._offset
        between = (second - first.square()).clamp(min=0)
        variance = self._variance + self._gain.square() * between
        return mean.to(self._components.dtype), variance.to(self._components.dtype)

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """E[x_0 | x_t] of every token by itself, (n, S, d)."""
        n, mu = self._n, self._components.of_tokens(self._tokens).transpose(0, 1)  # (S, K, d)
        shape = (n, *self._gain.shape[1:])
        gain, offset, variance = (
            of_tokens.expand(shape)[:, :, None]
            for of_tokens in (self._gain, self._offset, self._variance)
        )
        clean = torch.empty(shape, dtype=self._components.dtype, device=mu.device)
        for rows, weights in self._weights(heads=4 * self._gain[0].numel()):
            means = gain[rows] * mu + offset[rows]  # (r, S, K, d)
            law = MixtureOfGaussians(weights.to(means).log(), means, variance[rows])
            clean[rows] = law.denoise(x_t[rows], t[rows], path)
        return clean

    def pick(self, index: Tensor) -> TokenLaw:
        """The law of one token of each row, explicit and in float64 unless it is too large.

        If few components have a share of `NOTHING` or more in any row, the others are left out.
        """
        token = torch.tensor(self._tokens, device=index.device)[index]  # (n,)
        rows = torch.arange(self._n, device=index.device)
        weights, means = [], []
        for tile, share in self._exact.posterior(self._view.evidence, self._prefix):
            own = share[:, 0] if share.shape[1] == 1 else share[rows[: len(share)], token[tile]]
            own, component = components_above(own, NOTHING)
            if component is not None:
                mu = self._exact.of_components(component, token[tile])  # (r, k, d)
            elif self._n * own.shape[1] * self._gain.shape[2] > HELD:
                return super().pick(index)
            else:
                mu = self._exact.of_tokens(self._tokens).transpose(0, 1)[index[tile]]  # (r, K, d)
            weights.append(own)
            means.append(mu)
        most = max(weight.shape[1] for weight in weights)
        log_weights = torch.cat([padded(weight, most) for weight in weights]).log()
        mu = torch.cat([padded(each, most) for each in means])

        def own_of(parameter: Tensor) -> Tensor:
            return parameter.expand(self._n, *parameter.shape[1:])[rows, index][:, None]

        gain, offset, variance = map(own_of, (self._gain, self._offset, self._variance))
        return MixtureOfGaussians(
            log_weights[:, None], (gain * mu + offset)[:, None], variance[:, :, None]
        )

    def coordinate(self, j: int, x: Tensor) -> TiledMixture:
        """The law of coordinate j given the token's earlier ones, by tiles.

        Components with a share of less than `NO_TAIL` in every row of a tile are left out of the
        law of a single token.
        """
        if len(self._tokens) > 1:
            return self._tiled().coordinate(j, x)
        size = max(1, self._exact.tile // len(self._exact))

        def tile(rows: slice, _: list[int]) -> MixtureOfGaussians:
            return self._coordinate(j, x[rows, 0, :j].to(self._offset), rows)

        return TiledMixture(tile, rows=self._n, tokens=[0], dim=1, size=size)

    def _coordinate(self, j: int, before: Tensor, rows: slice) -> MixtureOfGaussians:
        """The law of coordinate j of the only token in some rows, given its earlier ones (r, j)."""
        gain, offset, variance = (
            (each if len(each) == 1 else each[rows])[:, 0]  # (1|r, d)
            for each in (self._gain, self._offset, self._variance)
        )
        evidence, mu = self._view.evidence[rows], self._exact.of_tokens(self._tokens)[:, 0]
        logits = self._exact.log_posterior(evidence, self._prefix, self._tokens)[:, 0]  # (r, K)
        if j > 0:
            safe = torch.where(variance == 0, 1, variance)[:, :j]
            linear = (before - offset[:, :j]) * gain[:, :j] / safe
            quadratic = -0.5 * gain[:, :j].square() / safe
            queries = torch.cat([linear, quadratic.expand_as(linear)], 1)
            keys = torch.cat([mu[:, :j], mu[:, :j].square()], 1)
            logits = torch.addmm(logits, queries, keys.T)
        share, component = components_above(logits.softmax(1), NO_TAIL)
        of_j = mu[:, j] if component is None else mu[:, j][component]
        means = gain[:, [j]] * of_j + offset[:, [j]]  # (r|1, k)
        return MixtureOfGaussians(
            share.log()[:, None], means[:, None, :, None], variance[:, None, None, [j]]
        )

    def _tiled(self) -> TiledMixture:
        S, d = self._gain.shape[1:]
        held = tile_size(TILE, self._gain.device)
        size = max(8, held // (len(self._components) * S * d))  # components are read per tile
        return TiledMixture(self._mixture, rows=self._n, tokens=range(S), dim=d, size=size)

    def _mixture(self, rows: slice, columns: list[int]) -> MixtureOfGaussians:
        """The laws of some rows and tokens, with all components explicit."""
        gain, offset, variance = (
            (each if len(each) == 1 else each[rows])[:, columns, None]  # (1|r, S, 1, d)
            for each in (self._gain, self._offset, self._variance)
        )
        tokens = [self._tokens[i] for i in columns]
        mu = self._components.of_tokens(tokens).transpose(0, 1)  # (S, K, d)
        tiles = self._components.posterior(self._view.evidence[rows], self._prefix)
        weights = torch.cat([of_rows for _, of_rows in tiles])  # (r, 1|N, K)
        weights = weights if weights.shape[1] == 1 else weights[:, tokens]
        return MixtureOfGaussians(weights.log(), gain * mu + offset, variance)

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for x (n, S, 1): (n, S)."""
        require_scalar_tokens("cdf", self._gain.shape[-1])
        z = (x.to(self._offset) - self._offset) / self._variance.sqrt()  # (n, S, 1)
        slope = (self._gain / self._variance.sqrt()).expand_as(z)
        mu = self._components.of_tokens(self._tokens)[..., 0].T  # (S, K)
        total = torch.empty(z.shape[:2]).to(z)
        for rows, weights in self._weights(heads=len(self._tokens)):
            standard = z[rows] - slope[rows] * mu  # (r, S, K)
            total[rows] = (weights * torch.special.ndtr(standard)).sum(-1)
        return total

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile of u (n, S): (n, S, 1)."""
        require_scalar_tokens("icdf", self._gain.shape[-1])
        return self._tiled().icdf(u).to(self._components.dtype)

    def _weights(self, heads: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """Tiles of rows with the weights of all components: (r, 1|S, K)."""
        evidence = self._view.evidence
        for rows, weights in self._components.posterior(evidence, self._prefix, heads):
            yield rows, weights if weights.shape[1] == 1 else weights[:, self._tokens]
