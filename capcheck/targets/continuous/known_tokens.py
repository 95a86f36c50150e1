"""Which tokens rows know, which become known together, and which numbers are theirs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["TOGETHER", "learning_together", "numbers_of", "unknown_tokens"]

TOGETHER = 32  # most tokens that become known in one product


def numbers_of(tokens: Tensor, d: int) -> Tensor:
    """The numbers (r, m d) of tokens (r, m)."""
    return (tokens[..., None] * d + torch.arange(d, device=tokens.device)).flatten(1)


def unknown_tokens(known: Tensor) -> Tensor | None:
    """The tokens (r, U) in rising order that are not known, (r, N); None if U differs."""
    count = (~known).sum(1)
    if not bool((count == count[0]).all()):
        return None
    return (~known).nonzero()[:, 1].reshape(len(known), -1)


def learning_together(new: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (r,) with m new tokens each, (r, m), of tokens that are new or not, (n, N) bool.

    All rows learn together if they learn equally many tokens, and otherwise one token at a time.
    """
    count = new.sum(1)
    if bool((count == count[0]).all()):
        rows = torch.arange(len(new), device=new.device)
        tokens = new.nonzero()[:, 1].reshape(len(new), -1)
        yield from ((rows, some) for some in tokens.split(TOGETHER, 1) if some.shape[1])
        return
    rank = torch.where(new, new.cumsum(1), 0)
    for place in range(1, int(rank.max()) + 1):
        rows, token = (rank == place).nonzero(as_tuple=True)
        yield rows, token[:, None]
