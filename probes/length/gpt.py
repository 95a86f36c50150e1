"""GPT: token after token from left to right, x_i ~ p(x_i | x_<i) for i = 1..l.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training".
Signature: token predictor; it is shown the tokens before i, or the last `window` of them. With a
`softmax_rank` its logits, over all contexts, form a matrix of at most that rank.
Assumption: none without these; with a window, x_i is independent of what lies before it.
Budgets: `length` places that many tokens from the left; `steps` is ignored.
Given tokens: a prompt is seen as far as the window reaches; a given token to the right of i is not
seen at i, which costs sum_i I(x_i; given x_>i | x_<i).
Known: KL(l) is the conditional total correlation of what was not placed,
E[log p(x_>l | x_<=l)] - sum_{i>l} E[log p(x_i | x_<=l)]; a window of w tokens costs
sum_i I(x_i; x_{<i-w} | x_{i-w..i-1}); a softmax of rank r is exact iff r is at least the rank of
log p(v | x_<i), one row for each context, after each row's mean is subtracted.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from capcheck.core.budget import Axis
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.networks.signatures import (
    LowRankPredictorSignature,
    Signature,
    TokenPredictor,
    TokenPredictorSignature,
)
from capcheck.procedures.groups import Group, Groupwise
from capcheck.procedures.probe import OPTIONS, Row, Suspect

__all__ = ["GPT"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class GPT(Groupwise):
    """Autoregressive sampling from left to right."""

    family: ClassVar[str] = "gpt"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    anytime: ClassVar[frozenset[Axis]] = frozenset({"length"})

    window: Annotated[
        int | None, Field(ge=0, description="tokens of the past that are seen; all if not given")
    ] = None
    softmax_rank: Annotated[
        int | None,
        Field(ge=1, description="rank of the logits of all contexts; full if not given"),
    ] = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        """The best softmax of some rank is known for whole prefixes only."""
        if self.window is not None and self.softmax_rank is not None:
            raise ValueError("window and softmax_rank exclude each other; give one of them")
        return self

    @property
    def signature(self) -> Signature[TokenPredictor]:
        """Known tokens -> the law of every token, or of the next one where its rank is bounded."""
        if self.softmax_rank is None:
            return TokenPredictorSignature()
        return LowRankPredictorSignature(self.softmax_rank)

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        """x_i ~ p(x_i | x_<i), or given the last `window` of them, for i = 1..l."""
        place = torch.arange(spec.tokens, device=spec.mean.device)
        reach = spec.tokens if self.window is None else self.window
        return [
            Group(tokens=[i], shown=(place >= i - reach) & (place < i)) for i in spec.free[:length]
        ]

    def suspects(self) -> tuple[Suspect, ...]:
        """The window or the rank of the softmax, if there is one."""
        unlimited = dataclasses.replace(self, window=None, softmax_rank=None)
        if self == unlimited:
            return ()
        cure = "a softmax of full rank" if self.window is None else "the whole past in the window"
        return (Suspect(failure="limited emission", cure=cure, probe=unlimited),)
