"""Modules of noisy tokens: denoisers, flow maps, consistency functions and transitions.

Denoisers, flow maps and consistency functions are exact on independent Gaussian tokens before any
training; their trunk F learns the correction for other laws. With the clean token's mean m and
variance v, and S_t^2 = alpha_t^2 v + sigma_t^2, coordinate by coordinate, a denoiser is

    m + (alpha_t v / S_t^2) (x_t - alpha_t m) + (sigma_t sqrt(v) / S_t) F(x_t, t)

and a flow map is alpha_s m + (S_s / S_t) (x_t - alpha_t m) + S_s (t - s) F(x_t, t, s).

Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
section 5 (preconditioning), https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.architecture import Architecture
from capcheck.fitting.heads import MixtureHead
from capcheck.fitting.levels import LEVEL_CHANNELS, NoisyTokens, level_features
from capcheck.fitting.perceptron import MaskedCopies, WholeSequence
from capcheck.fitting.transformer import Transformer
from capcheck.laws import MixtureOfGaussians
from capcheck.networks.signatures.denoiser import View
from capcheck.noise.paths import PathName

__all__ = [
    "KNOTS",
    "ConsistencyModule",
    "DenoiserModule",
    "FlowMapModule",
    "LinearByLevel",
    "TransitionModule",
    "silent",
    "trunk",
]

KNOTS = 48  # intervals between levels with own maps; the levels of 1..4, 6, 8, 12, 16 steps are met


def trunk(
    spec: SequenceSpec, size: Architecture, channels: int, outputs: int, *, masked: bool = False
) -> nn.Module:
    """The network that maps the tokens' features to outputs, (n, N, channels) -> (n, N, outputs).

    Args:
        spec: Spec of the sequences.
        size: Kind and size of the network.
        channels: Features of each token.
        outputs: Numbers for each token.
        masked: Whether the network must be told which tokens each token sees.
    """
    perceptron = MaskedCopies if masked else WholeSequence
    kind = Transformer if size.trunk == "transformer" else perceptron
    return kind(spec.tokens, channels, outputs, width=size.width, depth=size.depth)


def silent(network: nn.Module) -> nn.Module:
    """Set the weights of the trunk's last layer to 0, so that it returns 0 until it is trained."""
    last = network.last
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return network


class DenoiserModule(nn.Module):
    """A denoiser, (x_t, t) -> E[x_0 | the tokens that token i sees].

    Args:
        spec: Spec of the clean tokens.
        size: Kind and size of the trunk.
        path: Noise path.
        view: Which tokens token i sees.
    """

    def __init__(
        self, spec: SequenceSpec, size: Architecture, *, path: PathName, view: View
    ) -> None:
        super().__init__()
        self.view = view
        self.noisy = NoisyTokens(spec, path)
        self.trunk: nn.Module
        if size.depth == 0 and size.trunk == "mlp" and view != "own":
            self.trunk = LinearByLevel(spec, causal=view == "causal")
        else:
            channels = spec.dim + LEVEL_CHANNELS
            self.trunk = silent(trunk(spec, size, channels, spec.dim, masked=view != "all"))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], (n, N, d)."""
        alpha, sigma = self.noisy.amplitudes(t)
        m, v = self.noisy.mean, self.noisy.variance
        centre, S = self.noisy(t)
        x = (x_t - centre) / S
        if isinstance(self.trunk, LinearByLevel):
            F = self.trunk(x, t)
        else:
            F = self.trunk(torch.cat([x, level_features(t)], -1), self._seen(t))
        clean: Tensor = m + alpha * v / S * x + sigma * v.sqrt() / S * F
        return clean

    def _seen(self, t: Tensor) -> Tensor | None:
        N = t.shape[1]
        if self.view == "all":
            return None
        if self.view == "causal":
            return torch.ones(1, N, N, dtype=torch.bool, device=t.device).tril()
        return (t == 0)[:, None, :] | torch.eye(N, dtype=torch.bool, device=t.device)


class LinearByLevel(nn.Module):
    """The affine map A(t) x + b(t), with A and b learned at evenly spaced levels.

    Between these levels A and b are interpolated linearly.

    Args:
        spec: Spec of the tokens.
        causal: Whether token i sees only itself and the tokens before it.
    """

    mask: Tensor

    def __init__(self, spec: SequenceSpec, *, causal: bool) -> None:
        super().__init__()
        N, d = spec.tokens, spec.dim
        self.A = nn.Parameter(torch.zeros(KNOTS + 1, N, d, N, d))
        self.b = nn.Parameter(torch.zeros(KNOTS + 1, N, d))
        seen = torch.ones(N, N).tril() if causal else torch.ones(N, N)
        self.register_buffer("mask", seen[:, None, :, None])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(n, N, d) at levels (n, N) -> (n, N, d)."""
        at = (t * KNOTS).clamp(0, KNOTS)
        below = at.floor().clamp(max=KNOTS - 1)
        share = (at - below)[..., None]  # (n, N, 1)
        low, token = below.long(), torch.arange(t.shape[1], device=t.device)
        A = self.A * self.mask
        A_t = A[low, token].lerp(A[low + 1, token], share[..., None, None])  # (n, N, d, N, d)
        b_t = self.b[low, token].lerp(self.b[low + 1, token], share)
        return b_t + torch.einsum("nidje,nje->nid", A_t, x)


