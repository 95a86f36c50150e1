"""Modules of a latent: generators, affine layers, neural flows, and decoders with an encoder.

A generator of continuous tokens is m + s (z + F(z)), with the tokens' mean m and deviation s; one
of token ids returns the value with the largest logit in F(z). A neural flow is a composition of
rational-quadratic splines, autoregressive or, in many numbers, coupling ones. If the spec has given
tokens, a module is called with (z, tokens, known) and makes the other tokens.

Source: Durkan et al. 2019, "Neural Spline Flows", https://arxiv.org/abs/1906.04032; Kingma &
Welling 2014, "Auto-Encoding Variational Bayes", https://arxiv.org/abs/1312.6114
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
from capcheck.fitting.predictors import GivenTokens, ShownTokens
from capcheck.laws import LOG_2PI, MixtureOfGaussians, TokenLaw
from capcheck.networks.oracles.rosenblatt import with_given
from capcheck.networks.signatures import Noise

__all__ = [
    "AUTOREGRESSIVE",
    "TRANSFORMS",
    "AffineModule",
    "ChoiceModule",
    "DecoderModule",
    "FlowModule",
    "GeneratorModule",
    "Relaxed",
]

TRANSFORMS = 3  # number of layers in a neural flow
AUTOREGRESSIVE = 64  # most numbers for which its layers are autoregressive; drawing takes so long


@runtime_checkable
class Relaxed(Protocol):
    """A generator of token ids with a differentiable approximation of its answer."""

    def relaxed(self, z: Tensor, /, *given: Tensor) -> Tensor:
        """One-hot vectors of the answer to z, (n, N, V), with the gradient of a softmax."""


class GeneratorModule(nn.Module):
    """A generator of continuous tokens from standard normals.

    Args:
        spec: Spec of the sequences.
        size: Kind and size of the trunk.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: SequenceSpec, size: Architecture) -> None:
        super().__init__()
        self.register_buffer("mean", spec.mean.float())
        self.register_buffer("deviation", positive(spec.variance).sqrt())
        self.given = GivenTokens(spec)
        self.trunk = trunk(spec, size, spec.dim + self.given.numbers, spec.dim)

    def forward(self, z: Tensor, *given: Tensor) -> Tensor:
        """Tokens (n, N, d) for normals z (n, N, d)."""
        x: Tensor = self.mean + self.deviation * (z + self.trunk(_beside(z, self.given, *given)))
        return with_given(x, *given)


class ChoiceModule(nn.Module):
    """A generator of token ids from standard normals.

    Args:
        spec: Spec of the sequences.
        size: Kind and size of the trunk.
    """

    def __init__(self, spec: SequenceSpec, size: Architecture) -> None:
        super().__init__()
        self.given = GivenTokens(spec)
        self.trunk = trunk(spec, size, 1 + self.given.numbers, spec.dim)

    def forward(self, z: Tensor, *given: Tensor) -> Tensor:
        """Token ids (n, N) for normals z (n, N, 1)."""
        choice: Tensor = self.trunk(_beside(z, self.given, *given)).argmax(-1)
        return with_given(choice, *given)

    def relaxed(self, z: Tensor, *given: Tensor) -> Tensor:
        """One-hot vectors of the token ids, (n, N, V), with the gradient of the softmax.

        This is the straight-through estimator.
        """
        logits = self.trunk(_beside(z, self.given, *given))
        p = logits.softmax(-1)
        choice = nn.functional.one_hot(logits.argmax(-1), p.shape[-1]).to(p)
        straight_through: Tensor = choice + p - p.detach()
        if not given:
            return straight_through
        tokens, known = given
        exact = nn.functional.one_hot(tokens.clamp(min=0), p.shape[-1]).to(p)
        return torch.where(known[..., None], exact, straight_through)


def _beside(z: Tensor, numbers: GivenTokens, *given: Tensor) -> Tensor:
    """Each token's normals, followed by the features of all given tokens: (n, N, d + G)."""
    if not given:
        return z
    shown = numbers(given[0])[:, None].expand(-1, z.shape[1], -1)
    return torch.cat([z, shown.to(z)], -1)


class AffineModule(nn.Module):
    """A `Bijection` x = m + A c + R z over the flat free tokens, with R lower triangular.

    The vector c holds the features of the given tokens, if there are any.

    Args:
        spec: Spec of the sequences.
    """

    def __init__(self, spec: SequenceSpec) -> None:
        super().__init__()
        self.given = GivenTokens(spec)
        free = self.given.free
        self.mean = nn.Parameter(spec.mean.float()[free].flatten())
        self.log_scale = nn.Parameter(positive(spec.variance)[free].flatten().log() / 2)
        self.below = nn.Parameter(torch.zeros(self.mean.numel(), self.mean.numel()))
        self.A = nn.Parameter(torch.zeros(self.mean.numel(), self.given.numbers))

    def forward(self, z: Tensor, *given: Tensor) -> Tensor:
        """Tokens (n, N, d) for normals z (n, N, d)."""
        centre = self._centre(given[0] if given else z)
        made = centre + z[:, self.given.free].flatten(1) @ self._root().T
        return _placed(made, self.given.free, z, *given)

    def log_prob(self, x: Tensor, *known: Tensor) -> Tensor:
        """Log-density (nats) of the free tokens given the given ones, (n,)."""
        residual = (x[:, self.given.free].flatten(1) - self._centre(x)).T
        z = torch.linalg.solve_triangular(self._root(), residual, upper=False)
        log_q: Tensor = -0.5 * (z.square() + LOG_2PI).sum(0) - self.log_scale.sum()
        return log_q

    def _centre(self, tokens: Tensor) -> Tensor:
        """The centre m + A c, (n, F), or m, (F,), where no token is given."""
        if not self.given.given:
            return self.mean
        centre: Tensor = self.mean + self.given(tokens) @ self.A.T
        return centre

    def _root(self) -> Tensor:
        """The root R = s (I + L), with L strictly lower triangular and s a scale for each row."""
        scale = self.log_scale.exp()
        return scale[:, None] * (torch.eye(len(scale)).to(scale) + self.below.tril(-1))


