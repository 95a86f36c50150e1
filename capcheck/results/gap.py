"""A gap is a divergence split into the parts of the procedure, the network and the arithmetic."""

from __future__ import annotations

import math
from typing import Literal

from capcheck.core.budget import Budget
from capcheck.core.record import Record

__all__ = ["Gap", "Part", "PartName"]

PartName = Literal["structural", "network", "objective", "numerics", "total"]


class Part(Record):
    """One part of a divergence.

    Attributes:
        name: `structural` (procedure with its oracle), `network` (`objective` if the network was
            fitted end to end), `numerics`, or the `total` of these.
        value: The part in the unit of the divergence; negative if the change improves on the stage
            before.
        low: Lower end of the interval.
        high: Upper end of the interval.
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
    """One divergence of one cell, split into parts.

    Attributes:
        budget: Budget of the cell.
        divergence: Name of the divergence.
        level: Confidence of each interval.
        parts: The parts in the order in which they are added, then the total; empty if unknown.
        reason: The reason why the parts are unknown, or a remark on them, or empty.
    """

    budget: Budget
    divergence: str
    level: float
    parts: tuple[Part, ...] = ()
    reason: str = ""

    def part(self, name: PartName) -> Part | None:
        """The part with a name, or None."""
        return next((part for part in self.parts if part.name == name), None)
