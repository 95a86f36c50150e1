"""Prices of unmasking schedules by an information curve, and the best schedules by these prices.

The price of a schedule in uniformly random order is the mean over orders of KL, exact by an exact
curve, else a mean over the rows of a measured one with its interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sklearn.isotonic import isotonic_regression
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.divergences.estimate import t_quantile
from capcheck.exact.information_curve import InformationCurve
from capcheck.procedures.orders import uniform_schedule
from capcheck.procedures.unmasking_schedules import best_schedules, cosine_schedule
from capcheck.results.decoding import Quantity, Rule, SchedulePrice

__all__ = ["FEW_CALLS", "MOST_NODES", "ROUNDING", "Pricing", "plain_starts"]

ROUNDING = 1e-12  # nats per token that sums of entropies may be off by
FEW_CALLS = 16  # calls up to which a long sequence's best schedules know all sizes of plain ones
MOST_NODES = 1024  # most sizes at which a best schedule may begin a step: seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class Pricing:
    """The prices of schedules by a curve.

    Attributes:
        curve: The information curve.
        spec: Spec of the sequences.
        tolerance: Tolerance of KL, in nats per token.
        level: Confidence of the intervals.
    """

    curve: InformationCurve
    spec: SequenceSpec
    tolerance: float
    level: float

    def schedules(self, calls: Sequence[int]) -> tuple[list[SchedulePrice], SchedulePrice]:
        """The prices of all rules by number of calls, and that of fewest calls that suffices."""
        N = self.spec.tokens
        # A best schedule is chosen by one half of the rows and priced by the other, which it does
        # not know: its price is not flattered by noise.
        middle = 0 if self.curve.rows is None else len(self.curve.rows) // 2
        choosing, others = (
            self.curve.of_rows(half) for half in (slice(middle), slice(middle, None))
        )
        best = _best(choosing, calls, lambda schedule: self.price("best", schedule, others))
        prices = [
            price
            for k in calls
            for price in (
                self.price("uniform", uniform_schedule(N, k), self.curve),
                self.price("cosine", cosine_schedule(N, k), self.curve),
                best[k],
            )
        ]
        plain = [one for one in prices if one.suffices and one.rule != "best"]
        return prices, min([_fewest(best), *plain], key=lambda one: one.calls)

    def price(self, rule: Rule, schedule: Sequence[int], curve: InformationCurve) -> SchedulePrice:
        """The price of a schedule by a curve, or by all rows where there was nothing to choose."""
        calls = len(schedule) - 1
        if calls == self.spec.tokens:  # one token at a time
            kl = Quantity(value=0.0, low=0.0, high=0.0)
        else:
            source = curve if calls > 1 else self.curve
            of_sequence = self.mean(source.costs_by_row(schedule), source.cost(schedule))
            kl = of_sequence.scaled(1 / len(self.spec.counted))
        placed = tuple(after - before for before, after in itertools.pairwise(schedule))
        return SchedulePrice(rule=rule, placed=placed, kl=kl, suffices=kl.high <= self.tolerance)

    def heights(self) -> tuple[Quantity, ...]:
        """The curve with its intervals, in nats."""
        rows, reach = self.curve.rows, self._reach / self.spec.tokens
        columns = [None] * len(self.curve.sizes) if rows is None else rows.unbind(1)
        values = zip(columns, self.curve.values.tolist(), strict=True)
        return tuple(self.mean(column, value, reach=reach) for column, value in values)

    def mean(self, by_row: Tensor | None, value: float, *, reach: float | None = None) -> Quantity:
        """A mean over rows with its t interval, or an exact value; rounding errors are 0.

        Where all rows are equal, the interval is what a single row that differs could do.

        Args:
            by_row: The values of the rows, (n,), or None of an exact value.
            value: Their mean.
            reach: Largest difference that a row could make; by default that of a sequence.
        """
        rounding, reach = ROUNDING * self.spec.tokens, self._reach if reach is None else reach
        value, half = 0.0 if abs(value) < rounding else value, 0.0
        if by_row is not None:
            n, deviation = len(by_row), float(by_row.std())
            half = t_quantile(self.level, n - 1) * deviation / math.sqrt(n)
            if deviation < rounding and math.isfinite(reach):
                half = reach / n
        return Quantity(value=value, low=value - half, high=value + half)

    @property
    def _reach(self) -> float:
        """Largest surprise of a sequence of independent even symbols, in nats."""
        spec = self.spec
        return spec.tokens * math.log(max(spec.dim, 2)) if spec.kind == "categorical" else math.inf


def _best(
    choosing: InformationCurve,
    calls: Sequence[int],
    priced: Callable[[Sequence[int]], SchedulePrice],
) -> dict[int, SchedulePrice]:
    """The best schedules by their number of calls: of those asked for, and others.

    One token at a time is among them, and of an exact curve all up to one that suffices.
    """
    N = choosing.tokens
    sizes = _thinned(choosing.sizes, N, calls)
    place = [choosing.sizes.index(m) for m in sizes]
    # No curve rises, so that one which does is noise.
    values = isotonic_regression(choosing.values[place].numpy(), increasing=False)
    best = {N: priced(range(N + 1))}
    for k, (_, schedule) in enumerate(best_schedules(N, sizes, values), start=1):
        best[k] = priced(_cheaper(choosing, schedule) if k in calls else schedule)
        if choosing.is_exact and best[k].suffices and k >= max(calls):
            break
    for k in set(calls) - set(best):  # more calls than sizes
        best[k] = priced(_cheaper(choosing, uniform_schedule(N, k)))
    return best


def _fewest(best: dict[int, SchedulePrice]) -> SchedulePrice:
    """The best schedule of fewest calls that suffices, with all of more calls that are known.

    Tests in a fixed order, from many calls down to the first that fails, hold their level together.
    """
    falling = [best[k] for k in sorted(best, reverse=True)]
    return list(itertools.takewhile(lambda one: one.suffices, falling))[-1]


def _cheaper(curve: InformationCurve, schedule: list[int]) -> list[int]:
    """The schedule, or a uniform or cosine one of as many steps that costs less."""
    k = len(schedule) - 1
    plain = [make(curve.tokens, k) for make in (uniform_schedule, cosine_schedule)]
    measured = [one for one in plain if set(one[:-1]) <= set(curve.sizes)]
    return min([schedule, *measured], key=curve.cost)


def _thinned(sizes: Sequence[int], tokens: int, calls: Sequence[int]) -> list[int]:
    """At most about `MOST_NODES` of the sizes, with those at which few steps begin."""
    if len(sizes) <= MOST_NODES:
        return list(sizes)
    few = plain_starts(tokens, [k for k in calls if k <= FEW_CALLS])
    kept = {*range(0, tokens, math.ceil(tokens / MOST_NODES)), *few, tokens - 1}
    return [m for m in sizes if m in kept]


def plain_starts(tokens: int, calls: Sequence[int]) -> set[int]:
    """The numbers of known tokens at which uniform and cosine schedules begin their steps.

    Args:
        tokens: Number N of tokens.
        calls: Numbers of steps, each from 1 to N.
    """
    schedules = [
        make(tokens, k) for k in calls if k < tokens for make in (uniform_schedule, cosine_schedule)
    ]
    return {m for schedule in schedules for m in schedule[:-1]}
