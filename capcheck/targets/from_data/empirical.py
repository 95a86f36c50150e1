"""Targets built from rows of data: one smoothed component per row.

For real numbers the bandwidth of token i is h s_i, with the token's standard deviation s_i and a
scalar h that maximises the leave-one-out likelihood
sum_r log sum_{c != r} w_c N(x_r; x_c, h^2 s^2) / (1 - w_r). The target's generalisation is measured
on held-out rows, used neither for it nor for h. Integers are token ids; `empirical_categorical`
handles them.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Literal

import numpy as np
import torch
from scipy.linalg import solve_triangular
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.laws import LOG_2PI
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.continuous.product_mixture import ProductMixture, moments
from capcheck.targets.from_data.empirical_categorical import (
    HELD_OUT,
    QUERIES,
    from_token_ids,
    row_weights,
)
from capcheck.targets.means import Means
from capcheck.targets.provenance import HeldOut, Provenance

__all__ = [
    "FEW",
    "LARGE",
    "LARGEST_SCALE",
    "NARROWEST",
    "TILE",
    "WIDER",
    "as_array",
    "from_samples",
    "gaussian_score",
    "leave_one_out_bandwidth",
    "require_finite",
]

LARGE = 1e100  # magnitude from which values are refused, as their squares might overflow
LARGEST_SCALE = 1e150  # scales outside (1 / LARGEST_SCALE, LARGEST_SCALE) are refused
LOWEST, HIGHEST = 1e-3, 1e1  # range of the chosen bandwidth h, in standard deviations
NARROWEST = 1e-5  # bandwidth below which a float64 log-density errs by more than 1e-4 nats
WIDER = 1.14  # factor by which the last round extends its range beyond a maximum at its end
FEW = 200  # rows that locate the best bandwidth before all queries refine it
TILE = 1 << 19  # most numbers held at once: 4 MiB, small enough for the cache


def from_samples(
    x: Tensor | np.ndarray,
    *,
    bandwidth: float | Literal["auto"] = "auto",
    smoothing: float | Literal["auto"] = "auto",
    vocabulary: int | None = None,
    weights: Tensor | np.ndarray | None = None,
    grid: tuple[int, int] | None = None,
) -> ProductMixture | CategoricalMixture:
    """Build a target from samples: one component per distinct row.

    Args:
        x: (n, N, d) rows of N continuous tokens; (n, N) is read as tokens of dimension 1. Integers
            (n, N) are token ids in 0..V-1.
        bandwidth: Smoothing of continuous tokens as a multiple of each token's standard deviation;
            `auto` chooses it by leave-one-out likelihood.
        smoothing: Smoothing of categorical tokens: share of the token's marginal law in each token
            of a row, in [0, 1); `auto` chooses it by leave-one-out likelihood.
        vocabulary: Vocabulary size V; by default the largest id plus 1.
        weights: (n,) non-negative weights of the rows; equal by default.
        grid: (rows, columns) of the tokens, if they have any.

    Raises:
        InputError: The samples have another shape or are not finite, the bandwidth is not positive,
            or there are fewer than two distinct rows with bandwidth `auto`.

    Example:
        >>> target = from_samples(np.array([[0.0, 0.0], [0.1, 0.2], [1.0, 1.1], [0.9, 1.0]]))
        >>> target.means.shape
        torch.Size([4, 2, 1])
    """
    array = as_array(x, "samples")
    if np.issubdtype(array.dtype, np.integer):
        if bandwidth != "auto":
            raise InputError(
                f"bandwidth smooths real numbers, got {bandwidth!r} for integers, which are token "
                "ids; give smoothing, or convert them to float64."
            )
        return from_token_ids(
            array, smoothing=smoothing, vocabulary=vocabulary, weights=weights, grid=grid
        )
    if smoothing != "auto" or vocabulary is not None:
        raise InputError(
            f"smoothing and vocabulary belong to token ids, got {array.dtype}; "
            "convert the ids to integers."
        )
    rows = _rows(array)
    h = _given(bandwidth)
    means, w = _distinct(rows, row_weights(weights, len(rows)))
    chosen = leave_one_out_bandwidth(means, w) if h is None else h
    return _smoothed(means, w, chosen, grid, _held_out(means, w, h))


def leave_one_out_bandwidth(rows: np.ndarray, weights: np.ndarray) -> float:
    """The bandwidth h that maximises the leave-one-out log-likelihood of `QUERIES` rows at most.

    Each query row is scored under all other rows. `FEW` queries locate the maximum, and all queries
    refine it. Equal rows must be merged to one row of their summed weight, because the likelihood
    of a row that has a copy is unbounded as h goes to 0.

    Args:
        rows: (n, N, d), finite and distinct.
        weights: (n,), positive.

    Raises:
        InputError: Fewer than two rows.
    """
    if len(rows) < 2:
        raise InputError(
            f"bandwidth 'auto' needs at least 2 distinct rows, got {len(rows)}; "
            "give a bandwidth in units of the tokens' standard deviation."
        )
    keys = _Standardised(rows, weights)
    share = torch.from_numpy(weights / weights.sum())
    queries = _spread(len(rows), QUERIES)
    few = queries[_spread(len(queries), FEW)]
    low, high, at_end = LOWEST, HIGHEST, False
    for some in (few, few, queries):  # each round narrows the range around the last maximum
        best, low, high, at_end = _peak(keys, share, some, low, high)
    while (
        at_end and LOWEST < best < HIGHEST
    ):  # the maximum of all queries lies outside that of the few
        low, high = max(best / WIDER, LOWEST), min(best * WIDER, HIGHEST)
        best, _, _, at_end = _peak(keys, share, queries, low, high)
    return best


def _spread(total: int, most: int) -> Tensor:
    """Evenly spread indices of 0..total-1, at most `most`."""
    return torch.from_numpy(np.unique(np.linspace(0, total - 1, min(most, total)).astype(int)))


def _peak(
    keys: _Standardised, share: Tensor, queries: Tensor, low: float, high: float
) -> tuple[float, float, float, bool]:
    """The best of 13 bandwidths, its two neighbours, and whether it is at an end of the range."""
    tried = np.geomspace(low, high, 13)
    place = int(np.argmax(_left_out_scores(keys, share, queries, tried)))
    below, above = tried[max(place - 1, 0)], tried[min(place + 1, 12)]
    return float(tried[place]), float(below), float(above), place in (0, 12)


class _Standardised:
    """Rows that are centred and divided by their standard deviation when read, (c, D) float64."""

    def __init__(self, rows: np.ndarray, weights: np.ndarray) -> None:
        self._rows = rows
        self._mean, self.scale = (m.reshape(-1) for m in _mean_and_deviation(rows, weights))
        self.dim = len(self._mean)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice | Tensor) -> Tensor:
        return torch.from_numpy(
            self.of(self._rows[part if isinstance(part, slice) else part.numpy()])
        )

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Other rows in the same units, (m, D)."""
        return np.asarray((rows.reshape(len(rows), -1) - self._mean) / self.scale)


