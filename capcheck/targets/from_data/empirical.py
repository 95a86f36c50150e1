"""Targets built from rows of data: one smoothed component per row.

For real numbers the bandwidth of token i is h s_i, with the token's standard deviation s_i and a
scalar h that is given or chosen by `bandwidth`. The target's generalisation is measured on held-out
rows, used neither for it nor for h. Integers are token ids; `empirical_categorical` handles them.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from capcheck.core.arguments import real_number, shown
from capcheck.core.errors import InputError
from capcheck.core.excerpt import excerpt, excerpt_rows
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.continuous.product_mixture import ProductMixture
from capcheck.targets.from_data.bandwidth import leave_one_out_bandwidth, queries
from capcheck.targets.from_data.baselines import simple_score
from capcheck.targets.from_data.empirical_categorical import (
    HELD_OUT,
    from_token_ids,
    row_weights,
)
from capcheck.targets.from_data.units import mean_and_deviation
from capcheck.targets.provenance import HeldOut, LawScore, Provenance

__all__ = [
    "LARGE",
    "LARGEST_SCALE",
    "NARROWEST",
    "as_array",
    "from_samples",
    "require_finite",
]

LARGE = 1e100  # magnitude from which values are refused, as their squares might overflow
LARGEST_SCALE = 1e150  # scales outside (1 / LARGEST_SCALE, LARGEST_SCALE) are refused
NARROWEST = 1e-5  # bandwidth below which a float64 log-density errs by more than 1e-4 nats


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
    if not np.issubdtype(array.dtype, np.number):
        raise InputError(
            f"samples must be real numbers, got {array.dtype}; convert them to float64."
        )
    if np.issubdtype(array.dtype, np.integer):
        if not (isinstance(bandwidth, str) and bandwidth == "auto"):
            raise InputError(
                f"bandwidth smooths real numbers, got {shown(bandwidth)} for integers, which are "
                "token ids; give smoothing, or convert them to float64."
            )
        return from_token_ids(
            array, smoothing=smoothing, vocabulary=vocabulary, weights=weights, grid=grid
        )
    auto = isinstance(smoothing, str) and smoothing == "auto"
    if not auto or vocabulary is not None:
        raise InputError(
            f"smoothing and vocabulary belong to token ids, got {array.dtype}; "
            "convert the ids to integers."
        )
    rows = _rows(array)
    h = _given(bandwidth)
    means, w = _distinct(rows, row_weights(weights, len(rows)))
    chosen = leave_one_out_bandwidth(means, w) if h is None else h
    target = _smoothed(means, w, chosen, grid, _held_out(means, w, h))
    return target.with_provenance(data_rows=_shown(means, w, target.provenance.held_out))


def _held_out(means: np.ndarray, w: np.ndarray, bandwidth: float | None) -> HeldOut | None:
    """Scores of some of a held-out fifth of the rows under a target of the others."""
    held, train = _split(len(means))
    n, scored = len(held), queries(means)
    test = held[:scored]
    if n < 1 or len(train) < 2:
        return None
    rows, of_rows = means[train], w[train]
    h = leave_one_out_bandwidth(rows, of_rows) if bandwidth is None else bandwidth
    target = _smoothed(rows, of_rows, h)

    def score(index: np.ndarray) -> float:
        log_prob = target.log_prob(torch.from_numpy(means[index])).numpy()
        return float(np.average(log_prob, weights=w[index]))

    baseline, baseline_name = simple_score(rows, means[test], w[test])
    of_test = score(test)
    return HeldOut(
        rows=len(test),
        log_likelihood=of_test,
        in_sample=score(train[:scored]),
        baseline=baseline,
        baseline_name=baseline_name,
        candidates=(
            LawScore(name=baseline_name, log_likelihood=baseline, baseline=True),
            LawScore(name="rows", log_likelihood=of_test, chosen=True),
        ),
    )


def _split(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the held-out fifth of so many rows, and of the others, in random order."""
    order = np.random.default_rng(0).permutation(count)
    n = int(HELD_OUT * count)
    return order[:n], order[n:]


def _shown(means: np.ndarray, w: np.ndarray, held_out: HeldOut | None) -> tuple[Any, ...]:
    """A few rows (n, N, d) picked by their weights, of those held out if there are any."""
    pool = np.arange(len(means)) if held_out is None else _split(len(means))[0]
    count = excerpt_rows(len(pool), means[0].size)
    share = w[pool] / w[pool].sum()
    count = min(count, int(np.count_nonzero(share)))  # a tiny weight may vanish beside others
    picked = np.random.default_rng(1).choice(pool, count, replace=False, p=share)
    return tuple(excerpt(torch.from_numpy(means[picked])))


def _smoothed(
    means: np.ndarray,
    w: np.ndarray,
    h: float,
    grid: tuple[int, int] | None = None,
    held_out: HeldOut | None = None,
) -> ProductMixture:
    scales = h * mean_and_deviation(means, w)[1]
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
    rule = f"positive, between {NARROWEST:g} and {LARGE:g} standard deviations, or 'auto'"
    return real_number("bandwidth", bandwidth, rule, lambda h: NARROWEST <= h <= LARGE)


def as_array(x: Tensor | np.ndarray, name: str) -> np.ndarray:
    """A tensor or array as a NumPy array; float types that NumPy lacks become float32.

    Raises:
        InputError: The tensor is not dense; `name` begins the message.
    """
    if not isinstance(x, Tensor):
        try:
            return np.asarray(x)
        except ValueError:  # rows of several lengths
            raise InputError(
                f"{name} must be an array, got {shown(x)}; give every row one length."
            ) from None
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
