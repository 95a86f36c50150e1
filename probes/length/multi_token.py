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
`blockwise`. It would accept the draft of a head with probability sum_v min(p(v), q(v)), where q is
the head's law and p that of the first head behind all tokens before.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.networks.signatures import TokenPredictor
from capcheck.procedures.groups import Group, Groupwise
from capcheck.procedures.probe import OPTIONS, Suspect
from capcheck.procedures.rows import Row
from capcheck.procedures.speculation import Acceptances, acceptances

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
        one = self.base_model
        return (Suspect(failure="wrong factorisation", cure="one token at a time", probe=one),)

    @property
    def base_model(self) -> MultiToken:
        """The same procedure with one head, whose law is the base model's."""
        return dataclasses.replace(self, heads=1)

    def speculation(self, network: TokenPredictor, spec: SequenceSpec, x: Tensor) -> Acceptances:
        """The drafts of the heads that a verification by the first head would accept.

        The procedure itself keeps all of them: `heads` tokens per call. The network is called once
        for every token of a block, of which some evenly spread ones are looked at; see
        `capcheck.procedures.speculation`.

        Args:
            network: As for `run`; calls are not counted.
            spec: As for `run`.
            x: (n, N, d), or (n, N) integers: draws of the law of `base_model`.

        Raises:
            InputError: The network gives a row of x no probability.
        """
        place = torch.arange(spec.tokens, device=x.device)

        def log_prob(tokens: list[int]) -> Tensor:
            law = network(x, (place < tokens[0]).expand(len(x), -1)).select(tokens)
            return law.log_prob(x[:, tokens])

        blocks = [group.tokens for group in self.groups(spec, len(spec.free))]
        return acceptances(log_prob, blocks, method="mean over draws of the base model's law")
