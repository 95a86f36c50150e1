"""GPT: draws tokens one after another from left to right, x_i ~ p(x_i | x_<i) for i = 1..l.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training".
Signature: token predictor. For token i the network is shown the tokens before i, or only the last
`window` of them. With `softmax_rank` = r the matrix of its logits, one row for each context, has a
rank of at most r.
Assumption: none by default; with a window, x_i is independent of the tokens before the window given
the tokens in the window.
Budgets: `length` is the number l of tokens that are drawn, from the left; `steps` is ignored.
Given tokens: a given token before token i is shown as far as the window reaches. A given token
after token i is not shown, which costs sum_i I(x_i; given x_>i | x_<i).
KL: exact, by the chain rule.
Known: KL at length l is the conditional total correlation of the tokens that were not drawn,
E[log p(x_>l | x_<=l)] - sum_{i>l} E[log p(x_i | x_<=l)]. A window of w tokens costs
sum_i I(x_i; x_{<i-w} | x_{i-w..i-1}). A softmax of rank r is exact if and only if r is at least the
rank of the matrix log p(v | x_<i), one row for each context, after the mean of each row is
subtracted.
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
from capcheck.procedures.probe import OPTIONS, Suspect
from capcheck.procedures.rows import Row

__all__ = ["GPT"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class GPT(Groupwise):
    """Autoregressive sampling from left to right."""

    family: ClassVar[str] = "gpt"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    anytime: ClassVar[frozenset[Axis]] = frozenset({"length"})

    window: Annotated[
        int | None,
        Field(ge=0, description="previous tokens that are seen; all by default"),
    ] = None
    softmax_rank: Annotated[
        int | None,
        Field(ge=1, description="largest rank of the logits over all contexts; full by default"),
    ] = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        """Refuse both limits at once: the best low-rank softmax is known for full prefixes."""
        if self.window is not None and self.softmax_rank is not None:
            raise ValueError("window and softmax_rank exclude each other; give one of them")
        return self

    @property
    def signature(self) -> Signature[TokenPredictor]:
        """The token predictor; with a `softmax_rank` it predicts the next token only."""
        if self.softmax_rank is None:
            return TokenPredictorSignature()
        return LowRankPredictorSignature(self.softmax_rank)

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        """One group per token: x_i ~ p(x_i | the last `window` tokens before i), i = 1..l."""
        place = torch.arange(spec.tokens, device=spec.mean.device)
        reach = spec.tokens if self.window is None else self.window
        return [
            Group(tokens=[i], shown=(place >= i - reach) & (place < i)) for i in spec.free[:length]
        ]

    def suspects(self) -> tuple[Suspect, ...]:
        """The window or the rank of the softmax, if either is limited."""
        unlimited = dataclasses.replace(self, window=None, softmax_rank=None)
        if self == unlimited:
            return ()
        cure = "a softmax of full rank" if self.window is None else "the whole past in the window"
        return (Suspect(failure="limited emission", cure=cure, probe=unlimited),)
