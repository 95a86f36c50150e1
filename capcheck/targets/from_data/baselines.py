"""Baselines: held-out scores of laws that are simpler than the one that is fitted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import solve_triangular
from torch import Tensor

from capcheck.laws import LOG_2PI
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.categorical.emissions import MANY
from capcheck.targets.continuous.diagonal_mixture import DiagonalMixture
from capcheck.targets.from_data.coarse_to_fine import pooled_law
from capcheck.targets.from_data.empirical_categorical import marginals
from capcheck.targets.from_data.selection import SCORED, mean_log_likelihood
from capcheck.targets.from_data.shrinkage import shrunk_covariance
from capcheck.targets.from_data.units import Standardised, Units

__all__ = [
    "PRODUCTS",
    "WIDE",
    "gaussian_score",
    "independent_gaussians_score",
    "independent_symbols",
    "independent_symbols_score",
    "simple_score",
]

WIDE = 8192  # numbers of a row above which a covariance is no simple baseline
PRODUCTS = 40_000_000_000  # multiply-adds of a covariance that takes about a second on two cores


def simple_score(train: np.ndarray, test: np.ndarray, weights: np.ndarray) -> tuple[float, str]:
    """Mean log-likelihood (nats) of test rows under a simple law, and the law's name.

    It is one Gaussian, or independent Gaussian tokens where a row has more than `WIDE` numbers.

    Args:
        train: (n, N, d), in random order.
        test: (m, N, d).
        weights: (m,) of the test rows.
    """
    if train[0].size <= WIDE:
        return gaussian_score(train, test, weights), "one Gaussian"
    log_prob = _independent_gaussians(train).log_prob(torch.from_numpy(test)).numpy()
    return float(np.average(log_prob, weights=weights)), "independent tokens"


def gaussian_score(train: np.ndarray, test: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean log-likelihood (nats) of test rows under one shrunk Gaussian of the training rows.

    Args:
        train: (n, N, d), in random order. Of many large rows only the first are used.
        test: (m, N, d).
        weights: (m,) of the test rows; equal by default.
    """
    D = train[0].size
    train = train[: max(2 * D, PRODUCTS // D**2)]
    keys = Standardised(train, np.ones(len(train)))
    covariance = shrunk_covariance(lambda part: keys[part].numpy(), len(keys), D)
    # Eigenvalues of rounding size must not make the factorisation fail where nothing is shrunk.
    floor = np.finfo(np.float64).eps * D * (float(np.trace(covariance)) or 1.0)
    root = np.linalg.cholesky(covariance + floor * np.eye(D))
    z = solve_triangular(root, keys.of(test).T, lower=True)  # (D, m)
    log_det = 2 * (np.log(np.diagonal(root)) + np.log(keys.scale)).sum()
    log_prob = -0.5 * ((z**2).sum(0) + log_det + len(root) * LOG_2PI)
    return float(np.average(log_prob, weights=weights))


def independent_gaussians_score(train: np.ndarray, test: np.ndarray) -> float:
    """Held-out score of independent Gaussian tokens."""
    return mean_log_likelihood(_independent_gaussians(train), test)


def _independent_gaussians(train: np.ndarray) -> DiagonalMixture:
    units = Units(train)
    D = units.scale.size
    return units.diagonal(np.zeros((1, D)), np.ones((1, D)), np.ones(1))


def independent_symbols_score(vocabulary: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """Held-out score of independent tokens; see `independent_symbols`."""

    def score(train: np.ndarray, test: np.ndarray) -> float:
        return float(independent_symbols(train, test[:SCORED], vocabulary).mean())

    return score


def independent_symbols(train: np.ndarray, test: np.ndarray, vocabulary: int) -> Tensor:
    """Log-likelihoods of test rows under independent tokens, in nats per sequence: (m,).

    Each token has the law of its place, smoothed by one count in all; of more than `MANY` symbols,
    of which a place shows few, all tokens have one law.

    Args:
        train: (n, N) token ids.
        test: (m, N) token ids.
        vocabulary: V.
    """
    if vocabulary > MANY:
        return pooled_law(torch.from_numpy(train), vocabulary).log()[test].sum(1)
    laws = marginals(train, np.ones(len(train)), vocabulary)  # (N, V)
    return CategoricalMixture(laws[None]).log_prob(torch.from_numpy(test))
