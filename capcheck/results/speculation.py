"""What speculative decoding gains: acceptance rates, tokens per round and per call, speed-ups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.record import Record
from capcheck.divergences.estimate import Term
from capcheck.procedures.speculation import Acceptances, accepted_length
from capcheck.results.decoding import Quantity

__all__ = ["COSTS", "Speculation", "SpeedUp"]

COSTS = (0.0, 0.05, 0.1, 0.5, 1.0)
"""Times of one call that drafts, in calls of the base model, at which speed-ups are told."""


class SpeedUp(Record):
    """Expected speed-ups against one call of the base model per token, at one cost of drafting.

    Attributes:
        cost: Time c of one call that drafts, in calls of the base model.
        block_drafter: Speed-up where one call drafts a whole block: tokens per round / (1 + c).
        token_drafter: Speed-up where a draft model is called once for each of the b - 1 drafts
            behind the base model's own token: accepted length / (1 + (b - 1) c).
    """

    cost: float
    block_drafter: Quantity
    token_drafter: Quantity


class Speculation(Record):
    """The acceptance of drafts, and the tokens per round and per call of speculative decoding.

    All numbers are without unit. A block of b tokens starts with the base model's own token, which
    is never refused; the places of its drafts are 2..b.

    Attributes:
        block: Number b of tokens of a block.
        acceptance: Probability that the draft of place m is accepted if those before it were, for
            m = 2..b; None where those before it never are.
        overlap: Mean over prefixes of sum_v min(p_m(v), q_m(v)), for m = 2..b: the probability that
            the draft of place m is accepted behind a prefix of the base model's law.
        alpha: Mean of `overlap` over the places, the acceptance rate; None of blocks of one token.
        accepted_length: Expected tokens per verification: the drafts that the round from the first
            token of a block has accepted, and one token of the base model. It is the number of
            tokens per call where the call that verifies also drafts, as published heads do.
        independent_length: The accepted length if every draft were accepted with probability alpha,
            whatever became of the others; None of blocks of one token.
        tokens_per_round: Number of tokens / expected number of rounds of `blockwise`, whose drafts
            end with their block, and are made behind the token that stands in for a refused one.
        tokens_per_call: Half of it: a round is one call that drafts and one that verifies.
        speed_ups: Speed-ups by cost of drafting.
        samples: Number of sequences that the numbers are means over.
        looked_at: Number of blocks of a sequence that were looked at, evenly spread.
        blocks: Number of blocks of a sequence.
        level: Confidence of the intervals, each by itself.
        method: What was averaged over, in a few words.
    """

    block: int
    acceptance: tuple[Quantity | None, ...]
    overlap: tuple[Quantity, ...]
    alpha: Quantity | None
    accepted_length: Quantity
    independent_length: float | None
    tokens_per_round: Quantity
    tokens_per_call: Quantity
    speed_ups: tuple[SpeedUp, ...]
    samples: int
    looked_at: int
    blocks: int
    level: float
    method: str

    @classmethod
    def of(
        cls, found: Acceptances, *, level: float = 0.95, costs: Sequence[float] = COSTS
    ) -> Speculation:
        """The record of acceptances, with t intervals over sequences.

        Args:
            found: The acceptances along n sequences. Of a single one that is not all there is, the
                intervals are the whole range of each number.
            level: Confidence of the intervals, between 0 and 1.
            costs: Times of one call that drafts, in calls of the base model, at least 0.

        Raises:
            InputError: A cost is negative or not finite.
        """
        of, b = _Means(found.exact, level), found.reached.shape[1]
        drafts = range(b - 1)
        alpha = of.mean(found.kept.mean(1), most=1) if b > 1 else None
        length = of.mean(found.reached.sum(1), least=1, most=b)
        per_round = of.tokens_per_round(found)
        return cls(
            block=b,
            acceptance=tuple(of.ratio(*found.reached[:, m : m + 2].T) for m in drafts),
            overlap=tuple(of.mean(found.kept[:, m], most=1) for m in drafts),
            alpha=alpha,
            accepted_length=length,
            independent_length=None if alpha is None else accepted_length(alpha.value, b - 1),
            tokens_per_round=per_round,
            tokens_per_call=per_round.scaled(1 / 2),
            speed_ups=tuple(
                SpeedUp(
                    cost=c,
                    block_drafter=per_round.scaled(1 / (1 + c)),
                    token_drafter=length.scaled(1 / (1 + (b - 1) * c)),
                )
                for c in map(_require_cost, costs)
            ),
            samples=len(found.rounds),
            looked_at=len(found.sizes),
            blocks=found.blocks,
            level=level,
            method=found.method,
        )


@dataclass(frozen=True)
class _Means:
    """Means over sequences as quantities with t intervals.

    Attributes:
        exact: Whether the sequences are all there are.
        level: Confidence of the intervals.
    """

    exact: bool
    level: float

    def mean(self, rows: Tensor, *, least: float = 0.0, most: float) -> Quantity:
        """The mean of n numbers, (n,), each from `least` to `most`."""
        return self._quantity(float(rows.mean()), rows, least, most, reach=most - least)

    def ratio(self, before: Tensor, after: Tensor) -> Quantity | None:
        """The mean of `after` in that of `before`, (n,) each, of which it is a part."""
        whole = float(before.mean())
        if whole == 0:
            return None
        value = float(after.mean()) / whole
        return self._quantity(value, (after - value * before) / whole, 0.0, 1.0, reach=1 / whole)

    def tokens_per_round(self, found: Acceptances) -> Quantity:
        """The number of tokens in that of rounds; a round makes two tokens of a block, or more."""
        most = sum(-(-size // 2) for size in found.sizes)
        rounds = self.mean(found.rounds, least=len(found.sizes), most=most)
        low, value, high = (sum(found.sizes) / r for r in (rounds.high, rounds.value, rounds.low))
        return Quantity(value=value, low=low, high=high)

    def _quantity(
        self, value: float, influence: Tensor, least: float, most: float, *, reach: float
    ) -> Quantity:
        """A value with its t interval, between the ends that it may have."""
        if self.exact:
            return Quantity(value=value, low=value, high=value)
        rows = influence.double().cpu().numpy()
        low, high = Term.from_influence("", value, [rows], reach=reach).interval(self.level)
        return Quantity(value=value, low=max(low, least), high=min(high, most))


def _require_cost(cost: float) -> float:
    """The cost of a call that drafts, if it is one."""
    if not 0 <= cost < math.inf:
        raise InputError(f"costs must be finite and at least 0, got {cost!r}; use 0 for no cost.")
    return cost
