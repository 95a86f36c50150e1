"""A divergence in parts: the procedure's, the network's and the arithmetic's."""

from __future__ import annotations

import math
from typing import Literal

from capcheck.core.budget import Budget
from capcheck.core.record import Record

PartName = Literal["structural", "network", "objective", "numerics", "total"]


class Part(Record):
    """One part of a divergence.

    Attributes:
        name: `structural`, `network` (`objective` if it was fitted end to end), `numerics`, or the
            `total` of them.
        value: In the unit of the divergence; negative where the change made it better.
        low: Lower end of its interval.
        high: Upper end of it.
    """

    name: PartName
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.value):
            return f"{self.value:+g}"
        if self.low == self.high:
            return f"{self.value:+.3g}"
        return f"{self.value:+.3g} [{self.low:.3g}, {self.high:.3g}]"


class Gap(Record):
    """A divergence of one cell, in parts.

    Attributes:
        budget: Of the cell.
        divergence: Which.
        level: Confidence of each interval.
        parts: In the order in which they are added, and the total; empty if they are not known.
        reason: Why they are not known, or what else a reader should know.
    """

    budget: Budget
    divergence: str
    level: float
    parts: tuple[Part, ...] = ()
    reason: str = ""

    def part(self, name: PartName) -> Part | None:
        """The part of that name, if there is one."""
        return next((part for part in self.parts if part.name == name), None)
