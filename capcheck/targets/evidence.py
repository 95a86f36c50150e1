"""The evidence of rows about the component of a mixture that they come from, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Evidence", "HeldLogits", "Logits", "Prefix", "earlier"]

Prefix = Literal["all", "before", "through"]
"""Tokens whose evidence enters for token i: all, those before i, or those up to and with i."""


class HeldLogits:
    """Log-evidence of n rows about every component, which is updated in place.

    Attributes:
        values: (n, K) float64.
        version: Number of updates so far.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.version = 0


@dataclass(frozen=True)
class Logits:
    """Some rows of held log-evidence, as they were at one version of it.

    Attributes:
        held: The log-evidence.
        version: The version that belongs to the evidence.
        values: The rows of its values, (r, K).
    """

    held: HeldLogits
    version: int
    values: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Logits:
        return Logits(self.held, self.version, self.values[rows])


@dataclass(frozen=True)
class Evidence:
    """Evidence of n rows about their component, token by token.

    Attributes:
        linear: Factor of a component's mean, (n, N, d).
        quadratic: Factor of the square of a component's mean, (n|1, N, d).
        known: Log-evidence of all tokens about every component, if it is held; it is computed from
            the other attributes otherwise, and once what is held has been updated.
    """

    linear: Tensor
    quadratic: Tensor
    known: Logits | None = None

    def __getitem__(self, rows: slice | Tensor) -> Evidence:
        quadratic = self.quadratic if len(self.quadratic) == 1 else self.quadratic[rows]
        known = None if self.known is None else self.known[rows]
        return Evidence(self.linear[rows], quadratic, known)

    def __len__(self) -> int:
        return len(self.linear)

    def to(self, dtype: torch.dtype) -> Evidence:
        """The same evidence in another precision; logits are kept in float64 only."""
        known = self.known if dtype == torch.float64 else None
        return Evidence(self.linear.to(dtype), self.quadratic.to(dtype), known)

    @property
    def logits(self) -> Tensor | None:
        """Log-evidence of all tokens about every component, (n, K), if held and up to date."""
        if self.known is None or self.known.version != self.known.held.version:
            return None
        return self.known.values


def earlier(of_tokens: Tensor) -> Tensor:
    """Values (r, N, c) shifted by one token: each gets the previous one's, and the first gets 0.

    A cumulative sum of the result excludes each token's own value without subtracting it, which
    would lose digits to a large value.
    """
    return torch.cat([torch.zeros_like(of_tokens[:, :1]), of_tokens[:, :-1]], 1)
