"""A figure is a number of a model's draws with its interval, beside the same number of the target.

The mean of one value per row has a t interval, as rows are independent. A number that does not
exist is None, and its method is the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from capcheck.core.record import Record
from capcheck.divergences.estimate import t_quantile

__all__ = ["Figure", "Mean"]


class Figure(Record):
    """A number of a model's draws beside that of the target.

    Attributes:
        value: The number; None if it does not exist; may be infinite.
        low: Lower end of its interval.
        high: Upper end of its interval.
        target: The same number of the target, or of as many of its own draws.
        target_low: Lower end of the interval of `target`.
        target_high: Upper end of the interval of `target`.
        rows: Number of draws that the number was computed from.
        method: Method of the number, or the reason why it does not exist.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    target: float | None = None
    target_low: float | None = None
    target_high: float | None = None
    rows: int = 0
    method: str

    def __str__(self) -> str:
        if self.value is None:
            return f"unavailable: {self.method}"
        own = "" if self.target is None else f", target {self.target:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]{own}"


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over independent rows.

    Attributes:
        value: The mean.
        variance: Variance of the mean, the square of its standard error.
        rows: Number of rows, at least 2.
    """

    value: float
    variance: float
    rows: int

    @classmethod
    def of(cls, values: Tensor) -> Mean | None:
        """The mean of one value per row, (n,); None of fewer than 2 rows."""
        if len(values) < 2:
            return None
        wide = values.double()
        variance = float(wide.var()) / len(wide)
        return cls(value=float(wide.mean()), variance=variance, rows=len(wide))

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided t interval at a level."""
        half = t_quantile(level, self.rows - 1) * math.sqrt(self.variance)
        return self.value - half, self.value + half

    def beside(
        self,
        target: Mean,
        *,
        level: float,
        method: str,
        scale: Callable[[float], float] = lambda mean: mean,
    ) -> Figure:
        """The figure of this mean beside the target's, both on a rising scale such as `exp`."""
        low, high = self.interval(level)
        target_low, target_high = target.interval(level)
        return Figure(
            value=scale(self.value),
            low=scale(low),
            high=scale(high),
            target=scale(target.value),
            target_low=scale(target_low),
            target_high=scale(target_high),
            rows=self.rows,
            method=method,
        )
