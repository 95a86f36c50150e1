"""Linear latent-variable models x = m + W z + noise, z ~ N(0, I_q), fitted to a covariance C.

The fit minimises KL(N(m, C) || N(m, W W^T + Psi)). With one noise variance s2 for all numbers
(probabilistic PCA), the minimum is at W_j = u_j sqrt(l_j - s2), for the q largest eigenvalues l_j
of C with eigenvectors u_j, and s2 is the mean of the other eigenvalues. With a noise variance for
each number (factor analysis), W has a similar form after division by the noise deviations, and Psi
is found by descent. D - 1 latent numbers always suffice, since C - l_D I has at most that rank.

Source: Tipping & Bishop 1999, "Probabilistic principal component analysis"; Joreskog 1967, "Some
contributions to maximum likelihood factor analysis".
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

__all__ = ["SMALLEST", "Array", "factor_analysis", "probabilistic_pca"]

Array = np.ndarray
SMALLEST = 1e-9  # least noise variance, as a share of its coordinate's variance


def probabilistic_pca(covariance: Array, q: int) -> tuple[Array, Array]:
    """The loadings W (D, r), with r = min(q, D - 1), and the noise variances (D,), all equal.

    Args:
        covariance: Covariance C, (D, D), positive definite.
        q: Number of latent numbers, at least 0.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    r = min(q, len(values) - 1)
    s2 = values[r:].mean()
    W = vectors[:, :r] * np.sqrt(np.maximum(values[:r] - s2, 0))
    return W, np.full(len(values), s2)


def factor_analysis(covariance: Array, q: int) -> tuple[Array, Array]:
    """The loadings W (D, r), with r = min(q, D - 1), and the noise variances Psi (D,).

    The result is the better of two local optima.

    Args:
        covariance: Covariance C, (D, D), positive definite.
        q: Number of latent numbers, at least 0.
    """
    D = len(covariance)
    if q == 0:
        return np.zeros((D, 0)), np.diag(covariance).copy()
    if q >= D - 1:
        return probabilistic_pca(covariance, q)
    scale = np.sqrt(np.diag(covariance))
    R = covariance / np.outer(scale, scale)
    starts = [
        (1 - 0.5 * q / D) / np.diag(np.linalg.inv(R)),
        probabilistic_pca(covariance, q)[1] / scale**2,
    ]
    bounds = [(np.log(SMALLEST), 0.0)] * D
    found = [
        minimize(
            _loss,
            np.log(np.clip(psi, SMALLEST, 1)),
            args=(R, q),
            jac=True,
            bounds=bounds,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000},
        )
        for psi in starts
    ]
    psi = np.exp(min(found, key=lambda result: float(result.fun)).x)
    return scale[:, None] * _loadings(psi, R, q), psi * scale**2


def _loadings(psi: Array, R: Array, q: int) -> Array:
    """The best loadings W (D, q) for noise variances psi (D,)."""
    root = np.sqrt(psi)
    values, vectors = np.linalg.eigh(R / np.outer(root, root))
    excess = np.maximum(values[::-1][:q] - 1, 0)
    loadings: Array = root[:, None] * vectors[:, ::-1][:, :q] * np.sqrt(excess)
    return loadings


def _loss(log_psi: Array, R: Array, q: int) -> tuple[float, Array]:
    """The loss 1/2 (ln |S| + tr S^-1 R) at the best W, and its gradient in log_psi.

    The gradient is computed at fixed W, by the envelope theorem.
    """
    psi = np.exp(log_psi)
    W = _loadings(psi, R, q)
    S = W @ W.T + np.diag(psi)
    inverse = np.linalg.inv(S)
    fit = inverse @ R
    loss = 0.5 * (np.linalg.slogdet(S)[1] + np.trace(fit))
    gradient = 0.5 * psi * np.diag(inverse - fit @ inverse)
    return float(loss), gradient
