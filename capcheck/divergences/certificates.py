"""Certificates bound W2 squared from below in many dimensions, at the rate n^-1/2.

Transport between samples errs by about n^(-1/D), which is useless in many dimensions D. For a
target P and a model Q, whatever these laws are:

    W2^2 >= |mu_P - mu_Q|^2 + (sqrt(tr Cov_P) - sqrt(tr Cov_Q))^2    mean and spread
    W2^2 >= sum_j W2^2(P_uj, Q_uj),  u_1..u_D orthonormal            sliced

`coupling` bounds it from above, and `hamming_marginals` bounds W1 of categorical tokens from below.

A plug-in estimate of a bound from below is too large by about D/n, because two samples of one law
differ. Every square is therefore a product of independent factors (a U-statistic, or different
blocks of rows), each with mean 0 for equal laws; values are signed. The standard error of a product
follows from the influences of all its factors, to first order. For equal laws this overestimates
the variance by up to a factor of two, which keeps the level of the interval although products are
not normal and the errors of the two halves of the draws are correlated.

Gelbrich's sum over directions, (difference of means)^2 + (difference of deviations)^2, is not used:
it is at most the sliced bound, and for Gaussian rows the noise of its factors is hardly smaller,
by a factor of sqrt(sum_{k<=2} k^-2 / sum_k k^-2) = 0.87.
"""

from __future__ import annotations

import math

import numpy as np

from capcheck.core.errors import InputError
from capcheck.divergences.estimate import Term

__all__ = [
    "BATCH",
    "BLOCKS",
    "COMPLETE",
    "FEWEST",
    "LEADING",
    "SWEEPS",
    "centred",
    "lower_certificates",
    "mean_and_spread_squared",
    "sliced_squared",
    "squared_lengths",
]

BLOCKS = 4  # blocks of rows whose products are taken; more blocks: less noise, coarser quantiles
FEWEST = 4 * BLOCKS  # least number of rows: two in each block of either half
COMPLETE = 1024  # most dimensions with a complete basis: eigh takes a fifth of a second
LEADING = 256  # directions of the basis in more dimensions; the rest enters by mean and spread
SWEEPS = 2  # power iterations for the leading directions
BATCH = 2**20  # projections (row x direction) held at once: 8 MiB in each of a few arrays


def lower_certificates(
    model: np.ndarray, target: np.ndarray, *, mean: np.ndarray, variance: np.ndarray
) -> list[Term]:
    """All bounds from below of W2^2; the largest counts, at a level shared between them.

    Args:
        model: (n, D) draws of Q.
        target: (m, D) draws of P, m at least n, independent of the model's.
        mean: (D,) mean of P.
        variance: (D,) variance of each coordinate of P.

    Raises:
        InputError: The shapes do not fit, there are too few draws, or draws are not finite.
    """
    return [
        mean_and_spread_squared(model, mean=mean, variance=variance),
        sliced_squared(model, target, mean=mean),
    ]


def mean_and_spread_squared(model: np.ndarray, *, mean: np.ndarray, variance: np.ndarray) -> Term:
    """|mu_P - mu_Q|^2 + (sqrt(tr Cov_P) - sqrt(tr Cov_Q))^2, with P's moments known.

    The bound is the squared length of the mean of (x - mu_P, r - sqrt(tr Cov_P)), where r is the
    pseudo-value of sqrt(tr Cov_Q) that belongs to row x. The U-statistic leaves out products of a
    row with itself and has no bias of order D/n. The relative bias of the root, 1/n, shifts the
    value by about n^-1/2 of its standard error.

    Args:
        model: (n, D) draws of Q, n at least 16.
        mean: (D,) mean of P.
        variance: (D,) variance of each coordinate of P.

    Raises:
        InputError: The shapes do not fit, there are too few draws, or draws are not finite.
    """
    x = centred(model, mean, "model", FEWEST)
    if np.shape(variance) != np.shape(mean):
        raise InputError(
            f"variance must have the shape of mean, {np.shape(mean)}, got {np.shape(variance)}."
        )
    value, of_x, _ = _mean_and_spread(x, np.array([math.sqrt(float(np.sum(variance)))]))
    return Term.from_influence("mean and spread", value, [of_x])