def _left_out_scores(
    keys: _Standardised, share: Tensor, queries: Tensor, bandwidths: np.ndarray
) -> np.ndarray:
    """Weighted mean log-likelihood of the query rows, each left out, for every bandwidth.

    Scores are up to a constant; squared distances are computed once for all bandwidths.
    """
    x = keys[queries]  # (q, D)
    norms = x.square().sum(1, keepdim=True)
    log_mass = torch.full((len(bandwidths), len(x)), -torch.inf, dtype=torch.float64)
    size = max(1, TILE // len(x))
    for start in range(0, len(keys), size):
        y = keys[start : start + size]  # (c, D)
        squares = torch.addmm(y.square().sum(1) + norms, x, y.T, alpha=-2).clamp_(min=0)  # (q, c)
        own = ((queries >= start) & (queries < start + size)).nonzero()[:, 0]
        squares[own, queries[own] - start] = torch.inf
        nearest = squares.amin(1, keepdim=True)
        nearest[nearest.isinf()] = 0  # a row alone in its tile
        squares -= nearest
        kernel = torch.empty_like(squares)
        for i, h in enumerate(bandwidths):
            torch.mul(squares, -0.5 / (math.log(2) * h**2), out=kernel).exp2_()
            found = (kernel @ share[start : start + size]).log() - 0.5 * nearest[:, 0] / h**2
            log_mass[i] = torch.logaddexp(log_mass[i], found)
    weights = share[queries] / share[queries].sum()
    scores: np.ndarray = (log_mass @ weights).numpy() - keys.dim * np.log(bandwidths)
    return scores


def _held_out(means: np.ndarray, w: np.ndarray, bandwidth: float | None) -> HeldOut | None:
    """Scores of a held-out fifth of the rows, at most `QUERIES`, under a target of the others."""
    order = np.random.default_rng(0).permutation(len(means))
    n = int(HELD_OUT * len(means))
    test, train = order[:n][:QUERIES], order[n:]
    if n < 1 or len(train) < 2:
        return None
    rows, of_rows = means[train], w[train]
    h = leave_one_out_bandwidth(rows, of_rows) if bandwidth is None else bandwidth
    target = _smoothed(rows, of_rows, h)

    def score(index: np.ndarray) -> float:
        log_prob = target.log_prob(torch.from_numpy(means[index])).numpy()
        return float(np.average(log_prob, weights=w[index]))

    return HeldOut(
        rows=len(test),
        log_likelihood=score(test),
        in_sample=score(train[:QUERIES]),
        baseline=gaussian_score(rows, means[test], w[test]),
        baseline_name="one Gaussian",
    )


def gaussian_score(train: np.ndarray, test: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean log-likelihood (nats) of test rows under one shrunk Gaussian of the training rows.

    Args:
        train: (n, N, d).
        test: (m, N, d).
        weights: (m,) of the test rows; equal by default.
    """
    keys = _Standardised(train, np.ones(len(train)))
    root = np.linalg.cholesky(_shrunk_covariance(keys))
    z = solve_triangular(root, keys.of(test).T, lower=True)  # (D, m)
    log_det = 2 * (np.log(np.diagonal(root)) + np.log(keys.scale)).sum()
    log_prob = -0.5 * ((z**2).sum(0) + log_det + len(root) * LOG_2PI)
    return float(np.average(log_prob, weights=weights))


def _shrunk_covariance(keys: _Standardised) -> np.ndarray:
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


def _smoothed(
    means: np.ndarray,
    w: np.ndarray,
    h: float,
    grid: tuple[int, int] | None = None,
    held_out: HeldOut | None = None,
) -> ProductMixture:
    scales = h * _mean_and_deviation(means, w)[1]
    if not (scales.min() > 1 / LARGEST_SCALE and scales.max() < LARGEST_SCALE):
        raise InputError(
            f"bandwidth times the tokens' standard deviations must be between "
            f"{1 / LARGEST_SCALE:g} and {LARGEST_SCALE:g}, got {scales.min():.3g} to "
            f"{scales.max():.3g}; rescale the samples, or give another bandwidth."
        )
    return ProductMixture(
        torch.from_numpy(means),
        torch.from_numpy(scales),
        torch.from_numpy(w),
        grid=grid,
        dtype=torch.float64,
        provenance=Provenance(
            description=f"{len(means)} distinct rows, each smoothed by {h:.3g} standard deviations",
            exactness="fitted surrogate",
            bandwidth=h,
            held_out=held_out,
        ),
    )


def _mean_and_deviation(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each coordinate, (N, d).

    A constant coordinate gets the smallest deviation of the others, or 1.
    """
    w = torch.from_numpy(weights / weights.sum())
    mean, variance = (moment.numpy() for moment in moments(Means(torch.from_numpy(rows)), w))
    deviation = np.sqrt(variance)
    varies = deviation > 1e-12 * np.abs(mean)
    smallest = deviation[varies].min() if varies.any() else 1.0
    return mean, np.where(varies, deviation, smallest)


def _distinct(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of positive weight in order of first occurrence, and their summed weights.

    Rows are compared by 128-bit digests, as sorting them would dominate the time.
    """
    kept = np.flatnonzero(weights > 0)
    seen: dict[bytes, int] = {}
    place = np.empty(len(kept), dtype=np.int64)
    for i, r in enumerate(kept):
        row = (rows[r] + 0.0).tobytes()  # -0.0 equals 0.0
        place[i] = seen.setdefault(blake2b(row, digest_size=16).digest(), len(seen))
    _, first = np.unique(place, return_index=True)
    return rows[kept[first]], np.bincount(place, weights=weights[kept])


def _given(bandwidth: float | Literal["auto"]) -> float | None:
    """The given bandwidth, or None for `auto`."""
    if isinstance(bandwidth, str) and bandwidth == "auto":
        return None
    number = isinstance(bandwidth, (int, float)) and not isinstance(bandwidth, bool)
    if not (number and NARROWEST <= bandwidth <= LARGE):
        raise InputError(
            f"bandwidth must be positive, between {NARROWEST:g} and {LARGE:g} standard deviations, "
            f"or 'auto', got {bandwidth!r}."
        )
    return float(bandwidth)


def as_array(x: Tensor | np.ndarray, name: str) -> np.ndarray:
    """A tensor or array as a NumPy array; float types that NumPy lacks become float32.

    Raises:
        InputError: The tensor is not dense; `name` begins the message.
    """
    if not isinstance(x, Tensor):
        return np.asarray(x)
    if x.is_nested or x.is_meta or x.layout != torch.strided:
        sort = "nested" if x.is_nested else "meta" if x.is_meta else str(x.layout)
        raise InputError(f"{name} must be a dense tensor, got a {sort} one; pad or convert it.")
    if x.is_floating_point() and x.element_size() < 4:
        x = x.float()
    return np.asarray(x.detach().resolve_conj().resolve_neg().cpu().numpy())


def require_finite(rows: np.ndarray, name: str) -> None:
    """Raise InputError if rows (n, ...) hold NaN, infinity or numbers whose squares overflow."""
    finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{name} must be finite, got NaN or infinity in {int((~finite).sum())} of "
            f"{len(rows)} rows; drop or repair them."
        )
    far = max(float(rows.max()), -float(rows.min()))
    if not far < LARGE:
        raise InputError(f"{name} must be below {LARGE:g} in size, got {far:g}; rescale them.")


def _rows(x: np.ndarray) -> np.ndarray:
    """The samples as rows (n, N, d), float32 if x is no wider and float64 otherwise."""
    if not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"samples must be real numbers, got {x.dtype}; convert them to float64.")
    with np.errstate(over="ignore"):  # a long double may become infinity, which is refused below
        rows = x.astype(np.float32 if x.dtype.itemsize <= 4 else np.float64, copy=False)
    if rows.ndim == 2:
        rows = rows[..., None]
    if rows.ndim != 3 or rows.size == 0:
        raise InputError(
            f"samples must have shape (rows, tokens) or (rows, tokens, dim), none of them 0, "
            f"got {x.shape}."
        )
    require_finite(rows, "samples")
    return rows
