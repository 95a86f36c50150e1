"""A claim: a published number, and the number that capcheck computes in its place.

A published number is kept as it is printed, so that its digits are known. It is matched if the
recomputed number rounds to these digits,

    |value - printed| <= half a unit of the last digit that is printed,

and where the number is estimated from draws, if its interval reaches a number that does. A whole
number without a decimal point is exact. Several numbers of one line count as one claim, whose
numbers all have to match. Some sources state an agreement in place of digits (an
order of convergence) or a bound; the claim then says so.

A number that is not matched is contradicted, unless a reason is stated: another convention, inputs
that are rounded, or what the source does not tell. Where that can be computed, `instead` is
capcheck's number under the convention of the source, and has to match what is printed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from capcheck.core.errors import InputError

__all__ = ["EXACT", "Claim", "Side", "Status", "closed_form", "digits"]

Side = Literal["printed", "closed form"]
Status = Literal["matched", "explained", "contradicted", "unavailable"]
EXACT = 1e-9  # largest difference from a whole number, which is exact, by rounding alone
SLACK = 1e-9  # share of a unit of the last digit by which a tie of rounding may be missed


def digits(value: float, places: int = 9) -> str:
    """A closed form as text, with so many places behind the point."""
    return f"{value:.{places}f}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published number beside the recomputed one.

    Attributes:
        source: Name of the source, one of `capcheck.published.SOURCES`.
        place: Where the number stands in the source.
        quantity: The number's meaning, with its unit.
        printed: The published number as text, or several with spaces between them; empty if the
            source could not be recomputed at all.
        side: Whether the source prints these digits, or a closed form whose value they are.
        by: The part of capcheck that computes the number, as a user would call it.
        value: The recomputed number, or as many as are printed; None if capcheck cannot compute it.
        low: Lower end of its interval where it is estimated from draws, else None.
        high: Upper end of its interval, else None.
        within: Largest difference at which the numbers agree, in place of digits; else None.
        at_least: Whether the published number is a bound that the recomputed one must reach.
        reason: Why the number is not matched, in one clause; empty if it is. With `instead` it
            ends so that "it is" and that number can follow.
        instead: The recomputed number under the convention of the source, which explains the
            difference only if it matches; None if the reason is no convention.

    Raises:
        InputError: `printed` is no number, there are not as many recomputed ones, or an interval
            has one end only or belongs to several numbers.
    """

    source: str
    place: str
    quantity: str
    printed: str
    side: Side = "printed"
    by: str
    value: float | Sequence[float] | None
    low: float | None = None
    high: float | None = None
    within: float | None = None
    at_least: bool = False
    reason: str = ""
    instead: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        for one in self.printed.split():
            try:
                Decimal(one)
            except InvalidOperation:
                raise InputError(
                    f"printed must be a number as it is printed, got {one!r}; write it without "
                    "its unit."
                ) from None
        for given in (self.value, self.instead):
            if given is not None and len(_listed(given)) != len(self.printed.split()):
                raise InputError(
                    f"value must have as many numbers as {self.printed!r}, got {given!r}."
                )
        single = len(self.printed.split()) == 1
        if (self.low is None) != (self.high is None) or (self.low is not None and not single):
            raise InputError("an interval needs both ends and a single number; give low and high.")

    @property
    def status(self) -> Status:
        """Whether the number is matched, explained, contradicted or unavailable."""
        if not self.printed:
            return "unavailable"
        if self.value is not None and self._agrees(self.value):
            return "matched"
        if self.reason and (self.instead is None or self._agrees(self.instead, estimated=False)):
            return "explained"
        return "contradicted"

    @property
    def estimated(self) -> bool:
        """Whether the recomputed number is estimated from draws."""
        return self.low is not None and self.high is not None and self.high - self.low > EXACT

    @property
    def shown(self) -> str:
        """The recomputed number: one digit more than is printed, or the digits of a closed form."""
        return "-" if self.value is None else self.written(self.value)

    def written(self, value: float | Sequence[float]) -> str:
        """Numbers in the digits of `shown`."""
        pairs = zip(self.printed.split(), _listed(value), strict=True)
        return " ".join(self._written(printed, one) for printed, one in pairs)

    def _written(self, printed: str, value: float) -> str:
        more = 1 if self.side == "printed" else 0
        mantissa, e, _ = printed.partition("e")
        places = len(mantissa.partition(".")[2])
        if e:
            return f"{value:.{places + more}e}"
        if not places:
            is_whole = self.within is None and abs(value - round(value)) <= EXACT
            return f"{round(value)}" if is_whole else f"{value:.3f}"
        return f"{value:.{places + more}f}"

    def _agrees(self, value: float | Sequence[float], *, estimated: bool = True) -> bool:
        """Whether numbers, or the interval of a single one, agree with what is printed."""
        ends = [(one, one) for one in _listed(value)]
        if estimated and self.low is not None and self.high is not None:
            ends = [(self.low, self.high)]
        pairs = zip(self.printed.split(), ends, strict=True)
        return all(self._one_agrees(printed, low, high) for printed, (low, high) in pairs)

    def _one_agrees(self, printed: str, low: float, high: float) -> bool:
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        expected, half = Decimal(printed), Decimal(repr(self._half_a_unit(printed)))
        if self.at_least:
            return Decimal(repr(low)) >= expected - half
        return Decimal(repr(low)) <= expected + half and Decimal(repr(high)) >= expected - half

    def _half_a_unit(self, printed: str) -> float:
        """Largest difference at which a number rounds to the digits that are printed."""
        if self.within is not None:
            return self.within
        exponent = Decimal(printed).as_tuple().exponent
        assert isinstance(exponent, int)  # true of finite numbers
        if "." not in printed:
            return EXACT
        return (0.5 + SLACK) * 10.0**exponent


def _listed(value: float | Sequence[float]) -> tuple[float, ...]:
    """A number, or several, as a tuple."""
    return tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)


def closed_form(
    place: str, quantity: str, closed: float, value: float, *, source: str, by: str
) -> Claim:
    """The claim of a closed form, which is written out to nine places.

    Args:
        place: As for `Claim`.
        quantity: As for `Claim`.
        closed: The closed form's value.
        value: The recomputed number.
        source: As for `Claim`.
        by: As for `Claim`.
    """
    return Claim(
        source=source,
        place=place,
        quantity=quantity,
        printed=digits(closed),
        side="closed form",
        by=by,
        value=value,
    )
