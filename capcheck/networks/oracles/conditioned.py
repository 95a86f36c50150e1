"""A conditioned oracle is the oracle of p(x_rest | x_given), row by row, for given tokens.

The oracle of the whole law is made once. The oracle of a conditional law is made for the values of
the given tokens in a call, and is kept until a call has other values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.targets.conditional import conditional
from capcheck.targets.target import Target

__all__ = ["Conditioned", "OracleT"]

OracleT = TypeVar("OracleT")


@dataclass(kw_only=True, eq=False)
class Conditioned(Generic[OracleT]):
    """The oracles of a target and of its conditional laws.

    Attributes:
        target: Law of all tokens.
        make: Function that makes the oracle of a law, whose rows may have different laws.
    """

    target: Target
    make: Callable[[Target], OracleT]
    _latest: tuple[Tensor, Tensor, OracleT] | None = field(default=None, init=False)

    @functools.cached_property
    def whole(self) -> OracleT:
        """The oracle of the whole law, for calls without given tokens."""
        return self.make(self.target)

    def of_rest(self, tokens: Tensor, known: Tensor) -> tuple[OracleT, list[int]]:
        """The oracle of the unknown tokens given the known ones, and the indices of the unknown.

        Args:
            tokens: Tokens, (n, N, d), or (n, N) integers; values of unknown tokens mean nothing.
            known: Whether a token is known, (n, N) bool, the same in every row.

        Raises:
            InputError: Different tokens are known in different rows.
            UnfitError: There is no oracle for the conditional law.
        """
        mask = known[0]
        if bool((known != mask).any()):
            raise InputError("known must name the same tokens in every row, got different ones.")
        given, rest = (part.nonzero()[:, 0].tolist() for part in (mask, ~mask))
        values = tokens[:, given]
        if values.is_floating_point():
            values = values.to(self.target.dtype)
        held = self._latest
        if held is None or not (torch.equal(held[0], mask) and torch.equal(held[1], values)):
            law = conditional(self.target, given, values) if given else self.target
            held = (mask.clone(), values, self.make(law))
            self._latest = held
        return held[2], rest
