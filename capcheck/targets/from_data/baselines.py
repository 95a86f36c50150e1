"""Baselines: held-out scores of laws that are simpler than the one that is fitted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import solve_triangular

from capcheck.laws import LOG_2PI
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.from_data.empirical_categorical import marginals
from capcheck.targets.from_data.selection import mean_log_likelihood
from capcheck.targets.from_data.units import TILE, Standardised, Units

__all__ = ["gaussian_score", "independent_gaussians_score", "independent_symbols_score"]


def gaussian_score(train: np.ndarray, test: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean log-likelihood (nats) of test rows under one shrunk Gaussian of the training rows.

    Args:
        train: (n, N, d).
        test: (m, N, d).
        weights: (m,) of the test rows; equal by default.
    """
    keys = Standardised(train, np.ones(len(train)))
    root = np.linalg.cholesky(_shrunk_covariance(keys))
    z = solve_triangular(root, keys.of(test).T, lower=True)  # (D, m)
    log_det = 2 * (np.log(np.diagonal(root)) + np.log(keys.scale)).sum()
    log_prob = -0.5 * ((z**2).sum(0) + log_det + len(root) * LOG_2PI)
    return float(np.average(log_prob, weights=weights))


def _shrunk_covariance(keys: Standardised) -> np.ndarray:
    """(1 - rho) S + rho mu I with mu = tr S / D and rho = beta / delta, (D, D).

    Here delta = |S - mu I|^2, and beta = sum_r |z_r z_r^T - S|^2 / n^2, at most delta. The sum over
    pairs of coordinates in beta is a sum of |z_r|^4, so that one product of the rows suffices.

    Source: Ledoit & Wolf, A well-conditioned estimator for large-dimensional covariance matrices
    (2004), eq. 14.
    """
    n, D = len(keys), keys.dim
    S, fourth = np.zeros((D, D)), 0.0
    size = max(1, TILE // D)
    for start in range(0, n, size):
        z = keys[start : start + size].numpy()
        S += z.T @ z / n
        fourth += float(((z**2).sum(1) ** 2).sum())
    mu, squared = np.trace(S) / D, float((S**2).sum())
    delta = squared - D * mu**2
    beta = min(max(fourth / n**2 - squared / n, 0.0), delta)
    rho = beta / delta if beta > 0 else 0.0
    # Eigenvalues of rounding size must not make the factorisation fail where rho is 0.
    floor = np.finfo(np.float64).eps * D * (D * mu or 1.0)
    shrunk: np.ndarray = (1 - rho) * S + (rho * mu + floor) * np.eye(D)
    return shrunk


def independent_gaussians_score(train: np.ndarray, test: np.ndarray) -> float:
    """Held-out score of independent Gaussian tokens."""
    units = Units(train)
    law = units.diagonal(
        np.zeros((1, units.scale.size)), np.ones((1, units.scale.size)), np.ones(1)
    )
    return mean_log_likelihood(law, test)


def independent_symbols_score(vocabulary: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """Held-out score of independent tokens, their marginals smoothed by one count in all."""

    def score(train: np.ndarray, test: np.ndarray) -> float:
        laws = marginals(train, np.ones(len(train)), vocabulary)  # (N, V)
        return mean_log_likelihood(CategoricalMixture(laws[None]), test)

    return score
