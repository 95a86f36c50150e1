"""Strided decoding: every s-th token from left to right, then the gaps all at once.

Source: this is nobody's paper; it shows what a stranger writes to add a family.
Signature: token predictor, shown the known tokens.
Assumption: the tokens between the strides are independent given those on them.
Budgets: `length` places that many tokens, those on the strides first; `steps` is ignored.
Known: KL is E[total correlation of the gaps given the strides], 0 on a Markov chain if s = 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.networks.signatures import TokenPredictor, TokenPredictorSignature
from capcheck.procedures.probe import OPTIONS, Probe, Row, State, Suspect


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Strided(Probe[TokenPredictor]):
    """Anchors one by one, then everything between them."""

    family: ClassVar[str] = "strided"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    anytime: ClassVar[frozenset[Axis]] = frozenset()

    stride: Annotated[int, Field(ge=1, description="distance of the anchors")] = 2

    @property
    def signature(self) -> TokenPredictorSignature:
        """Known tokens -> the law of every token."""
        return TokenPredictorSignature()

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """One anchor per state, then one state for the gaps."""
        state = start
        yield state
        for group in self._groups(spec.tokens, budget.length):
            tokens = state.tokens.clone()
            tokens[:, group] = network(state.tokens, state.placed).select(group).sample(rng)
            where = torch.zeros_like(state.placed)
            where[:, group] = True
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
        """The chain rule over groups."""
        known = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        log_q = x.new_zeros(len(x), dtype=spec.mean.dtype)
        for group in self._groups(spec.tokens, budget.length):
            log_q = log_q + network(x, known).select(group).log_prob(x[:, group]).sum(1)
            known = known.clone()
            known[:, group] = True
        rest = (~known[0]).nonzero()[:, 0].tolist()
        if rest:
            log_q = log_q + completion(x, known).select(rest).log_prob(x[:, rest]).sum(1)
        return LogDensity(values=log_q, method="chain rule over strides")

    def suspects(self) -> tuple[Suspect, ...]:
        """The gaps, drawn independently."""
        if self.stride == 1:
            return ()
        one = dataclasses.replace(self, stride=1)
        return (Suspect(failure="wrong factorisation", cure="a stride of one", probe=one),)

    def _groups(self, tokens: int, length: int) -> list[list[int]]:
        anchors = list(range(0, tokens, self.stride))
        gaps = [i for i in range(tokens) if i % self.stride]
        one_by_one = [[i] for i in anchors[:length]]
        return [group for group in (*one_by_one, gaps[: max(0, length - len(anchors))]) if group]
