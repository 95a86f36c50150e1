"""A transformer whose tokens attend to the tokens that they see, softmax(Q K^T / sqrt(k)) V.

It consists of pre-normalised blocks of attention and a two-layer perceptron, and adds a learned
vector for each position. Attention is written out, because energies are differentiated twice.

Source: Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["HEAD", "Transformer"]

HEAD = 32  # largest dimension k of an attention head


class Transformer(nn.Module):
    """A transformer over a sequence of N tokens.

    Args:
        tokens: Number N of tokens.
        channels: Features c of each token.
        outputs: Numbers for each token.
        width: Hidden features of each token.
        depth: Number of blocks; with 0, each token is mapped affinely and by itself.
    """

    def __init__(self, tokens: int, channels: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, width)
        self.place = nn.Parameter(0.1 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.last = nn.Linear(width, outputs)

    def forward(self, h: Tensor, seen: Tensor | None = None) -> Tensor:
        """The outputs (n, N, outputs) for features h.

        Args:
            h: Features of the tokens, (n, N, c).
            seen: Whether token i sees token j, (n|1, N, N) bool, indexed [.., i, j]; None if all
                tokens see each other. Every token must see itself. If i sees j, then i must also
                see every token that j sees, because information spreads over the blocks.
        """
        h = self.first(h) + self.place
        for block in self.blocks:
            h = block(h, seen)
        out: Tensor = self.last(h)
        return out


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        fitting = (k for k in range(min(HEAD, width), 0, -1) if width % k == 0)
        self.heads = width // next(fitting)
        self.before = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.each = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, h: Tensor, seen: Tensor | None) -> Tensor:
        n, N, width = h.shape
        parts = self.qkv(self.before(h)).reshape(n, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        Q, K, V = parts.unbind(0)  # (n, heads, N, k)
        score = Q @ K.transpose(2, 3) / Q.shape[-1] ** 0.5
        if seen is not None:
            score = score.masked_fill(~seen[:, None], -torch.inf)
        mixed = (score.softmax(-1) @ V).transpose(1, 2).reshape(n, N, width)
        h = h + self.joined(mixed)
        h = h + self.each(h)
        return h