class FlowMapModule(nn.Module):
    """A flow map, (x_t, t, s) -> x_s.

    Args:
        spec: Spec of the clean tokens.
        size: Kind and size of the trunk.
        path: Noise path.
    """

    def __init__(self, spec: SequenceSpec, size: Architecture, *, path: PathName) -> None:
        super().__init__()
        self.noisy = NoisyTokens(spec, path)
        self.trunk = silent(trunk(spec, size, spec.dim + 2 * LEVEL_CHANNELS, spec.dim))

    def forward(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s, (n, N, d)."""
        centre_t, S_t = self.noisy(t)
        centre_s, S_s = self.noisy(s)
        x = (x_t - centre_t) / S_t
        F = self.trunk(torch.cat([x, level_features(t), level_features(s)], -1))
        x_s: Tensor = centre_s + S_s * (x + (t - s)[..., None] * F)
        return x_s


class ConsistencyModule(nn.Module):
    """A consistency function, (x_t, t) -> x_0: a flow map to level s = 0.

    Args:
        spec: Spec of the clean tokens.
        size: Kind and size of the trunk.
        path: Noise path.
    """

    def __init__(self, spec: SequenceSpec, size: Architecture, *, path: PathName) -> None:
        super().__init__()
        self.map = FlowMapModule(spec, size, path=path)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_0, (n, N, d)."""
        x_0: Tensor = self.map(x_t, t, torch.zeros_like(t))
        return x_0


class TransitionModule(nn.Module):
    """A transition predictor, (x, t, s) -> the law of every token at levels s, on the linear path.

    Args:
        spec: Spec of the clean tokens.
        size: Kind and size of the trunk.
    """

    def __init__(self, spec: SequenceSpec, size: Architecture) -> None:
        super().__init__()
        self.noisy = NoisyTokens(spec, "linear")
        self.head = MixtureHead(spec.dim, size.components)
        self.trunk = trunk(spec, size, spec.dim + 2 * LEVEL_CHANNELS, self.head.numbers)

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> MixtureOfGaussians:
        """The (n, N) laws of the tokens at levels s (N,)."""
        s = s.expand_as(t)
        centre_t, S_t = self.noisy(t)
        centre_s, S_s = self.noisy(s)
        x = (x - centre_t) / S_t
        h = self.trunk(torch.cat([x, level_features(t), level_features(s)], -1))
        law: MixtureOfGaussians = self.head(h, centre_s, S_s.square())
        return law
