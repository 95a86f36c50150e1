"""Tolerances in the unit of an estimate, and which divergences resolve them."""

from __future__ import annotations

from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import RESOLVED, Estimate
from capcheck.results.measurement import Measurement

__all__ = ["TRAITS", "available", "is_resolved", "tolerance_in_unit"]

TRAITS = DIVERGENCES["continuous"]  # the traits that are used here are equal for all token kinds


def tolerance_in_unit(estimate: Estimate, tolerance: float) -> float:
    """Converts a tolerance into the unit of an estimate: tolerance^power scale."""
    return float(tolerance**estimate.power * estimate.scale)


def available(measurement: Measurement) -> dict[str, Estimate]:
    """The estimates of the divergences that are available, by their names."""
    return {
        name: estimate
        for name, estimate in measurement.estimates.items()
        if estimate.value is not None
    }


def is_resolved(estimate: Estimate, bound: float) -> bool:
    """Whether an estimate can show that the divergence is small.

    A lower bound never can; a certified upper bound always can; any other estimate can if its null
    standard error is at most `RESOLVED` tolerances.
    """
    if estimate.kind == "lower bound":
        return False
    return bool(estimate.above) or (estimate.null_error or 0.0) <= RESOLVED * bound
