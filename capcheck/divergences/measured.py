"""A measured divergence: functionals of draws, and the estimate that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capcheck.core.sequences import SequenceSpec
from capcheck.divergences import Divergence
from capcheck.divergences.estimate import Estimate, Kind, Term

__all__ = ["Measured"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A divergence as measured from draws: the functionals that an `Estimate` is made of.

    Attributes:
        kind: Kind of the estimate.
        method: Description of the estimator.
        rows: Number of rows of each sample set.
        terms: Measured functionals, the largest of which is the divergence (or an estimand below
            the divergence, if `kind` is `lower bound`).
        below: Certified functionals, each at most the divergence.
        above: Certified functionals, each at least the divergence.
    """

    kind: Kind
    method: str
    rows: int
    terms: Sequence[Term] = ()
    below: Sequence[Term] = ()
    above: Sequence[Term] = ()

    def estimate(
        self,
        divergence: Divergence,
        spec: SequenceSpec,
        *,
        level: float,
        null: float = 0.0,
        null_error: float = 0.0,
    ) -> Estimate:
        """The estimate of a divergence from a target that was measured so.

        Args:
            divergence: The divergence.
            spec: Specification of the target's tokens.
            level: Confidence of the interval.
            null: Value between two samples of the target; 0 for log-ratios, which the target's own
                density makes exactly 0 at every draw.
            null_error: Standard error of `null`.
        """
        return Estimate.of(
            self.terms,
            below=self.below,
            above=self.above,
            level=level,
            kind=self.kind,
            method=self.method,
            samples=self.rows,
            null=null,
            null_error=null_error,
            unit=divergence.unit,
            scale=divergence.scale(spec),
            power=divergence.power,
        )
