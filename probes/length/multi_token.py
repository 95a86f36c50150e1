"""Multi-token prediction: independent heads draw the next tokens at once, and nobody verifies them.

Source: Gloeckle et al. 2024, "Better & Faster Large Language Models via Multi-token Prediction",
run with all of its heads and without verification.
Signature: token predictor, shown the tokens before the block.
Assumption: the tokens of a block are independent given the prefix.
Budgets: `length` places that many tokens from the left, the last block cut; `steps` is ignored.
Known: KL is the sum over blocks of E[total correlation of the block given the prefix]; one head is
gpt. Verification removes the floor: see blockwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.budget import Budget
from capcheck.probe import OPTIONS, LogDensity, Probe, Row, State, Suspect
from capcheck.randomness import Randomness
from capcheck.sequences import Kind, SequenceSpec
from capcheck.signatures import TokenPredictor, TokenPredictorSignature


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class MultiToken(Probe[TokenPredictor]):
    """Blocks of tokens from independent heads."""

    family: ClassVar[str] = "multi_token"
    row: ClassVar[Row] = "length"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})

    heads: Annotated[int, Field(ge=1, description="tokens that are drawn at once")] = 4

    @property
    def signature(self) -> TokenPredictorSignature:
        """Known tokens -> the law of every token."""
        return TokenPredictorSignature()

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        n: int,
        rng: Randomness,
    ) -> Iterator[State]:
        """x_i ~ p(x_i | prefix) for every i of a block, one block per state."""
        state = State.blank(spec, n)
        yield state
        for block in self._blocks(budget.length):
            tokens = state.tokens.clone()
            tokens[:, block] = network(state.tokens, state.placed).select(block).sample(rng)
            where = torch.zeros_like(state.placed)
            where[:, block] = True
            state = state.write(tokens, where)
            yield state

    def log_density(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity:
        """The sum over blocks, and over what is completed."""
        n, N = x.shape[:2]
        place = torch.arange(N, device=x.device).expand(n, N)
        log_q = x.new_zeros(n, dtype=spec.mean.dtype)
        rest = list(range(budget.length, N))
        blocks = [(network, block) for block in self._blocks(budget.length)]
        for predictor, block in [*blocks, (completion, rest)] if rest else blocks:
            law = predictor(x, place < block[0]).select(block)
            log_q = log_q + law.log_prob(x[:, block]).sum(1)
        return LogDensity(values=log_q, method="chain rule over blocks, completed by marginals")

    def suspects(self) -> tuple[Suspect, ...]:
        """Tokens of a block, drawn independently."""
        if self.heads == 1:
            return ()
        one = dataclasses.replace(self, heads=1)
        return (Suspect(failure="wrong factorisation", cure="one token at a time", probe=one),)

    def _blocks(self, length: int) -> list[list[int]]:
        starts = range(0, length, self.heads)
        return [list(range(start, min(start + self.heads, length))) for start in starts]
