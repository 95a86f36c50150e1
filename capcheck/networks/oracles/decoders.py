"""Decoder oracles: exact, or the best of their class, each with its exact posterior as encoder.

The table in `signatures/decoder` lists the oracle of each kind of law. If tokens are given, the
oracle is that of the law of the other tokens given them, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.core.randomness import Randomness
from capcheck.laws import (
    LOG_2PI,
    MixtureOfGaussians,
    SideBySide,
    TokenLaw,
    certain,
    point_mass,
)
from capcheck.networks.oracles.conditioned import Conditioned
from capcheck.networks.oracles.factor_analysis import factor_analysis, probabilistic_pca
from capcheck.networks.oracles.latent_index import index_of, latent_of, latent_of_token
from capcheck.networks.oracles.moments import mean_and_covariance
from capcheck.networks.oracles.rosenblatt import Rosenblatt
from capcheck.targets.products import Products
from capcheck.targets.target import ContinuousTarget, Target, require_one_law

__all__ = [
    "ComponentDecoder",
    "ConditionedDecoder",
    "DecoderOracle",
    "LinearDecoder",
    "MarginalDecoder",
    "Noise",
    "SequenceDecoder",
    "linear_decoder",
    "unlimited_decoder",
]

Noise = Literal["shared", "token"]


@dataclass(eq=False)
class ComponentDecoder:
    """A decoder whose latent number z_1 selects a component of a mixture of products.

    Attributes:
        products: Mixture of products.
    """

    products: Products
    _latest: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    def __call__(self, z: Tensor) -> TokenLaw:
        """The token laws of the component that z_1 selects."""
        return self.products.law(index_of(self._p, z[:, 0]))

    def encode(self, x: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
        """Draw a component from its posterior, and z_1 from the component's interval."""
        posterior = self._posterior(x)
        component = rng.categorical(posterior, (len(x), 1)).to(x.device)
        z, log_q = latent_of(self._p, component[:, 0], rng.uniform((len(x), 1))[:, 0])
        log_q = log_q + posterior.gather(1, component)[:, 0].log()
        return z[:, None], log_q

    @property
    def _p(self) -> Tensor:
        return self.products.log_weights.exp()

    def _posterior(self, x: Tensor) -> Tensor:
        """The posterior P(c | x), (n, K); the prior where x has density 0.

        The latest result is kept, since several importance draws are made for the same x.
        """
        if self._latest is None or self._latest[0] is not x:
            tokens, prior = list(range(x.shape[1])), self.products.log_weights
            tiles = []
            for start in range(0, len(x), self.products.rows_at_once()):
                rows = slice(start, start + self.products.rows_at_once())
                own = prior if len(prior) == 1 else prior[rows]
                joint = own + self.products.log_likelihood(x[rows], tokens)
                possible = joint.amax(1, keepdim=True) > -torch.inf
                tiles.append(torch.where(possible, joint, own).softmax(1))
            self._latest = x, torch.cat(tiles)
        return self._latest[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearDecoder:
    """The linear decoder x = m + W z + noise.

    Attributes:
        mean: Mean m, (1, N, d), or (n, N, d) if rows have different means.
        W: Loadings of the first r latent numbers, (N d, r).
        variance: Noise variance Psi of each number, (N, d).
    """

    mean: Tensor
    W: Tensor
    variance: Tensor

    def __call__(self, z: Tensor) -> TokenLaw:
        """The laws N(m + W z, Psi), in which all numbers are independent."""
        moved = z[:, : self.W.shape[1]].to(self.W) @ self.W.T  # (n, N d)
        means = self.mean + moved.reshape(len(z), *self.mean.shape[-2:])
        return MixtureOfGaussians(
            means.new_zeros(1, 1, 1), means[:, :, None], self.variance[None, :, None]
        )

    def encode(self, x: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
        """Draw z from the posterior N(M^-1 W^T Psi^-1 (x - m), M^-1), M = I + W^T Psi^-1 W."""
        r = self.W.shape[1]
        scaled = self.W / self.variance.flatten()[:, None]  # Psi^-1 W
        root = torch.linalg.cholesky(torch.eye(r).to(self.W) + self.W.T @ scaled)  # of M
        e = rng.normal((len(x), r)).to(self.W)
        centre = torch.cholesky_solve(((x - self.mean).flatten(1) @ scaled).T, root).T
        z = centre + torch.linalg.solve_triangular(root.T, e.T, upper=True).T
        log_q = -0.5 * (e.square() + LOG_2PI).sum(1) + root.diagonal().log().sum()
        return z, log_q


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceDecoder:
    """A decoder whose latent determines the sequence, by inverse CDFs from left to right.

    Attributes:
        map: Triangular map of the target, whose tokens are categorical.
        vocabulary: Number V of values.
    """

    map: Rosenblatt
    vocabulary: int

    def __call__(self, z: Tensor) -> TokenLaw:
        """The point masses at the sequences of z."""
        return certain(self.map(z[:, :, None]), self.vocabulary, self.map.target.dtype)

    def encode(self, x: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
        """Draw each z_i from the interval of x_i given the tokens before it."""
        v = rng.uniform(tuple(x.shape))
        found = [latent_of_token(law, x[:, [i]], v[:, i]) for i, law in self.map.conditionals(x)]
        z, log_q = (torch.stack(each, 1) for each in zip(*found, strict=True))
        return z, log_q.sum(1)


@dataclass(frozen=True, eq=False)
class MarginalDecoder:
    """A decoder without a latent: its token laws are the target's marginals.

    Attributes:
        target: Law whose marginals are emitted.
    """

    target: Target

    def __call__(self, z: Tensor) -> TokenLaw:
        """The marginals of all tokens, the same for every row unless the target's rows differ."""
        spec = self.target.spec
        kind = self.target.dtype if spec.kind == "continuous" else torch.int64
        x = torch.zeros(len(z), spec.tokens, *spec.token_shape, dtype=kind, device=z.device)
        levels = torch.ones(x.shape[:2], dtype=self.target.dtype, device=z.device)
        return self.target.marginals(x, levels)

    def encode(self, x: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
        """An empty latent, (n, 0), with log-density 0."""
        nothing = torch.zeros(len(x), 0, dtype=self.target.dtype, device=x.device)
        return nothing, nothing.sum(1)


DecoderOracle = ComponentDecoder | LinearDecoder | SequenceDecoder | MarginalDecoder


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionedDecoder:
    """The best decoders of a target and of its conditional laws given some tokens.

    Attributes:
        decoders: Decoders of the whole law and of the conditional laws.
    """

    decoders: Conditioned[DecoderOracle]

    @classmethod
    def of(cls, target: Target, make: Callable[[Target], DecoderOracle]) -> ConditionedDecoder:
        """The decoders of a target.

        Raises:
            UnfitError: There is no decoder for the whole law.
        """
        decoders = Conditioned(target=target, make=make)
        _ = decoders.whole  # raises UnfitError now, not at the first call
        return cls(decoders=decoders)

    def __call__(self, z: Tensor, *given: Tensor) -> TokenLaw:
        """The token laws for z; those of given tokens are point masses."""
        if not given:
            return self.decoders.whole(z)
        tokens, known = given
        decoder, rest = self.decoders.of_rest(tokens, known)
        law, target = decoder(z), self.decoders.target
        if target.spec.kind == "categorical":
            values: TokenLaw = certain(tokens, target.spec.dim, target.dtype)
        else:
            values = point_mass(tokens.to(target.dtype))
        place = {i: j for j, i in enumerate(rest)}
        return SideBySide(
            [
                law.select([place[i]]) if i in place else values.select([i])
                for i in range(tokens.shape[1])
            ]
        )

    def encode(self, x: Tensor, rng: Randomness, *known: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a latent from the exact posterior, with its log-density (nats)."""
        if not known:
            return self.decoders.whole.encode(x, rng)
        decoder, rest = self.decoders.of_rest(x, *known)
        return decoder.encode(x[:, rest], rng)


def unlimited_decoder(target: Target) -> DecoderOracle:
    """The decoder that is exact on a law.

    Raises:
        UnfitError: Tokens are continuous, and the law is neither a mixture of products nor one
            Gaussian.
    """
    if (products := target.products()) is not None:
        return ComponentDecoder(products)
    if isinstance(target, ContinuousTarget):
        if target.gaussian() is not None:
            return linear_decoder(target, target.spec.mean.numel(), "shared")
        require_one_law(target, "vae on numbers that are no mixture of products")
        raise UnfitError(
            "vae has no oracle for a law of numbers that is neither a mixture of products nor one "
            "Gaussian; limit it, as in `capcheck check --family vae --option latent=4`, or bring a "
            "network of your own."
        )
    return SequenceDecoder(map=Rosenblatt(target=target), vocabulary=target.spec.dim)


def linear_decoder(target: ContinuousTarget, q: int, noise: Noise) -> LinearDecoder:
    """The linear decoder of q latent numbers that is nearest to a law in KL.

    Raises:
        UnfitError: The law's covariance is not available, or differs between rows.
    """
    mean, covariance = mean_and_covariance(target)
    if len(covariance) > 1:
        require_one_law(target, "vae.latent on a law that is not Gaussian")
    fit = probabilistic_pca if noise == "shared" else factor_analysis
    W, variance = fit(covariance[0].cpu().numpy(), q)
    like = target.spec.mean
    return LinearDecoder(
        mean=mean.reshape(-1, *like.shape).to(like),
        W=torch.from_numpy(W.copy()).to(like),
        variance=torch.from_numpy(variance.copy()).reshape(like.shape).to(like),
    )
