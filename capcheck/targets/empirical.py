"""Targets built from rows of data: one component per row, smoothed.

Integers are token ids; what is done with them is in `empirical_categorical`. For real numbers the
bandwidth of token i is h s_i, with s_i the token's standard deviation and the scalar h chosen by
leave-one-out likelihood: sum_r log sum_{c != r} w_c N(x_r; x_c, h^2 s^2) / (1 - w_r). How well such
a target generalises is measured on rows that neither it nor h has seen.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from capcheck.errors import InputError
from capcheck.laws import LOG_2PI
from capcheck.targets.categorical_mixture import CategoricalMixture
from capcheck.targets.empirical_categorical import (
    HELD_OUT,
    QUERIES,
    distinct_rows,
    from_token_ids,
    row_weights,
)
from capcheck.targets.product_mixture import ProductMixture
from capcheck.targets.target import HeldOut, Provenance

LARGE = 1e100  # magnitudes whose squares might overflow are refused


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
        smoothing: Smoothing of categorical tokens: how much of its marginal law is mixed into each
            token of a row, at least 0 and below 1; `auto` likewise.
        vocabulary: V; by default the largest id plus 1.
        weights: (n,) non-negative weights of the rows; equal by default.
        grid: (rows, columns) of the tokens, if they have any.

    Raises:
        InputError: Wrong shape, NaN or infinity, a bandwidth that is not positive, or fewer than
            two distinct rows with bandwidth `auto`.

    Example:
        >>> target = from_samples(np.array([[0.0, 0.0], [0.1, 0.2], [1.0, 1.1], [0.9, 1.0]]))
        >>> target.means.shape
        torch.Size([4, 2, 1])
    """
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
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
    w = row_weights(weights, len(rows))
    number = isinstance(bandwidth, (int, float)) and 0 < bandwidth < LARGE
    if bandwidth != "auto" and not number:
        raise InputError(
            f"bandwidth must be positive and below {LARGE:g}, or 'auto', got {bandwidth!r}."
        )
    h = leave_one_out_bandwidth(rows, w) if bandwidth == "auto" else float(bandwidth)
    return _smoothed(rows, w, h, grid, _held_out(rows, w, bandwidth))


def leave_one_out_bandwidth(rows: np.ndarray, weights: np.ndarray) -> float:
    """The h that maximises the leave-one-out log-likelihood.

    Equal rows count as one row of their summed weight: a copy of a row says nothing about how far
    unseen rows lie, and would drive h to 0.

    Args:
        rows: (n, N, d), finite.
        weights: (n,), non-negative.

    Raises:
        InputError: Fewer than two distinct rows.
    """
    means, w = distinct_rows(rows, weights)
    if len(means) < 2:
        raise InputError(
            f"bandwidth 'auto' needs at least 2 distinct rows, got {len(means)}; "
            "give a bandwidth in units of the tokens' standard deviation."
        )
    keys = torch.from_numpy((means / _deviation(rows, weights)).reshape(len(means), -1))
    keys = keys - keys.mean(0)
    share = torch.from_numpy(w / w.sum())
    queries = torch.from_numpy(
        np.unique(np.linspace(0, len(means) - 1, min(QUERIES, len(means))).astype(int))
    )
    low, high, best = 1e-3, 1e1, 0.0
    for _ in range(3):  # each round looks more closely around the best of the one before
        tried = np.geomspace(low, high, 13)
        place = int(np.argmax(_left_out_scores(keys, share, queries, tried)))
        best, low, high = tried[place], tried[max(place - 1, 0)], tried[min(place + 1, 12)]
    return float(best)


