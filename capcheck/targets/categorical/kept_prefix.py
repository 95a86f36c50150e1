"""The last forward message of a chain, kept from call to call while a prefix becomes known.

A procedure that draws tokens from left to right asks for the law of the next token again and again.
The message of the tokens that it knew before is still right, so that a call takes one step of the
recursion and not all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PARTS", "KeptPrefix"]

PARTS = 1024  # parts of rows whose messages are kept


@dataclass(frozen=True, eq=False)
class _Kept:
    """The message (n, S) to a token, and the tokens before it (n, i) with which are known."""

    token: int
    x: Tensor
    known: Tensor
    message: Tensor


class KeptPrefix:
    """Holds forward messages, each for one part of the rows of a call."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    def __reduce__(self) -> tuple[type[KeptPrefix], tuple[()]]:
        """Copies leave behind what is kept."""
        return KeptPrefix, ()

    def find(self, part: int, x: Tensor, known: Tensor, token: int) -> tuple[int, Tensor] | None:
        """A token at or before `token` and the message to it, if the one that is kept still holds.

        Args:
            part: Number of the part of the rows.
            x: Its tokens, (n, N).
            known: Which of them are known, (n, N).
            token: Index of the token that a message is needed for.
        """
        kept = self._kept.get(part)
        if kept is None or kept.token > token or len(kept.x) != len(x):
            return None
        before = slice(0, kept.token)
        same = (kept.x == x[:, before]) | ~kept.known
        if not torch.equal(kept.known, known[:, before]) or not bool(same.all()):
            return None
        return kept.token, kept.message

    def keep(self, part: int, x: Tensor, known: Tensor, token: int, message: Tensor) -> None:
        """Keep the message to a token; see `find`."""
        before = slice(0, token)
        self._kept[part] = _Kept(token, x[:, before].clone(), known[:, before].clone(), message)
        self._kept.move_to_end(part)
        while len(self._kept) > PARTS:
            self._kept.popitem(last=False)
