"""Targets built from rows of token ids: one component per distinct row, smoothed.

Token i of component c is p_ci(v) = (1 - lambda) [v = x_ci] + lambda m_i(v) with its marginal law
m_i, which is itself smoothed by the pooled law of all tokens with the weight of one row. The share
lambda maximises the leave-one-out likelihood, sum_r log (sum_c w_c prod_i p_ci(x_ri) with one
occurrence of r less). A row of weight w counts as w occurrences. A single occurrence is left out,
not all copies of a row, because repeated sequences are evidence of their frequency. The target's
generalisation is measured on held-out occurrences, used neither for it nor for lambda.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from capcheck.core.arguments import real_number, shown
from capcheck.core.errors import InputError
from capcheck.core.excerpt import excerpt, excerpt_rows
from capcheck.core.log_sums import log_sum_exp
from capcheck.targets.categorical.categorical_components import SmoothedRows, require_held
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.from_data.dependence import COUNTED, dependence_held
from capcheck.targets.parameters import require_count
from capcheck.targets.provenance import HeldOut, LawScore, Provenance

__all__ = [
    "HELD_OUT",
    "INDEPENDENT",
    "MOST",
    "MOST_OCCURRENCES",
    "QUERIES",
    "SHARES",
    "TILE",
    "distinct_rows",
    "from_token_ids",
    "leave_one_out_smoothing",
    "marginals",
    "row_weights",
]

QUERIES = 1000  # most rows whose leave-one-out likelihood chooses the smoothing
HELD_OUT = 0.2  # share of the rows that are held out to measure generalisation
SHARES = np.concatenate([np.geomspace(1e-4, 0.1, 10), np.linspace(0.15, 0.95, 14)])
INDEPENDENT = 1 - 1e-9  # share at which only the marginal laws remain
MOST_OCCURRENCES = 1e8  # most occurrences of a split; larger weights are scaled down
MOST = 1e100  # largest sum of the weights
TILE = 1 << 20  # most numbers held at once


def from_token_ids(
    ids: np.ndarray,
    *,
    smoothing: float | Literal["auto"] = "auto",
    vocabulary: int | None = None,
    weights: Tensor | np.ndarray | None = None,
    grid: tuple[int, int] | None = None,
) -> CategoricalMixture:
    """Build a target from rows of token ids; see `from_samples`, which calls this."""
    if ids.ndim != 2 or ids.size == 0:
        raise InputError(
            f"token ids must have shape (rows, tokens), none of them 0, got {ids.shape}."
        )
    if ids.min() < 0:
        raise InputError(f"token ids must be at least 0, got {ids.min()}; shift them.")
    V = int(ids.max()) + 1 if vocabulary is None else require_count("vocabulary", vocabulary)
    if ids.max() >= V:
        raise InputError(
            f"token ids must be below {V}, got {ids.max()}; "
            "give a larger vocabulary, or renumber those that occur."
        )
    require_held(ids.shape[1], V)
    rows, w = distinct_rows(ids.astype(np.int64), row_weights(weights, len(ids)))
    chosen = _chosen(rows, w, smoothing, V)
    held_out = _held_out(rows, w, smoothing, V)
    return CategoricalMixture.of_rows(
        torch.from_numpy(rows),
        vocabulary=V,
        smoothing=chosen,
        marginals=marginals(rows, w, V),
        weights=torch.from_numpy(w),
        grid=grid,
        provenance=Provenance(
            description=f"{len(rows)} distinct rows, each token mixed with {chosen:.3g} of its "
            "marginal law",
            exactness="fitted surrogate",
            held_out=held_out,
            data_rows=_shown(rows, w, held_out),
        ),
    )


def leave_one_out_smoothing(rows: np.ndarray, weights: np.ndarray, vocabulary: int) -> float:
    """The share of the marginal laws that maximises the leave-one-out log-likelihood.

    Args:
        rows: (n, N) distinct rows of token ids.
        weights: (n,), positive: number of occurrences of each row; below 1 it is one occurrence.
        vocabulary: Vocabulary size V.

    Raises:
        InputError: There are fewer than two distinct rows.
    """
    if len(rows) < 2:
        raise InputError(
            f"smoothing 'auto' needs at least 2 distinct rows, got {len(rows)}; "
            "give rows that differ, or in Python a share of the marginal law, smoothing=0.1."
        )
    keys, total = torch.from_numpy(rows), weights.sum()
    w = torch.from_numpy(weights / total)
    one = torch.from_numpy(np.minimum(weights, 1) / total)  # an occurrence's share
    laws = marginals(rows, weights, vocabulary)
    places = np.unique(np.linspace(0, len(rows) - 1, min(QUERIES, len(rows))).astype(int))
    components = SmoothedRows(keys, laws, 0.0)
    remaining = (w - one).log() - w.log()  # of the row itself
    score = torch.zeros(len(SHARES), dtype=torch.float64)
    for place, share in enumerate(SHARES):
        smoothed = components.with_smoothing(float(share))
        for queries in torch.from_numpy(places).split(max(1, TILE // len(keys))):
            x, logits = keys[queries], w.log().repeat(len(queries), 1)  # (r, N), (r, n)
            smoothed.add_evidence(logits, x, torch.ones_like(x, dtype=torch.bool))
            logits[torch.arange(len(x)), queries] += remaining[queries]
            left = log_sum_exp(logits) - torch.log1p(-one[queries])
            score[place] += w[queries] @ left
    return float(SHARES[int(score.argmax())])


def marginals(rows: np.ndarray, weights: np.ndarray, vocabulary: int) -> Tensor:
    """Law of each token, (N, V), smoothed by the pooled law of all tokens with one row's weight.

    Args:
        rows: (n, N) token ids.
        weights: (n,), not all 0.
        vocabulary: V.
    """
    n, N = rows.shape
    w = torch.from_numpy(weights * (n / weights.sum()))
    counts = torch.zeros(N, vocabulary, dtype=torch.float64)
    counts.scatter_add_(1, torch.from_numpy(rows).T, w.expand(N, -1))
    pooled = counts.sum(0) + 1 / vocabulary  # positive also for symbols that never occur
    laws: Tensor = (counts + pooled / pooled.sum()) / (n + 1)
    return laws


def distinct_rows(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of positive weight, in order of first appearance, with summed weights."""
    rows, weights = rows[weights > 0], weights[weights > 0]
    _, first, inverse = np.unique(
        rows.reshape(len(rows), -1), axis=0, return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    return rows[first[order]], np.bincount(inverse.reshape(-1), weights=weights)[order]


def row_weights(weights: Tensor | np.ndarray | None, count: int) -> np.ndarray:
    """Weights of the rows, equal if none are given.

    Raises:
        InputError: The weights have another shape, are negative, not finite or all 0.
    """
    if weights is None:
        return np.ones(count)
    try:
        given = np.asarray(weights.detach().cpu() if isinstance(weights, Tensor) else weights)
    except ValueError:  # lists of several lengths
        raise InputError(f"weights must be real numbers, got {shown(weights)}.") from None
    if not (np.issubdtype(given.dtype, np.integer) or np.issubdtype(given.dtype, np.floating)):
        raise InputError(f"weights must be real numbers, got {given.dtype}; convert to float64.")
    w = given.astype(np.float64)
    if w.shape != (count,):
        raise InputError(f"weights must have one entry per row, ({count},), got {w.shape}.")
    if not (np.isfinite(w).all() and (w >= 0).all() and w.any()):
        raise InputError(
            "weights must be finite, non-negative and not all 0; drop or fix the rows."
        )
    if not w.max() <= MOST / count:
        raise InputError(
            f"weights must be at most {MOST:g} in all, got one of {w.max():g}; rescale them."
        )
    return w


def _chosen(
    rows: np.ndarray, weights: np.ndarray, smoothing: float | Literal["auto"], vocabulary: int
) -> float:
    if isinstance(smoothing, str) and smoothing == "auto":
        return leave_one_out_smoothing(rows, weights, vocabulary)
    rule = "at least 0 and below 1, or 'auto'"
    return real_number("smoothing", smoothing, rule, lambda share: 0 <= share < 1)


def _held_out(
    rows: np.ndarray, weights: np.ndarray, smoothing: float | Literal["auto"], vocabulary: int
) -> HeldOut | None:
    """Scores of a held-out fifth of the occurrences under a target of the others."""
    occurrences = _occurrences(weights)
    drawn = _drawn(occurrences)
    n = int(drawn.sum())
    test = weights * drawn / occurrences
    train = weights - test
    known = drawn < occurrences
    if n < 1 or known.sum() < 2:
        return None
    chosen = _chosen(rows[known], train[known], smoothing, vocabulary)

    def scores(of: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Some of the rows with a positive weight, and their log-likelihoods."""
        target = CategoricalMixture.of_rows(
            torch.from_numpy(rows[known]),
            vocabulary=vocabulary,
            smoothing=share,
            marginals=marginals(rows[known], train[known], vocabulary),
            weights=torch.from_numpy(train[known]),
        )
        some = np.random.default_rng(1).permutation(np.flatnonzero(of > 0))[:QUERIES]
        return some, target.log_prob(torch.from_numpy(rows[some])).numpy()

    some, law = scores(test, chosen)
    _, independent = scores(test, INDEPENDENT)
    fitted, in_sample = scores(train, chosen)
    left = occurrences - drawn
    counted = min(int(left.sum()), max(1, COUNTED // rows.shape[1]))
    copies = np.random.default_rng(2).multivariate_hypergeometric(left, counted)
    score = float(np.average(law, weights=test[some]))
    baseline = float(np.average(independent, weights=test[some]))
    return HeldOut(
        rows=n,
        log_likelihood=score,
        in_sample=float(np.average(in_sample, weights=train[fitted])),
        baseline=baseline,
        baseline_name="independent tokens",
        candidates=(
            LawScore(name="independent tokens", log_likelihood=baseline, baseline=True),
            LawScore(name="rows", log_likelihood=score, chosen=True),
        ),
        dependence=dependence_held(
            np.repeat(rows, copies, axis=0),
            rows[some],
            law,
            independent,
            vocabulary=vocabulary,
            fitted=int(left.sum()),
            weights=test[some],
        ),
    )


def _occurrences(weights: np.ndarray) -> np.ndarray:
    """The number of occurrences of each row, (n,), whose sum is at most `MOST_OCCURRENCES`."""
    scaled = np.ceil(weights * min(1.0, MOST_OCCURRENCES / weights.sum()))
    counts: np.ndarray = scaled.astype(np.int64)
    return counts


def _drawn(occurrences: np.ndarray) -> np.ndarray:
    """The number of occurrences of each row that are held out, a fifth of all: (n,)."""
    n = int(HELD_OUT * occurrences.sum())
    return np.random.default_rng(0).multivariate_hypergeometric(occurrences, n)


def _shown(rows: np.ndarray, weights: np.ndarray, held_out: HeldOut | None) -> tuple[Any, ...]:
    """A few occurrences of rows (n, N) in random order, of those held out if there are any."""
    occurrences = _occurrences(weights)
    pool = occurrences if held_out is None else _drawn(occurrences)
    rng = np.random.default_rng(3)
    count = excerpt_rows(int(pool.sum()), rows.shape[1])
    picked = np.repeat(rows, rng.multivariate_hypergeometric(pool, count), axis=0)
    return tuple(excerpt(torch.from_numpy(rng.permutation(picked))))
