"""Multi-token prediction: independent heads draw a block of tokens at once, without verification.

Source: Gloeckle et al. 2024, "Better & Faster Large Language Models via Multi-token Prediction",
https://arxiv.org/abs/2404.19737 (run with all of its heads and without verification).
Signature: token predictor. The network is shown the tokens before the block.
Assumption: the tokens of a block are independent given the tokens before the block.
Budgets: `length` is the number of tokens that are drawn, from the left, in blocks of `heads` tokens
of which the last one may be shorter; `steps` is ignored.
Given tokens: blocks consist of the other tokens. A block is shown the given tokens before its first
token only.
KL: exact, by the chain rule over blocks.
Known: at full length KL is the sum over blocks of E[total correlation of the block given the tokens
before it], and with one head the procedure is that of `gpt`. Verification removes the floor: see
`blockwise`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.procedures.groups import Group, Groupwise
from capcheck.procedures.probe import OPTIONS, Suspect
from capcheck.procedures.rows import Row

__all__ = ["MultiToken"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class MultiToken(Groupwise):
    """Draws blocks of tokens from independent heads."""

    family: ClassVar[str] = "multi_token"
    row: ClassVar[Row] = "length"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})

    heads: Annotated[int, Field(ge=1, description="number of tokens drawn at once")] = 4

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        """One group per block of `heads` tokens; the last block may be shorter."""
        placed = spec.free[:length]
        place = torch.arange(spec.tokens, device=spec.mean.device)
        blocks = (placed[i : i + self.heads] for i in range(0, len(placed), self.heads))
        return [Group(tokens=list(block), shown=place < block[0]) for block in blocks]

    def suspects(self) -> tuple[Suspect, ...]:
        """Independent draws within a block."""
        if self.heads == 1:
            return ()
        one = dataclasses.replace(self, heads=1)
        return (Suspect(failure="wrong factorisation", cure="one token at a time", probe=one),)
