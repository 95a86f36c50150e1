"""The shrunk covariance of rows, read in tiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg.blas import dsyrk

from capcheck.core.memory import require_memory
from capcheck.core.tiles import slices
from capcheck.targets.from_data.units import TILE

__all__ = ["shrunk_covariance"]

COPIES = 5  # matrices of this size that a fit holds at once


def shrunk_covariance(z: Callable[[slice], np.ndarray], n: int, D: int) -> np.ndarray:
    """(1 - rho) S + rho mu I with mu = tr S / D and rho = beta / delta, (D, D).

    Here delta = |S - mu I|^2, and beta = sum_r |z_r z_r^T - S|^2 / n^2, at most delta. The sum over
    pairs of coordinates in beta is a sum of |z_r|^4, so that one product of the rows suffices,
    where scikit-learn's `LedoitWolf` takes three and holds all rows.

    Source: Ledoit & Wolf, A well-conditioned estimator for large-dimensional covariance matrices
    (2004), eq. 14.

    Args:
        z: Function that returns some of the n centred rows, (r, D).
        n: Number of rows.
        D: Number of coordinates.

    Raises:
        InputError: The covariance does not fit into memory.
    """
    needed = 8.0 * COPIES * D**2
    require_memory(needed, f"the covariance of rows of {D:,} numbers", "take --law diagonal")
    S, fourth = np.zeros((D, D), order="F"), 0.0
    for part in slices(n, max(1, TILE // D)):
        rows = z(part)
        # Added in place, as a new matrix for every tile would take longer than the product itself.
        S = dsyrk(1 / n, rows.T, beta=1.0, c=S, overwrite_c=True)  # its upper triangle
        fourth += float(((rows**2).sum(1) ** 2).sum())
    S = np.triu(S) + np.triu(S, 1).T
    mu, squared = np.trace(S) / D, float((S**2).sum())
    delta = squared - D * mu**2
    beta = min(max(fourth / n**2 - squared / n, 0.0), delta)
    rho = beta / delta if beta > 0 else 0.0
    shrunk: np.ndarray = (1 - rho) * S + rho * mu * np.eye(D)
    return shrunk