def sliced_squared(model: np.ndarray, target: np.ndarray, *, mean: np.ndarray) -> Term:
    """Sliced bound sum_j W2^2(P_uj, Q_uj) over an orthonormal basis u_j chosen from the draws.

    One half of the draws chooses the basis along which the other half is measured, and vice versa;
    the estimand is the mean of the two bounds. W2^2(P_u, Q_u) is the integral of
    (Q_u^-1 - P_u^-1)^2 over (0, 1). It is estimated by products of differences of order statistics
    from different blocks, each of b rows of Q and b of P. Expected order statistics are averages of
    the quantile function with beta weights that add up to 1 over all ranks, and such averages never
    increase the integral of a square. The estimand is therefore at most the sliced bound for any
    laws, n and basis; for two Gaussians of different scale and b = 250 it is 1% smaller.

    In more than `COMPLETE` dimensions the basis has `LEADING` directions, and the orthogonal rest
    enters by its mean and spread.

    Args:
        model: (n, D) draws of Q, n at least 16.
        target: (m, D) draws of P, m at least n, independent of the model's. The largest multiple of
            n is used; more draws reduce the noise.
        mean: (D,) mean of P, used in place of the means of its draws.

    Raises:
        InputError: The shapes do not fit, there are too few draws, or draws are not finite.
    """
    x = centred(model, mean, "model", FEWEST)
    y = centred(target, mean, "target", len(x))
    repeats = len(y) // len(x)
    rows = len(x) // (2 * BLOCKS) * BLOCKS
    halves = [
        (x[half * rows :][:rows], y[half * rows * repeats :][: rows * repeats]) for half in (0, 1)
    ]
    value, influences = 0.0, []
    for choosing, testing in (halves, halves[::-1]):
        basis = _basis(*choosing)
        of_half, *of_rows = _along(basis, *testing)
        value += of_half / 2
        influences += [influence / 2 for influence in of_rows]
    return Term.from_influence(f"sliced along {len(basis)} directions", value, influences)


