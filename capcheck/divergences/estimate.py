"""An estimate: the value of a divergence with its interval, kind, method and sample count.

An estimator returns `Term`s, each with a value, a standard error and the mean influence of each of
`GROUPS` groups of sample rows. An estimate is the largest of its terms (one per bandwidth for MMD,
otherwise a single one), and its interval holds for all of them simultaneously.

Cells that share a seed share their rows, so the interval of the difference of two terms follows
from the groupwise differences. In addition to its terms, or in their place, an estimate may hold
certificates: terms that bound the divergence from below or from above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy import stats

from capcheck.core.record import Record

__all__ = ["GROUPS", "RESOLVED", "ROUNDING", "Estimate", "Kind", "Term", "t_quantile"]

RESOLVED = 0.25  # largest null standard error of a resolved divergence, in tolerances
ROUNDING = 1e-12  # size of a number that is shown as 0, as its digits are rounding errors
GROUPS = 50  # groups of rows: t intervals within 3% of normal ones, and few numbers to store

Kind = Literal["exact", "estimate", "upper bound", "lower bound", "two bounds", "unavailable"]


class Term(Record):
    """A functional of the samples, measured with a standard error.

    Attributes:
        label: Name of the functional, for example its bandwidth.
        value: Value in the unit of the estimate; may be infinite.
        standard_error: Standard error of the value; 0 if the value is exact.
        degrees: Degrees of freedom of the standard error.
        groups: The value plus the mean influence of each of the `GROUPS` groups of rows.
        shortfall: Amount by which the functional may lie below the divergence; the upper end of an
            interval includes it.
    """

    label: str
    value: float
    standard_error: float
    degrees: int
    groups: tuple[float, ...]
    shortfall: float = 0.0

    @classmethod
    def infinite(cls, label: str) -> Term:
        """A functional that is infinite because of some rows, whatever the other rows are."""
        return cls(label=label, value=math.inf, standard_error=0, degrees=1, groups=())

    @classmethod
    def from_influence(
        cls,
        label: str,
        value: float,
        influences: Sequence[np.ndarray],
        *,
        reach: float = 0.0,
    ) -> Term:
        """A term whose standard error follows from the influences of independent rows.

        Args:
            label: Name of the functional.
            value: Value of the functional.
            influences: One array (m,) for each independent sample set: for each row, the excess of
                the estimate over `value` if every row were like this one. Need not be centred.
            reach: Largest influence that a row could have. If all influences are equal, the
                standard error is reach / rows, the effect of a single row that differs.
        """
        if not math.isfinite(value):
            return cls(label=label, value=value, standard_error=0, degrees=1, groups=())
        centred = [influence - influence.mean() for influence in influences]
        rows = min(len(influence) for influence in centred)
        variance = sum(float(c.var(ddof=1)) / len(c) for c in centred if len(c) > 1)
        if variance == 0:
            variance = (reach / rows) ** 2
        groups = value + sum(_group_means(influence) for influence in centred)
        return cls(
            label=label,
            value=value,
            standard_error=math.sqrt(variance) if rows > 1 else math.inf,
            degrees=max(rows - 1, 1),
            groups=tuple(np.asarray(groups).tolist()),
        )

    def scaled(self, factor: float) -> Term:
        """The term multiplied by a factor, as for a unit that is 1 / factor as large."""
        return self.model_copy(
            update={
                "value": self.value * factor,
                "standard_error": self.standard_error * factor,
                "groups": tuple(group * factor for group in self.groups),
                "shortfall": self.shortfall * factor,
            }
        )

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided t interval at a level, whose upper end includes the shortfall."""
        if not math.isfinite(self.value):
            return self.value, self.value
        half = t_quantile(level, self.degrees) * self.standard_error if self.standard_error else 0.0
        return self.value - half, self.value + half + self.shortfall

    def p_within(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that functional plus shortfall is above `bound`."""
        return self._p_value(self.value + self.shortfall - bound)

    def p_above(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the functional is at most `bound`."""
        if self.value == bound and self.standard_error == 0:
            return 1.0
        return self._p_value(bound - self.value)

    def _p_value(self, excess: float) -> float:
        """Probability of a difference of at most `excess` if its mean is 0; 1 for NaN."""
        if math.isnan(excess):
            return 1.0
        if self.standard_error == 0 or math.isinf(excess):
            return 0.0 if excess <= 0 else 1.0
        return float(stats.t.cdf(excess / self.standard_error, self.degrees))


class Estimate(Record):
    """An estimate of a divergence between the target and the law that a procedure samples.

    Attributes:
        value: Value in `unit`; None if the divergence is not available; may be infinite.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Confidence of [low, high].
        kind: `exact`, `estimate`, `upper bound`, `lower bound`, `two bounds` (certified from both
            sides; the value is their middle) or `unavailable`.
        method: Method of the estimate, or the reason why the divergence is not available.
        unit: Unit of value, low, high and null.
        samples: Number of rows of each sample set that the estimate was computed from.
        null: Null floor: the same estimator applied to fresh target draws in place of the model's.
        null_error: Standard error of the null floor.
        scale: Divisor in the comparison value / scale <= tolerance ** power.
        power: Exponent of the tolerance in that comparison.
        terms: The measured functionals, of which the divergence is the largest. Like the two
            fields below, they are stored with a cell but are not part of the result schema.
        below: Certified functionals, each at most the divergence.
        above: Certified functionals, each at least the divergence.
    """

    value: float | None
    low: float | None
    high: float | None
    level: float
    kind: Kind
    method: str
    unit: str
    samples: int
    null: float | None = None
    null_error: float | None = None
    scale: float = 1.0
    power: int = 1
    terms: tuple[Term, ...] = Field(default=(), repr=False)
    below: tuple[Term, ...] = Field(default=(), repr=False)
    above: tuple[Term, ...] = Field(default=(), repr=False)

    @classmethod
    def of(
        cls,
        terms: Sequence[Term],
        *,
        level: float,
        kind: Kind,
        below: Sequence[Term] = (),
        above: Sequence[Term] = (),
        **facts: Any,
    ) -> Estimate:
        """The largest of some terms, or what certificates leave, with a simultaneous interval."""
        if terms:
            value = _largest(term.value for term in terms)
        else:
            ends = [_largest(term.value for term in below)] if below else []
            ends += [min(term.value for term in above)] if above else []
            value = sum(ends) / len(ends)
        draft = cls(
            value=value,
            low=None,
            high=None,
            level=level,
            kind=kind,
            terms=tuple(terms),
            below=tuple(below),
            above=tuple(above),
            **facts,
        )
        low, high = draft.interval(level)
        if below or above:
            value = min(max(value, low), high)  # certificates hold for any laws, estimates need not
        return draft.model_copy(update={"value": value, "low": low, "high": high})

    @classmethod
    def exact(
        cls, value: float, *, level: float, method: str, unit: str, scale: float, power: int
    ) -> Estimate:
        """The estimate of a divergence that is known exactly."""
        return cls(
            value=value,
            low=value,
            high=value,
            level=level,
            kind="exact",
            method=method,
            unit=unit,
            samples=0,
            null=0.0,
            null_error=0.0,
            scale=scale,
            power=power,
        )

    @classmethod
    def unavailable(cls, reason: str, *, level: float, unit: str) -> Estimate:
        """The estimate of a divergence that is not available, with the reason as its method."""
        return cls(
            value=None,
            low=None,
            high=None,
            level=level,
            kind="unavailable",
            method=reason,
            unit=unit,
            samples=0,
        )

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "unavailable"
        if math.isinf(self.value):
            return "infinite"
        mark = {"upper bound": "≤ ", "lower bound": "≥ "}.get(self.kind, "")
        if self.kind == "two bounds":
            return f"[{self.low:.3g}, {self.high:.3g}]"
        if self.low == self.high:
            return f"{mark}{self.value:.3g}"
        if max(abs(self.value), abs(self.low), abs(self.high)) < ROUNDING:
            return f"{mark}0"
        return f"{mark}{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def interval(self, level: float) -> tuple[float, float]:
        """Interval of the estimate at a level.

        The interval holds for all terms simultaneously: each side of it is split among the terms
        that enter that side (Bonferroni).

        Raises:
            ValueError: The estimate is unavailable.
        """
        if self.value is None:
            raise ValueError("an unavailable estimate has no interval")
        from_below, from_above = [*self.terms, *self.below], [*self.terms, *self.above]
        if not from_below and not from_above:
            return self.value, self.value
        each = 1 - (1 - level) / max(len(from_below), 1)
        low = _largest([term.interval(each)[0] for term in from_below] or [-math.inf])
        each = 1 - (1 - level) / max(len(from_above), 1)
        highs = [term.interval(each)[1] for term in self.above]
        if self.terms:
            highs.append(_largest(term.interval(each)[1] for term in self.terms))
            if self.below and highs[-1] < low:  # the estimate lies below a certified bound
                highs[-1] = _largest(term.interval(each)[1] for term in self.below)
        high = float(np.min(highs or [math.inf]))
        return min(low, high), high

    def p_within(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the divergence is above `bound`."""
        if self.value is None or self.kind == "lower bound":
            return 1.0
        if self.kind == "exact":
            return float(not self.value <= bound)
        proofs = [term.p_within(bound) for term in self.above]
        if self.terms:
            proofs.append(max(term.p_within(bound) for term in self.terms))
        return min(1.0, len(proofs) * min(proofs))

    def p_above(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the divergence is at most `bound`."""
        if self.value is None or self.kind == "upper bound":
            return 1.0
        if self.kind == "exact":
            return float(not self.value > bound)
        proofs = [term.p_above(bound) for term in (*self.terms, *self.below)]
        return min(1.0, len(proofs) * min(proofs, default=1.0))


def t_quantile(level: float, degrees: int) -> float:
    """Half-width of the two-sided t interval at a level, in standard errors."""
    return float(stats.t.ppf(0.5 + level / 2, degrees))


def _largest(values: Any) -> float:
    return float(np.max(list(values)))  # unlike max(), a NaN stays one


def _group_means(influence: np.ndarray) -> np.ndarray:
    """Mean influence of each of `GROUPS` groups of rows; row r is in group r mod GROUPS."""
    group = np.arange(len(influence)) % GROUPS
    counts = np.maximum(np.bincount(group, minlength=GROUPS), 1)
    return np.bincount(group, weights=influence, minlength=GROUPS) / counts
