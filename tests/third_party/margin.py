"""Margin decoding: a parallel decoder that commits every token about which its network is sure.

Source: the margin of Kim et al. 2025, "Train for the Worst, Plan for the Best", section 4, with a
threshold in place of a fixed number of tokens.
Signature: token predictor, shown the known tokens.
Assumption: the tokens of one round are independent given the known ones.
Budgets: `length` places that many tokens, the surest first; `steps` is ignored.
A round commits the tokens whose two best values have probabilities that differ by more than the
threshold, and the surest one in any case (of equal ones, to nine digits, the leftmost); each value
is drawn from its law.
Known: no margin exceeds 1, so that a threshold of 1 commits one token per round: exact. If all
margins exceed the threshold, KL is the total correlation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

import capcheck.authoring as author


@dataclass(frozen=True, kw_only=True, config=author.OPTIONS)
class Margin(author.Probe[author.TokenPredictor]):
    """Rounds that commit every sure token, and at least one."""

    family: ClassVar[str] = "margin"
    row: ClassVar[author.Row] = "length"
    kinds: ClassVar[frozenset[author.Kind]] = frozenset({"categorical"})
    reads: ClassVar[frozenset[author.Axis]] = frozenset({"length"})

    threshold: Annotated[float, Field(ge=0, le=1, description="margin of a sure token")] = 0.5

    @property
    def signature(self) -> author.TokenPredictorSignature:
        """Known tokens -> the law of every token."""
        return author.TokenPredictorSignature()

    def run(
        self,
        network: author.TokenPredictor,
        spec: author.SequenceSpec,
        budget: author.Budget,
        start: author.State,
        rng: author.Randomness,
    ) -> Iterator[author.State]:
        """One state per round, until every row has placed what it may."""
        state = start
        yield state
        left = torch.full_like(state.placed[:, 0], budget.length, dtype=torch.int64)  # (n,)
        while bool((left > 0).any()):
            law = network(state.tokens, state.placed)
            state = state.write(law.sample(rng), self.committed(law, state.placed, left))
            left = left - state.written.sum(1)
            yield state

    def committed(self, law: author.TokenLaw, known: Tensor, left: Tensor) -> Tensor:
        """(n, N) bool: the sure tokens of each row, at least 1 and at most `left` (n,)."""
        best = law.mean().topk(2, dim=-1).values  # (n, N, 2)
        margin = torch.where(known, -1, (best[..., 0] - best[..., 1]).round(decimals=9))
        rank = (-margin).sort(dim=1, stable=True).indices.argsort(1)  # 0 is the surest
        chosen: Tensor = (margin > self.threshold) | (rank == 0)
        return chosen & ~known & (rank < left[:, None])

    def suspects(self) -> tuple[author.Suspect, ...]:
        """Tokens of a round, drawn independently."""
        one = dataclasses.replace(self, threshold=1.0)
        cure = "one token per round"
        found = author.Suspect(failure="wrong factorisation", cure=cure, probe=one)
        return () if self == one else (found,)
