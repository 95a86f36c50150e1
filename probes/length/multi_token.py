"""Multi-token prediction: independent heads draw the next tokens at once, and nobody verifies them.

Source: Gloeckle et al. 2024, "Better & Faster Large Language Models via Multi-token Prediction",
run with all of its heads and without verification.
Signature: token predictor, shown the tokens before the block.
Assumption: the tokens of a block are independent given the prefix.
Budgets: `length` places that many tokens from the left, the last block cut; `steps` is ignored.
Given tokens: blocks are of the other tokens; a block sees given ones before its first token only.
Known: KL is the sum over blocks of E[total correlation of the block given the prefix]; one head is
gpt. Verification removes the floor: see blockwise.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.procedures.groups import Group, Groupwise
from capcheck.procedures.probe import OPTIONS, Row, Suspect

__all__ = ["MultiToken"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class MultiToken(Groupwise):
    """Blocks of tokens from independent heads."""

    family: ClassVar[str] = "multi_token"
    row: ClassVar[Row] = "length"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})

    heads: Annotated[int, Field(ge=1, description="tokens that are drawn at once")] = 4

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        """Blocks of as many tokens as there are heads, the last one cut."""
        placed = spec.free[:length]
        place = torch.arange(spec.tokens, device=spec.mean.device)
        blocks = (placed[i : i + self.heads] for i in range(0, len(placed), self.heads))
        return [Group(tokens=list(block), shown=place < block[0]) for block in blocks]

    def suspects(self) -> tuple[Suspect, ...]:
        """Tokens of a block, drawn independently."""
        if self.heads == 1:
            return ()
        one = dataclasses.replace(self, heads=1)
        return (Suspect(failure="wrong factorisation", cure="one token at a time", probe=one),)
