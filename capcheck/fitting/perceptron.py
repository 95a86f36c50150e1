"""Perceptron: h_0 = silu(A x), h_{k+1} = h_k + W_k' silu(W_k h_k), out = B h_depth.

With depth 0 it is the affine map B x. Over a sequence it is shown all tokens at once; where each
token has a view of its own, it is shown one copy of the sequence for each, with the rest masked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MaskedCopies", "Perceptron", "WholeSequence"]


class Perceptron(nn.Module):
    """R^inputs -> R^outputs, a residual perceptron.

    Args:
        inputs: Numbers in.
        outputs: Numbers out.
        width: Numbers of a hidden layer.
        depth: Residual blocks; 0 for an affine map.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        hidden = width if depth else inputs
        self.first = nn.Sequential(nn.Linear(inputs, width), nn.SiLU()) if depth else nn.Identity()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.last = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) -> (n, outputs)."""
        h: Tensor = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.last(h)
        return out


class WholeSequence(nn.Module):
    """(n, N, c) -> (n, N, out): every output sees every token.

    Args:
        tokens: N.
        channels: c.
        outputs: Numbers for each token.
        width: See `Perceptron`.
        depth: See `Perceptron`.
    """

    def __init__(self, tokens: int, channels: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.map = Perceptron(tokens * channels, tokens * outputs, width=width, depth=depth)

    @property
    def last(self) -> nn.Linear:
        """The layer that makes the output."""
        return self.map.last

    def forward(self, h: Tensor, seen: Tensor | None = None) -> Tensor:
        """Map; `seen` has no say, as everything is."""
        out: Tensor = self.map(h.flatten(1)).reshape(*h.shape[:2], -1)
        return out


class MaskedCopies(nn.Module):
    """(n, N, c) -> (n, N, out): output i is shown the tokens that i sees, and i.

    Args:
        tokens: N.
        channels: c.
        outputs: Numbers for each token.
        width: See `Perceptron`.
        depth: See `Perceptron`.
    """

    def __init__(self, tokens: int, channels: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.map = Perceptron(tokens * (channels + 2), outputs, width=width, depth=depth)

    @property
    def last(self) -> nn.Linear:
        """The layer that makes the output."""
        return self.map.last

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        """Map.

        Args:
            h: (n, N, c).
            seen: (n|1, N, N) bool, [.., i, j] whether output i sees token j.
        """
        n, N, _ = h.shape
        mask = seen.expand(n, N, N)[..., None].to(h)  # (n, i, j, 1)
        which = torch.eye(N).to(h)[None, :, :, None].expand(n, N, N, 1)
        copies = torch.cat([h[:, None] * mask, mask, which], 3)  # (n, i, j, c + 2)
        out: Tensor = self.map(copies.reshape(n * N, -1)).reshape(n, N, -1)
        return out
