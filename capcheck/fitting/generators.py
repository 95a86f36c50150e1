"""Modules of a latent: generators, one affine layer, neural flows, and decoders with an encoder.

A generator is m + s (z + F(z)), token by token, or the likeliest value of logits F(z). A neural
flow is a composition of autoregressive rational-quadratic splines.

Source: Durkan et al. 2019, "Neural Spline Flows"; Kingma & Welling 2014, "Auto-Encoding Variational
Bayes".
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.architecture import Architecture
from capcheck.fitting.denoisers import trunk
from capcheck.fitting.heads import TokenHead, positive
from capcheck.fitting.perceptron import Perceptron
from capcheck.fitting.predictors import ShownTokens
from capcheck.laws import LOG_2PI, MixtureOfGaussians, TokenLaw
from capcheck.networks.signatures import Noise

TRANSFORMS = 3  # autoregressive layers of a neural flow


@runtime_checkable
class Relaxed(Protocol):
    """A generator of token ids that can be differentiated."""

    def relaxed(self, z: Tensor, /) -> Tensor:
        """One-hot vectors of what z makes, (n, N, V), with the gradient of probabilities."""


class GeneratorModule(nn.Module):
    """Normals -> continuous tokens.

    Args:
        spec: Of the sequences.
        size: Of the trunk.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: SequenceSpec, size: Architecture) -> None:
        super().__init__()
        self.register_buffer("mean", spec.mean.float())
        self.register_buffer("deviation", positive(spec.variance).sqrt())
        self.trunk = trunk(spec, size, spec.dim, spec.dim)

    def forward(self, z: Tensor) -> Tensor:
        """(n, N, d) -> (n, N, d)."""
        x: Tensor = self.mean + self.deviation * (z + self.trunk(z))
        return x


class ChoiceModule(nn.Module):
    """Normals -> token ids.

    Args:
        spec: Of the sequences.
        size: Of the trunk.
    """

    def __init__(self, spec: SequenceSpec, size: Architecture) -> None:
        super().__init__()
        self.trunk = trunk(spec, size, 1, spec.dim)

    def forward(self, z: Tensor) -> Tensor:
        """(n, N, 1) -> (n, N) integers."""
        choice: Tensor = self.trunk(z).argmax(-1)
        return choice

    def relaxed(self, z: Tensor) -> Tensor:
        """(n, N, 1) -> (n, N, V): the choice, with the gradient of the softmax."""
        logits = self.trunk(z)
        p = logits.softmax(-1)
        choice = nn.functional.one_hot(logits.argmax(-1), p.shape[-1]).to(p)
        straight_through: Tensor = choice + p - p.detach()
        return straight_through


class AffineModule(nn.Module):
    """x = m + R z with a lower triangular R over flat sequences, as a `Bijection`.

    Args:
        spec: Of the sequences.
    """

    def __init__(self, spec: SequenceSpec) -> None:
        super().__init__()
        self.mean = nn.Parameter(spec.mean.float().flatten())
        self.log_scale = nn.Parameter(positive(spec.variance).flatten().log() / 2)
        self.below = nn.Parameter(torch.zeros(spec.mean.numel(), spec.mean.numel()))

    def forward(self, z: Tensor) -> Tensor:
        """(n, N, d) -> (n, N, d)."""
        return (self.mean + z.flatten(1) @ self._root().T).reshape(z.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats), (n,)."""
        residual = (x.flatten(1) - self.mean).T
        z = torch.linalg.solve_triangular(self._root(), residual, upper=False)
        log_q: Tensor = -0.5 * (z.square() + LOG_2PI).sum(0) - self.log_scale.sum()
        return log_q

    def _root(self) -> Tensor:
        """R = s (I + L), row by row in the tokens' units."""
        scale = self.log_scale.exp()
        return scale[:, None] * (torch.eye(len(scale)).to(scale) + self.below.tril(-1))


class FlowModule(nn.Module):
    """Autoregressive splines over standardised flat sequences, as a `Bijection`.

    Args:
        spec: Of the sequences.
        size: Of the networks that make the splines.

    Raises:
        InputError: The library of flows is not installed.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: SequenceSpec, size: Architecture) -> None:
        super().__init__()
        try:
            import zuko
        except ImportError:
            raise InputError(
                "network of a flow needs the package zuko unless its depth is 0, got none "
                "installed; run pip install 'capcheck[flows]'."
            ) from None
        self.register_buffer("mean", spec.mean.float().flatten())
        self.register_buffer("deviation", positive(spec.variance).flatten().sqrt())
        self.flow: Any = zuko.flows.NSF(
            features=spec.mean.numel(),
            transforms=TRANSFORMS,
            hidden_features=(size.width,) * size.depth,
            activation=nn.SiLU,
        )

    def forward(self, z: Tensor) -> Tensor:
        """(n, N, d) -> (n, N, d)."""
        x: Tensor = self.flow().transform.inv(z.flatten(1))
        return (self.mean + self.deviation * x).reshape(z.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats), (n,)."""
        standard = (x.flatten(1) - self.mean) / self.deviation
        log_q: Tensor = self.flow().log_prob(standard) - self.deviation.log().sum()
        return log_q


class DecoderModule(nn.Module):
    """Z -> one law per token, with a Gaussian encoder of z given x.

    Args:
        spec: Of the sequences.
        size: Of decoder and encoder; with depth 0 both are affine, and the noise is constant.
        latent: q.
        noise: With depth 0, one variance for all numbers or one for each.
    """

    def __init__(
        self, spec: SequenceSpec, size: Architecture, *, latent: int, noise: Noise
    ) -> None:
        super().__init__()
        self.tokens, self.latent = spec.tokens, latent
        self.shown = ShownTokens(spec)
        self.linear = size.depth == 0 and spec.kind == "continuous"
        self.head = TokenHead(spec, components=1)
        self.shared = noise == "shared"
        sizes = {"width": size.width, "depth": size.depth}
        numbers = spec.dim if self.linear else self.head.numbers
        self.decoder = Perceptron(latent, spec.tokens * numbers, **sizes)
        heads = latent if self.linear else 2 * latent
        self.encoder = Perceptron(spec.tokens * spec.dim, heads, **sizes)
        if self.linear:
            variance = positive(spec.variance)
            noises = variance.mean().reshape(1, 1) if self.shared else variance
            self.log_variance = nn.Parameter(noises.log())  # of the tokens' noise
            self.log_width = nn.Parameter(torch.zeros(latent))  # of the encoder

    def forward(self, z: Tensor) -> TokenLaw:
        """The (n, N) laws of z (n, q)."""
        h = self.decoder(z).reshape(len(z), self.tokens, -1)
        if not self.linear:
            law: TokenLaw = self.head(h)
            return law
        means = self.shown.mean + self.shown.deviation * h
        variance = self.log_variance.exp().expand_as(self.shown.mean)
        return MixtureOfGaussians(
            means.new_zeros(1, 1, 1), means[:, :, None], variance[None, :, None]
        )

    def encode(self, x: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
        """A latent for every sequence and its log-density: z (n, q) and nats (n,)."""
        h = self.encoder(self.shown(x).flatten(1))
        centre, log_width = (h, self.log_width) if self.linear else h.chunk(2, -1)
        log_width = log_width.clamp(-10, 3)
        e = rng.normal((len(x), self.latent)).to(h)
        log_q = -0.5 * (e.square() + LOG_2PI).sum(1) - log_width.sum(-1)
        return centre + log_width.exp() * e, log_q