def _left_out_scores(
    keys: Tensor, share: Tensor, queries: Tensor, bandwidths: np.ndarray
) -> np.ndarray:
    """Weighted mean log-likelihood of the query rows, each left out, for every bandwidth."""
    dim = keys.shape[1]
    norms = keys.square().sum(1)
    score = torch.zeros(len(bandwidths), dtype=torch.float64)
    size = max(1, (1 << 20) // len(keys))
    for start in range(0, len(queries), size):
        chunk = queries[start : start + size]
        squares = (norms[chunk, None] + norms - 2 * keys[chunk] @ keys.T).clamp_(min=0)
        squares[torch.arange(len(chunk)), chunk] = torch.inf
        left = share.log() - torch.log1p(-share[chunk])[:, None]
        for i, h in enumerate(bandwidths):
            density = (left - 0.5 * squares / h**2).logsumexp(1) - dim * math.log(h)
            score[i] += share[chunk] @ density
    return score.numpy()


def _held_out(
    rows: np.ndarray, weights: np.ndarray, bandwidth: float | Literal["auto"]
) -> HeldOut | None:
    means, w = distinct_rows(rows, weights)
    order = np.random.default_rng(0).permutation(len(means))
    n = int(HELD_OUT * len(means))
    test, train = order[:n], order[n:]
    if n < 1 or len(train) < 2:
        return None
    h = leave_one_out_bandwidth(means[train], w[train]) if bandwidth == "auto" else bandwidth
    target = _smoothed(means[train], w[train], float(h))

    def score(index: np.ndarray) -> float:
        log_prob = target.log_prob(torch.from_numpy(means[index[:QUERIES]])).numpy()
        return float(np.average(log_prob, weights=w[index[:QUERIES]]))

    return HeldOut(
        rows=n,
        log_likelihood=score(test),
        in_sample=score(train),
        baseline=gaussian_score(means[train], means[test], w[test]),
        baseline_name="one Gaussian",
    )


def gaussian_score(train: np.ndarray, test: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean log-likelihood (nats) of test rows under one shrunk Gaussian of the training rows.

    Args:
        train: (n, N, d).
        test: (m, N, d).
        weights: (m,) of the test rows; equal by default.
    """
    scale = _deviation(train, np.ones(len(train))).reshape(-1)
    fitted = LedoitWolf().fit(train.reshape(len(train), -1) / scale)
    distance = fitted.mahalanobis(test.reshape(len(test), -1) / scale)
    log_det = np.linalg.slogdet(fitted.covariance_)[1] + 2 * np.log(scale).sum()
    log_prob = -0.5 * (distance + log_det + scale.size * LOG_2PI)
    return float(np.average(log_prob, weights=weights))


def _smoothed(
    rows: np.ndarray,
    weights: np.ndarray,
    h: float,
    grid: tuple[int, int] | None = None,
    held_out: HeldOut | None = None,
) -> ProductMixture:
    means, w = distinct_rows(rows, weights)
    return ProductMixture(
        torch.from_numpy(means),
        torch.from_numpy(h * _deviation(rows, weights)),
        torch.from_numpy(w),
        grid=grid,
        provenance=Provenance(
            description=f"{len(means)} distinct rows, each smoothed by {h:.3g} standard deviations",
            exactness="fitted surrogate",
            bandwidth=h,
            held_out=held_out,
        ),
    )


def _deviation(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, d) standard deviations; a constant coordinate takes the smallest positive one, or 1."""
    mean = np.average(rows, axis=0, weights=weights)
    deviation = np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=weights))
    varies = deviation > 1e-12 * np.abs(mean)
    smallest = deviation[varies].min() if varies.any() else 1.0
    return np.where(varies, deviation, smallest)


def _rows(x: np.ndarray) -> np.ndarray:
    if not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"samples must be real numbers, got {x.dtype}; convert them to float64.")
    rows = x.astype(np.float64)
    if rows.ndim == 2:
        rows = rows[..., None]
    if rows.ndim != 3 or rows.size == 0:
        raise InputError(
            f"samples must have shape (rows, tokens) or (rows, tokens, dim), none of them 0, "
            f"got {rows.shape if rows.ndim != 3 else np.shape(x)}."
        )
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows)).any(axis=(1, 2)).sum())
        raise InputError(
            f"samples must be finite, got NaN or infinity in {bad} of {len(rows)} rows; "
            "drop or repair them."
        )
    if not np.abs(rows).max() < LARGE:
        raise InputError(
            f"samples must be below {LARGE:g} in size, got {np.abs(rows).max():g}; rescale them."
        )
    return rows
