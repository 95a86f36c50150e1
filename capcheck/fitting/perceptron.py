"""A residual perceptron computes h_0 = silu(A x), h_{k+1} = h_k + W_k' silu(W_k h_k), B h_depth.

All maps have biases; with depth 0 the perceptron is the affine map B x. For a sequence, its input
is all tokens at once. If each token sees only some of the tokens, the perceptron is called once per
token, on a copy of the sequence in which the other tokens are masked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MaskedCopies", "Perceptron", "WholeSequence"]


class Perceptron(nn.Module):
    """A residual perceptron from R^inputs to R^outputs.

    Args:
        inputs: Dimension of the input.
        outputs: Dimension of the output.
        width: Units of a hidden layer.
        depth: Number of residual blocks; 0 for an affine map.
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
        """The outputs (n, outputs) for inputs x (n, inputs)."""
        h: Tensor = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.last(h)
        return out


class WholeSequence(nn.Module):
    """A perceptron over a whole sequence, in which every output sees every token.

    Args:
        tokens: Number N of tokens.
        channels: Features c of each token.
        outputs: Numbers for each token.
        width: See `Perceptron`.
        depth: See `Perceptron`.
    """

    def __init__(self, tokens: int, channels: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.map = Perceptron(tokens * channels, tokens * outputs, width=width, depth=depth)

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        return self.map.last

    def forward(self, h: Tensor, seen: Tensor | None = None) -> Tensor:
        """The outputs (n, N, outputs) for features h (n, N, c); `seen` is ignored."""
        out: Tensor = self.map(h.flatten(1)).reshape(*h.shape[:2], -1)
        return out


class MaskedCopies(nn.Module):
    """A perceptron called once per token i, on the sequence without the tokens that i cannot see.

    Further inputs are which tokens i sees, and i itself, as a one-hot vector.

    Args:
        tokens: Number N of tokens.
        channels: Features c of each token.
        outputs: Numbers for each token.
        width: See `Perceptron`.
        depth: See `Perceptron`.
    """

    def __init__(self, tokens: int, channels: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.map = Perceptron(tokens * (channels + 2), outputs, width=width, depth=depth)

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        return self.map.last

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        """The outputs (n, N, outputs) for features h.

        Args:
            h: Features of the tokens, (n, N, c).
            seen: Whether output i sees token j, (n|1, N, N) bool, indexed [.., i, j].
        """
        n, N, _ = h.shape
        mask = seen.expand(n, N, N)[..., None].to(h)  # (n, i, j, 1)
        which = torch.eye(N).to(h)[None, :, :, None].expand(n, N, N, 1)
        copies = torch.cat([h[:, None] * mask, mask, which], 3)  # (n, i, j, c + 2)
        out: Tensor = self.map(copies.reshape(n * N, -1)).reshape(n, N, -1)
        return out
