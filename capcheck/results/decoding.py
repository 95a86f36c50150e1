"""A decoding plan: how many tokens a parallel decoder may place per step, and what is lost."""

from __future__ import annotations

import itertools
from typing import Literal

from capcheck.core.record import Record
from capcheck.targets.provenance import HeldOut

__all__ = ["DecodingPlan", "Quantity", "Rule", "SchedulePrice"]

Rule = Literal["uniform", "cosine", "best"]
"""How a schedule divides the tokens among its steps."""


class Quantity(Record):
    """A number with its interval; both ends equal the value if it is exact.

    Attributes:
        value: The number, in the unit of its field.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def scaled(self, factor: float) -> Quantity:
        """The number times a positive factor."""
        return Quantity(value=self.value * factor, low=self.low * factor, high=self.high * factor)


class SchedulePrice(Record):
    """The price of a schedule in uniformly random order, with exact conditionals.

    Attributes:
        rule: How the schedule divides the tokens.
        placed: Number of tokens that each step places, one for each model call.
        kl: Mean over orders of KL, in nats per token. The law that is sampled is the mixture over
            orders, whose KL is at most this.
        suffices: Whether the upper end of `kl` is within the tolerance.
    """

    rule: Rule
    placed: tuple[int, ...]
    kl: Quantity
    suffices: bool

    @property
    def calls(self) -> int:
        """Number of steps, each of which is one model call."""
        return len(self.placed)

    @property
    def steps_text(self) -> str:
        """The number of tokens of each step, with equal neighbours as one: `2 x 1, 2, 3 x 5`."""
        runs = [(size, len(list(steps))) for size, steps in itertools.groupby(self.placed)]
        return ", ".join(f"{count} x {size}" if count > 1 else str(size) for size, count in runs)


class DecodingPlan(Record):
    """How many tokens of a target a decoder in random order may place per step.

    Attributes:
        target: Name of the target, or a description of its law.
        law: Description of the law.
        held_out: Held-out likelihood of the law, or None if it was not built from rows.
        tokens: Number N of tokens.
        counted: Number of tokens that count in divergences; prices are told per such token.
        sizes: Numbers m of known tokens of the curve, rising from 0 to N - 1.
        curve: h(m), the mean of H(X_i | X_S) over sets S of m tokens, in nats, one for each size.
        entropy: Entropy of a sequence, in nats.
        total_correlation: sum_i H(X_i) - H(X): what one step loses, in nats per sequence.
        dual_total_correlation: H(X) - sum_i H(X_i | all others), in nats per sequence.
        prices: Prices of schedules, by number of calls and then by rule.
        cheapest: The schedule of fewest calls that was found to suffice; one token a step does.
        tolerance: Tolerance of KL, in nats per token.
        level: Confidence of the intervals.
        exact: Whether the curve is exact, so that all intervals are points.
        method: How the curve was found, in a few words.
        seed: Seed of the draws of a measured curve.
    """

    target: str
    law: str
    held_out: HeldOut | None = None
    tokens: int
    counted: int
    sizes: tuple[int, ...]
    curve: tuple[Quantity, ...]
    entropy: Quantity
    total_correlation: Quantity
    dual_total_correlation: Quantity
    prices: tuple[SchedulePrice, ...]
    cheapest: SchedulePrice
    tolerance: float
    level: float
    exact: bool
    method: str
    seed: int

    def price(self, calls: int, rule: Rule) -> SchedulePrice | None:
        """The price of a rule's schedule of so many calls, if it was asked for."""
        found = (one for one in self.prices if one.calls == calls and one.rule == rule)
        return next(found, None)
