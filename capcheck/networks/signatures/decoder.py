"""Decoder: a latent of standard normals -> one law per token, independent given the latent.

It draws x ~ p(x | z) with z ~ N(0, I), so that log q(x) = log E[p(x | z)]. Its encoder proposes z
given x for importance weights p(x | z) N(z) / q(z | x); where that is the exact posterior, all
weights equal q(x). Oracles, each with its exact posterior as encoder:

| target | decoder |
|---|---|
| mixture of products | the component is read off z_1 |
| one Gaussian | linear, z of D - 1 numbers and one noise variance: exact |
| token ids | the sequence is read off z, token by token |
| any, limited to `classes` | the best K classes, read off z_1 |
| any numbers, limited to `latent` | linear: probabilistic PCA or factor analysis |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.laws import LOG_2PI, Categorical, MixtureOfGaussians, TokenLaw
from capcheck.networks.oracles.factor_analysis import factor_analysis, probabilistic_pca
from capcheck.networks.oracles.latent_classes import best_classes
from capcheck.networks.oracles.latent_index import index_of, latent_of
from capcheck.networks.oracles.moments import mean_and_covariance
from capcheck.networks.oracles.rosenblatt import Rosenblatt
from capcheck.networks.signatures.denoiser import require_continuous
from capcheck.networks.signatures.signature import Signature, Wrapped, Wrapper
from capcheck.networks.signatures.token_predictor import require_law
from capcheck.targets.products import Products
from capcheck.targets.target import ContinuousTarget, Target, require_one_law

Noise = Literal["shared", "token"]


class Decoder(Protocol):
    """Latent -> the law of every token."""

    def __call__(self, z: Tensor, /) -> TokenLaw:
        """Decode.

        Args:
            z: (n, q) standard normals.

        Returns:
            The (n, N) laws of the tokens, which are independent given z.
        """


@runtime_checkable
class AutoEncoder(Protocol):
    """A decoder that knows where the latent of a sequence lies."""

    def __call__(self, z: Tensor, /) -> TokenLaw:
        """Decode, as a `Decoder`."""

    def encode(self, x: Tensor, rng: Randomness, /) -> tuple[Tensor, Tensor]:
        """Propose a latent for every sequence.

        Args:
            x: (n, N, d), or (n, N) integers.
            rng: Source of every random number.

        Returns:
            The first r <= q numbers of z, (n, r), if the decoder reads no others; and log q(z | x)
            of these, nats, (n,).
        """


@dataclass(frozen=True)
class DecoderSignature(Signature[Decoder]):
    """Z -> one law per token.

    Attributes:
        latent: Numbers q of the latent of a linear decoder; any decoder if None.
        noise: Of a linear decoder: one variance for all numbers, or one for each.
        classes: Number K of values that the decoder may read off its latent, if limited.
    """

    latent: int | None = None
    noise: Noise = "token"
    classes: int | None = None

    def oracle(self, target: Target) -> Decoder:
        """The decoder that maximises the likelihood of the target, with its exact posterior."""
        if self.latent is not None:
            if self.classes is not None:
                raise InputError(
                    "vae.latent and vae.classes limit the latent in two ways, got both; "
                    "leave one of them out."
                )
            return _linear(require_continuous(target, "a linear decoder"), self.latent, self.noise)
        if self.classes is not None:
            require_one_law(target, "vae.classes")
            return ComponentDecoder(best_classes(target, self.classes))
        return _unlimited(target)

    def wrap(self, network: Decoder, wrapper: Wrapper) -> Decoder:
        """The network with a wrapper around it; it has an encoder if the network does."""
        if isinstance(network, AutoEncoder):
            return _WrappedAutoEncoder(network, wrapper)
        return super().wrap(network, wrapper)

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)


class _WrappedAutoEncoder(Wrapped):
    """A decoder and its encoder with a wrapper around them."""

    def encode(self, x: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
        """A latent for every sequence, (n, r), and its log-density, nats, (n,)."""
        return self._wrapper.encode(self._network, x, rng)


@dataclass(eq=False)
class ComponentDecoder:
    """The component of a mixture of products, read off z_1.

    Attributes:
        products: The mixture.
    """

    products: Products
    _latest: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    def __call__(self, z: Tensor) -> TokenLaw:
        """The token laws of the component that z_1 names."""
        return self.products.law(index_of(self._p, z[:, 0]))

    def encode(self, x: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
        """A component from its posterior, then z_1 within the component's interval."""
        posterior = self._posterior(x)
        component = rng.categorical(posterior, (len(x), 1)).to(x.device)
        z, log_q = latent_of(self._p, component[:, 0], rng.uniform((len(x), 1))[:, 0])
        log_q = log_q + posterior.gather(1, component)[:, 0].log()
        return z[:, None], log_q

    @property
    def _p(self) -> Tensor:
        return self.products.log_weights.exp()

    def _posterior(self, x: Tensor) -> Tensor:
        """P(c | x), (n, K); the prior where x is impossible. One importance draw after another."""
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
    """x = m + W z + noise.

    Attributes:
        mean: m, (N, d).
        W: (N d, r), of which z's first r numbers are multiplied.
        variance: Of the noise of each number, (N, d).
    """

    mean: Tensor
    W: Tensor
    variance: Tensor

    def __call__(self, z: Tensor) -> TokenLaw:
        """N(m + W z, variance), every number by itself."""
        moved = z[:, : self.W.shape[1]].to(self.W) @ self.W.T  # (n, N d)
        means = self.mean + moved.reshape(len(z), *self.mean.shape)
        return MixtureOfGaussians(
            means.new_zeros(1, 1, 1), means[:, :, None], self.variance[None, :, None]
        )

    def encode(self, x: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
        """The exact posterior N(M^-1 W^T Psi^-1 (x - m), M^-1) with M = I + W^T Psi^-1 W."""
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
    """The one sequence of token ids that z names, by inverse CDFs from left to right.

    Attributes:
        map: The triangular map of the target.
        vocabulary: V.
    """

    map: Rosenblatt
    vocabulary: int

    def __call__(self, z: Tensor) -> Categorical:
        """Point masses."""
        x = self.map(z[:, :, None])  # (n, N)
        shape, dtype = (*x.shape, self.vocabulary), self.map.target.dtype
        logits = torch.full(shape, -torch.inf, dtype=dtype, device=x.device)
        return Categorical(logits.scatter(2, x[..., None], 0.0))

    def encode(self, x: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
        """Each z_i within the interval of x_i given the tokens before it."""
        v = rng.uniform(tuple(x.shape))
        found = [
            latent_of(law.mean()[:, 0], x[:, i], v[:, i]) for i, law in self.map.conditionals(x)
        ]
        z, log_q = (torch.stack(each, 1) for each in zip(*found, strict=True))
        return z, log_q.sum(1)


def _unlimited(target: Target) -> Decoder:
    if (products := target.products()) is not None:
        return ComponentDecoder(products)
    if isinstance(target, ContinuousTarget):
        if target.gaussian() is not None:
            return _linear(target, target.spec.mean.numel(), "shared")
        require_one_law(target, "vae on numbers that are no mixture of products")
        raise InputError(
            "vae has no oracle for a law of numbers that is neither a mixture of products nor one "
            "Gaussian; limit it by classes or latent, or bring a network of your own."
        )
    return SequenceDecoder(map=Rosenblatt(target=target), vocabulary=target.spec.dim)


def _linear(target: ContinuousTarget, q: int, noise: Noise) -> LinearDecoder:
    require_one_law(target, "vae.latent")
    mean, covariance = mean_and_covariance(target)
    fit = probabilistic_pca if noise == "shared" else factor_analysis
    W, variance = fit(covariance[0].cpu().numpy(), q)
    like = target.spec.mean
    return LinearDecoder(
        mean=mean[0].reshape(like.shape).to(like),
        W=torch.from_numpy(W.copy()).to(like),
        variance=torch.from_numpy(variance.copy()).reshape(like.shape).to(like),
    )
