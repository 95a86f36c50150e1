"""A coupling of a model Q with a target P bounds W2 squared from above, in any dimension.

W2^2 <= E|x - x_exact|^2,  x ~ Q and x_exact ~ P from the same random numbers
"""

from __future__ import annotations

import math

import numpy as np

from capcheck.core.errors import InputError
from capcheck.divergences.certificates import centred, squared_lengths
from capcheck.divergences.estimate import Term

__all__ = ["CORRECTED_AT", "FEWEST_EFFECTIVE", "coupling_squared", "effective_draws"]

CORRECTED_AT = 3.0  # quantile, in standard errors, at which a coupling's skewness is corrected
FEWEST_EFFECTIVE = 8  # least effective draws of a coupling; with fewer, few costs dominate


def coupling_squared(model: np.ndarray, exact: np.ndarray, *, resolution: float = 0.0) -> Term:
    """Bound W2^2 <= E|x - x_exact|^2 over pairs made from the same random numbers.

    Any joint law of x ~ Q and x_exact ~ P costs at least W2^2, so only the upper end of the
    interval certifies. Costs are skewed to the right, where a t interval ends too low. The standard
    error is therefore increased by the Cornish-Fisher term of the skewness, and by the amount that
    one more draw like the largest would add to the mean. The degrees of freedom are those of the
    effective draws; with fewer than `FEWEST_EFFECTIVE` the standard error is infinite and nothing
    is certified. Costs that are all equal have a standard error of 0.

    Args:
        model: (n, D) draws of Q, n at least 2.
        exact: (n, D) draws of P, each made from the random numbers of the model's row.
        resolution: Least cost of a pair; smaller costs are raised to it. The result is still an
            upper bound, and the numerical errors of an integrator do not look like a heavy tail.

    Raises:
        InputError: The shapes do not fit, there are too few draws, or draws are not finite.
    """
    if np.shape(model) != np.shape(exact):
        raise InputError(
            f"model must have the shape of exact, {np.shape(exact)}, got {np.shape(model)}."
        )
    origin = np.zeros(exact.shape[1:])
    pairs = (centred(model, origin, "model", 2), centred(exact, origin, "exact", 2))
    costs = np.maximum(squared_lengths(pairs[0] - pairs[1]), resolution)  # (n,)
    term = Term.from_influence("coupling", float(costs.mean()), [costs])
    if np.ptp(costs) == 0:
        return term
    n, z, effective = len(costs), CORRECTED_AT, effective_draws(costs)
    deviations = (costs - costs.mean()) / costs.std()
    skewness = max(float((deviations**3).mean()), 0.0)
    error = term.standard_error * (1 + skewness * (1 + 2 * z**2) / (6 * z * math.sqrt(n)))
    error += float(costs.max()) / n
    return term.model_copy(
        update={
            "label": f"coupling, {effective:.0f} effective of {n} draws",
            "standard_error": error if effective >= FEWEST_EFFECTIVE else math.inf,
            "degrees": max(min(term.degrees, round(effective) - 1), 1),
        }
    )


def effective_draws(costs: np.ndarray) -> float:
    """Effective number of draws (sum c)^2 / sum c^2, between 1 and n; n for equal costs.

    Args:
        costs: (n,), not negative and not all 0.
    """
    shares = costs / costs.max()  # so that squares neither overflow nor underflow
    return float(shares.sum() ** 2 / (shares**2).sum())