def _basis(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Orthonormal directions (r, D) in which second moments about P's mean differ most.

    The directions are eigenvectors of Cov_Q - Cov_P + (mu_Q - mu_P)(mu_Q - mu_P)'; the difference
    of the means is one of them where it dominates. Up to `COMPLETE` dimensions the basis has all D
    eigenvectors, otherwise the leading ones, by power iteration started from the rows.

    Args:
        x: (n, D) draws of Q, about the mean of P.
        y: (m, D) draws of P, about their mean.
    """

    def difference(directions: np.ndarray) -> np.ndarray:
        """The difference of second moments times directions (D, r)."""
        of_x, of_y = x.T @ (x @ directions), y.T @ (y @ directions)
        return np.asarray(of_x / len(x) - of_y / len(y))

    D = x.shape[1]
    if D <= COMPLETE:
        vectors = np.linalg.eigh(x.T @ x / len(x) - y.T @ y / len(y)).eigenvectors
        return np.ascontiguousarray(vectors.T)
    start = np.concatenate([x[: LEADING // 2], y[: LEADING // 2]]).T  # (D, r)
    leading = np.linalg.qr(start).Q
    for _ in range(SWEEPS):
        leading = np.linalg.qr(difference(leading)).Q
    vectors = np.linalg.eigh(leading.T @ difference(leading)).eigenvectors
    return np.ascontiguousarray((leading @ vectors).T)


def _along(basis: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The sliced bound along a fixed basis (r, D), with the influences of rows x and y."""
    value, of_x, of_y = 0.0, np.zeros(len(x)), np.zeros(len(y))
    size = max(1, BATCH // (len(x) + len(y)))
    for first in range(0, len(basis), size):
        directions = basis[first : first + size]
        terms = _quantile_products(directions @ x.T, directions @ y.T)
        value, of_x, of_y = value + terms[0], of_x + terms[1], of_y + terms[2]
    if len(basis) < x.shape[1]:
        rest = x - (x @ basis.T) @ basis
        squares = np.maximum(squared_lengths(y) - squared_lengths(y @ basis.T), 0)
        terms = _mean_and_spread(rest, _roots(squares))
        value, of_x, of_y = value + terms[0], of_x + terms[1], of_y + terms[2]
    return value, of_x, of_y


def _quantile_products(q: np.ndarray, p: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Sum over directions of products of quantile differences, and the influences of rows.

    Args:
        q: (r, n) projections of Q, about the mean of P; n is a multiple of `BLOCKS`.
        p: (r, R n) projections of P, about its mean. R batches of one block's size are averaged,
            which keeps their expectation.
    """
    r, n = q.shape
    b = n // BLOCKS
    q, p = q.reshape(r, BLOCKS, 1, b), p.reshape(r, BLOCKS, -1, b)
    p = p - p.mean(-1, keepdims=True)  # the mean of P is known
    q_order, p_order = q.argsort(-1), p.argsort(-1)
    q_sorted = np.take_along_axis(q, q_order, -1)
    p_sorted = np.take_along_axis(p, p_order, -1)
    delta = q_sorted - p_sorted.mean(2, keepdims=True)  # (r, BLOCKS, 1, b): Q^-1 - P^-1
    others = (delta.sum(1, keepdims=True) - delta) / (BLOCKS - 1)
    value = float((delta * others).sum()) / n
    of_q = _influence(q_sorted, q_order, others)
    # A weight of mean 0 leaves the influence of a row whose batch is centred.
    of_p = _influence(p_sorted, p_order, others - others.mean(-1, keepdims=True))
    return value, 2 * of_q, -2 * of_p


def _influence(ordered: np.ndarray, order: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Influence of every row on its block's sum_k J_k x_(k) / b, summed over directions.

    A row at x moves the sum by the integral of J(F(t)) up to x, less the mean of that integral.

    Args:
        ordered: (r, BLOCKS, R, b) order statistics.
        order: (r, BLOCKS, R, b) index of each order statistic in its block.
        weights: (r, BLOCKS, 1, b) J, independent of the ordered rows.
    """
    b = ordered.shape[-1]
    steps = np.zeros_like(ordered)
    np.multiply(
        np.diff(ordered, axis=-1), (weights[..., 1:] + weights[..., :-1]) / 2, out=steps[..., 1:]
    )
    integral = steps.cumsum(-1)
    integral -= integral.mean(-1, keepdims=True)
    rows = np.empty_like(integral)
    np.put_along_axis(rows, order, integral, -1)
    return np.asarray(
        rows.sum(0).ravel() * math.sqrt(b / (b - 1))
    )  # one degree of freedom is lost to the mean


def _mean_and_spread(
    x: np.ndarray, target_roots: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """U-statistic of the squared differences of mean and spread, and the influences of rows.

    Args:
        x: (n, D) rows of Q, about the mean of P.
        target_roots: (m,) pseudo-values of P's spread; a single value is the spread itself.
    """
    n, m = len(x), len(target_roots)
    mean, squares = x.mean(0), squared_lengths(x)  # (D,), (n,)
    along = x @ mean
    mean_of_others = (n * along - squares) / (n - 1)  # x_i . mean of the other rows
    about_own = np.maximum(squares - 2 * along + mean @ mean, 0) * (n / (n - 1))
    roots = _roots(about_own)
    s_q, s_p = float(roots.mean()), float(target_roots.mean())
    noise = float(roots.var(ddof=1)) / n
    others_q, others_p = (n * s_q - roots) / (n - 1), np.full(m, s_p)
    if m > 1:
        noise += float(target_roots.var(ddof=1)) / m
        others_p = (m * s_p - target_roots) / (m - 1)
    value = float(mean_of_others.mean()) + (s_q - s_p) ** 2 - noise
    of_x = 2 * mean_of_others + 2 * roots * (others_q - s_p)
    return value, of_x, -2 * target_roots * (s_q - others_p)


def _roots(squares: np.ndarray) -> np.ndarray:
    """Pseudo-values of the root of the mean square, linear in each row; their mean is the root."""
    v = float(squares.mean())
    s = math.sqrt(v)
    return s + (squares - v) / (2 * s) if s > 0 else np.zeros(len(squares))


def squared_lengths(x: np.ndarray) -> np.ndarray:
    """Squared length of each row of (n, D): (n,)."""
    return np.asarray(np.einsum("nd,nd->n", x, x))


def centred(draws: np.ndarray, mean: np.ndarray, name: str, fewest: int) -> np.ndarray:
    """Draws (n, D) less the target's mean (D,), in float64."""
    if draws.ndim != 2 or draws.shape[1:] != np.shape(mean):
        raise InputError(
            f"{name} must be draws of the target's {np.size(mean)} coordinates, one a row, "
            f"got the shape {draws.shape}."
        )
    if len(draws) < fewest:
        raise InputError(f"{name} must have at least {fewest} draws, got {len(draws)}.")
    if not np.isfinite(draws).all():
        bad = int((~np.isfinite(draws)).any(1).sum())
        raise InputError(f"{name} must be finite, got {bad} of {len(draws)} draws that are not.")
    return np.asarray(draws, np.float64) - np.asarray(mean, np.float64)
