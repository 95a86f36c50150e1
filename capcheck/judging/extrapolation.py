"""An extrapolation is the number of steps that would suffice if the fitted rates went on.

A divergence of m times its tolerance (both in the unit of the divergence) at the largest number of
steps n, which falls like steps^-r (`capcheck.judging.rates`), is within its tolerance at

    n m^(1/r) steps, with the interval from n m_low^(1/r_high) to n m_high^(1/r_low),

and the extrapolation is the largest of these over all divergences. Its interval holds if the power
law does: it contains the errors of m and of r, and not that of leaving the measured range.

A divergence *demands* more steps if its interval at the largest budget lies above the tolerance, or
if it is resolved and its value does. One that does not demand more may still raise the upper end.
Divergences that are bounded only, and not refused, are left out: nothing shows that they exceed.

There is no extrapolation where a divergence that demands more steps has no positive rate whose
interval excludes 0 (it has a floor, or too few steps were measured), is infinite, or is only a
lower bound. Lengths are not extrapolated: they end at the number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from capcheck.core.budget import MOST_STEPS, Axis
from capcheck.divergences.estimate import Estimate
from capcheck.judging.resolution import available, is_resolved, multiple, tolerance_in_unit
from capcheck.results.family import FamilyResult, Rate
from capcheck.results.measurement import Outcome

__all__ = ["Extrapolation", "sufficient"]

_AXIS: Axis = "steps"


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """The budget along an axis that would suffice if the fitted rates went on.

    Attributes:
        axis: The axis, which is `steps`.
        budget: The budget, in steps; a real number above the largest measured one.
        low: Lower end of its interval.
        high: Upper end of its interval, or None if no number of steps that could be run is one.
        divergence: Name of the divergence that asks for the largest budget.
    """

    axis: Axis
    budget: float
    low: float
    high: float | None
    divergence: str

    def __str__(self) -> str:
        low = _rounded(self.low, math.floor)
        ends = f"{low} or more" if self.high is None else f"{low}, {_rounded(self.high, math.ceil)}"
        return f"about {_rounded(self.budget, math.ceil)} [{ends}] {self.axis}"


def sufficient(found: FamilyResult, tolerances: Mapping[str, float]) -> Extrapolation | None:
    """The number of steps at which all divergences would be within their tolerances.

    Args:
        found: Result of a family.
        tolerances: Tolerance of each divergence, in its tolerance unit.

    Returns:
        The extrapolation, or None if the largest budget is not refused, if some budget suffices, or
        if a divergence that demands more steps has no rate to go on with.
    """
    largest = found.cells[-1] if found.cells else None
    if largest is None or largest.outcome is not Outcome.NOT_REPRESENTABLE:
        return None
    if found.smallest_budget is not None:
        return None
    rates = {rate.divergence: rate for rate in found.rates if rate.axis == _AXIS}
    reaches = []
    for name, estimate in available(largest).items():
        bound = tolerance_in_unit(estimate, tolerances[name])
        demands = _demands(estimate, bound)
        if not demands and not _measured(estimate, bound):
            continue
        reach = _reach(largest.budget.steps, estimate, bound, rates.get(name))
        if reach is None and demands:
            return None
        if reach is not None:
            reaches.append((*reach, name))
    if not reaches:
        return None
    budget, _, _, name = max(reaches)
    high = max(reach[2] for reach in reaches)
    return Extrapolation(
        axis=_AXIS,
        budget=budget,
        low=max(reach[1] for reach in reaches),
        high=high if high <= MOST_STEPS else None,
        divergence=name,
    )


def _measured(estimate: Estimate, bound: float) -> bool:
    """Whether the divergence itself is measured, well enough to make a cell representable."""
    return estimate.kind in ("exact", "estimate") and is_resolved(estimate, bound)


def _demands(estimate: Estimate, bound: float) -> bool:
    """Whether a divergence is above its tolerance, as far as can be told."""
    if estimate.value is None or estimate.kind == "upper bound":
        return False
    refuses = estimate.interval(estimate.level)[0] > bound
    return refuses or (_measured(estimate, bound) and not estimate.value <= bound)


def _reach(
    n: int, estimate: Estimate, bound: float, rate: Rate | None
) -> tuple[float, float, float] | None:
    """The steps that one divergence asks for with both ends; None if that cannot be told."""
    if rate is None or rate.value is None or rate.low is None or rate.high is None:
        return None
    if estimate.value is None or estimate.kind == "lower bound" or not rate.low > 0:
        return None
    low, high = (multiple(end, bound) for end in estimate.interval(estimate.level))
    budget = _power(n, multiple(estimate.value, bound), rate.value)
    if not budget <= MOST_STEPS:
        return None
    return budget, _power(n, low, rate.high), _power(n, high, rate.low)


def _power(n: int, m: float, r: float) -> float:
    """n m^(1/r), and n for m within the tolerance; infinite where it is beyond any run."""
    exponent = math.log(max(m, 1.0)) / r
    return n * math.exp(exponent) if exponent < math.log(2.0 * MOST_STEPS) else math.inf


def _rounded(count: float, toward: Callable[[float], int]) -> str:
    """A number of steps in at most three digits, rounded up or down."""
    digits = max(0, math.floor(math.log10(max(count, 1))) - 2)
    exact = round(count / 10**digits, 6)  # so that 16.000000000000004 is not rounded up to 17
    return f"{toward(exact) * 10**digits:,}"
