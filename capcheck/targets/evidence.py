"""The evidence of rows about the component of a mixture that they come from, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Evidence", "Prefix", "earlier"]

Prefix = Literal["all", "before", "through"]
"""Tokens whose evidence enters for token i: all, those before i, or those up to and with i."""


@dataclass(frozen=True)
class Evidence:
    """Evidence of n rows about their component: linear (n, N, d) and quadratic (n|1, N, d)."""

    linear: Tensor
    quadratic: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Evidence:
        shared = len(self.quadratic) == 1
        return Evidence(self.linear[rows], self.quadratic if shared else self.quadratic[rows])

    def __len__(self) -> int:
        return len(self.linear)

    def to(self, dtype: torch.dtype) -> Evidence:
        """The same evidence in another precision."""
        return Evidence(self.linear.to(dtype), self.quadratic.to(dtype))


def earlier(of_tokens: Tensor) -> Tensor:
    """Values (r, N, c) shifted by one token: each gets the previous one's, and the first gets 0.

    A cumulative sum of the result excludes each token's own value without subtracting it, which
    would lose digits to a large value.
    """
    return torch.cat([torch.zeros_like(of_tokens[:, :1]), of_tokens[:, :-1]], 1)
