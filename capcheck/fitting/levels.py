"""Encoding of noisy tokens and their noise levels as inputs of a module.

A noisy token alpha x_0 + sigma e has mean alpha m and variance S^2 = alpha^2 v + sigma^2, and is
standardised by them. Its level t is encoded as t and as cosines and sines of (pi / 2) 2^k t, for
k = 0..OCTAVES - 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.heads import positive
from capcheck.noise.paths import PATHS, PathName

__all__ = ["LEVEL_CHANNELS", "OCTAVES", "NoisyTokens", "level_features"]

OCTAVES = 6  # number of frequencies that encode a level
LEVEL_CHANNELS = 1 + 2 * OCTAVES  # numbers that encode a level


def level_features(t: Tensor) -> Tensor:
    """The encoding (n, N, LEVEL_CHANNELS) of levels t (n, N)."""
    angle = t[..., None] * (0.5 * math.pi * 2.0 ** torch.arange(OCTAVES).to(t))
    return torch.cat([t[..., None], angle.cos(), angle.sin()], -1)


class NoisyTokens(nn.Module):
    """Mean and standard deviation of noisy tokens on a noise path.

    Args:
        spec: Spec of the clean tokens.
        path: Name of the noise path.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, spec: SequenceSpec, path: PathName) -> None:
        super().__init__()
        self.path = PATHS[path]
        self.register_buffer("mean", spec.mean.float())
        self.register_buffer("variance", positive(spec.variance))

    def amplitudes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitudes alpha and sigma at levels t (n, N): (n, N, 1) each."""
        return self.path.alpha(t)[..., None], self.path.sigma(t)[..., None]

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean alpha m and deviation S of the noisy tokens at levels t (n, N): (n, N, d) each."""
        alpha, sigma = self.amplitudes(t)
        return alpha * self.mean, (alpha.square() * self.variance + sigma.square()).sqrt()
