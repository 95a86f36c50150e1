"""Tolerances in the unit of an estimate, and which divergences resolve them."""

from __future__ import annotations

import math

from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import RESOLVED, Estimate
from capcheck.results.measurement import Measurement

__all__ = ["TRAITS", "available", "is_resolved", "label", "multiple", "tolerance_in_unit"]

TRAITS = DIVERGENCES["continuous"]  # the traits that are used here are equal for all token kinds


def tolerance_in_unit(estimate: Estimate, tolerance: float) -> float:
    """Converts a tolerance into the unit of an estimate: tolerance^power scale."""
    return float(tolerance**estimate.power * estimate.scale)


def multiple(value: float, bound: float) -> float:
    """A value in multiples of a bound; one above a bound of 0, as of one sequence, is infinite."""
    if math.isnan(value):
        return math.nan
    if bound > 0:
        return value / bound
    return math.inf if value > 0 else 0.0


def label(name: str, estimate: Estimate) -> str:
    """Name of a divergence in tables; the two Wasserstein distances differ in their power."""
    return next(t[name].label for t in DIVERGENCES.values() if t[name].power == estimate.power)


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