class FlowModule(nn.Module):
    """A `Bijection` of splines over the flat, standardised free tokens.

    A layer is autoregressive for up to 64 numbers, and otherwise a coupling of two halves: drawing
    from an autoregressive layer takes as many calls as there are numbers.

    Args:
        spec: Spec of the sequences.
        size: Size of the networks that compute the splines' parameters; given tokens are inputs.

    Raises:
        InputError: The package zuko is not installed.
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
        self.given = GivenTokens(spec)
        free = self.given.free
        self.register_buffer("mean", spec.mean.float()[free].flatten())
        self.register_buffer("deviation", positive(spec.variance)[free].flatten().sqrt())
        self.flow: Any = zuko.flows.NSF(
            features=self.mean.numel(),
            context=self.given.numbers,
            transforms=TRANSFORMS,
            hidden_features=(size.width,) * size.depth,
            activation=nn.SiLU,
            passes=None if self.mean.numel() <= AUTOREGRESSIVE else 2,
        )

    def forward(self, z: Tensor, *given: Tensor) -> Tensor:
        """Tokens (n, N, d) for normals z (n, N, d)."""
        flow = self._flow(given[0] if given else z)
        x: Tensor = flow.transform.inv(z[:, self.given.free].flatten(1))
        return _placed(self.mean + self.deviation * x, self.given.free, z, *given)

    def log_prob(self, x: Tensor, *known: Tensor) -> Tensor:
        """Log-density (nats) of the free tokens given the given ones, (n,)."""
        standard = (x[:, self.given.free].flatten(1) - self.mean) / self.deviation
        log_q: Tensor = self._flow(x).log_prob(standard) - self.deviation.log().sum()
        return log_q

    def _flow(self, tokens: Tensor) -> Any:
        return self.flow(self.given(tokens)) if self.given.given else self.flow()


def _placed(made: Tensor, free: list[int], z: Tensor, *given: Tensor) -> Tensor:
    """Whole sequences, shaped as z, from the free tokens' numbers (n, F) and the given tokens."""
    if not given:
        return made.reshape(z.shape)
    tokens = given[0].to(made, copy=True)
    tokens[:, free] = made.reshape(len(z), len(free), z.shape[2])
    return tokens


class DecoderModule(nn.Module):
    """A decoder, z -> one law per token, with a Gaussian encoder of z given x.

    Args:
        spec: Spec of the sequences.
        size: Size of decoder and encoder; with depth 0 both are affine, and for continuous tokens
            the variances do not depend on z or x.
        latent: Number q of latent numbers.
        noise: For continuous tokens and depth 0: `shared` is one noise variance for all numbers of
            a sequence, `token` one for each.
    """

    def __init__(
        self, spec: SequenceSpec, size: Architecture, *, latent: int, noise: Noise
    ) -> None:
        super().__init__()
        self.tokens, self.latent = spec.tokens, latent
        self.shown, self.given = ShownTokens(spec), GivenTokens(spec)
        self.linear = size.depth == 0 and spec.kind == "continuous"
        self.head = TokenHead(spec, components=1)
        self.shared = noise == "shared"
        sizes = {"width": size.width, "depth": size.depth}
        numbers = spec.dim if self.linear else self.head.numbers
        self.decoder = Perceptron(latent + self.given.numbers, spec.tokens * numbers, **sizes)
        heads = latent if self.linear else 2 * latent
        self.encoder = Perceptron(spec.tokens * spec.dim, heads, **sizes)
        if self.linear:
            variance = positive(spec.variance)
            noises = variance.mean().reshape(1, 1) if self.shared else variance
            self.log_variance = nn.Parameter(noises.log())  # the tokens' noise, (N|1, d|1)
            self.log_width = nn.Parameter(torch.zeros(latent))  # the encoder's log-deviations

    def forward(self, z: Tensor, *given: Tensor) -> TokenLaw:
        """The (n, N) laws of the tokens for latents z (n, q)."""
        shown = torch.cat([z, self.given(given[0]).to(z)], 1) if given else z
        h = self.decoder(shown).reshape(len(z), self.tokens, -1)
        if not self.linear:
            law: TokenLaw = self.head(h)
            return law
        means = self.shown.mean + self.shown.deviation * h
        variance = self.log_variance.exp().expand_as(self.shown.mean)
        return MixtureOfGaussians(
            means.new_zeros(1, 1, 1), means[:, :, None], variance[None, :, None]
        )

    def encode(self, x: Tensor, rng: Randomness, *known: Tensor) -> tuple[Tensor, Tensor]:
        """A random latent z (n, q) for each sequence, and log q(z | x) (nats), (n,)."""
        h = self.encoder(self.shown(x).flatten(1))
        centre, log_width = (h, self.log_width) if self.linear else h.chunk(2, -1)
        log_width = log_width.clamp(-10, 3)
        e = rng.normal((len(x), self.latent)).to(h)
        log_q = -0.5 * (e.square() + LOG_2PI).sum(1) - log_width.sum(-1)
        return centre + log_width.exp() * e, log_q
