"""Laws of token ids that are fitted to rows: latent classes, Markov chains, hidden Markov models.

Symbols are counted, and hidden variables are found by `maximisation`. Held-out likelihood chooses
the size of a law (`selection`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.targets.categorical.categorical_components import LARGEST as MOST_NUMBERS
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.categorical.emissions import MANY
from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.categorical.markov_chain import LARGEST, MarkovChain
from capcheck.targets.from_data.baselines import independent_symbols, independent_symbols_score
from capcheck.targets.from_data.coarse_to_fine import coarse_to_fine
from capcheck.targets.from_data.dependence import dependence_held
from capcheck.targets.from_data.empirical_categorical import marginals
from capcheck.targets.from_data.gram_counts import BLOCK
from capcheck.targets.from_data.maximisation import hidden_states, latent_classes
from capcheck.targets.from_data.selection import (
    SIZES,
    TargetT,
    best_fitted,
    require_rows,
    sizes_to_try,
)
from capcheck.targets.parameters import Grid, require_count
from capcheck.targets.provenance import Dependence

__all__ = [
    "AFFORDABLE",
    "MANY_TOKENS",
    "MOMENTS",
    "STATES",
    "fit_hidden_markov",
    "fit_latent_class",
    "fit_markov_chain",
]

STATES = (4, 8, 16, 32)  # numbers of hidden states to choose from
MANY_TOKENS = 1 << 18  # tokens of many symbols beyond which only the larger two are tried
MOMENTS = 1 << 26  # most numbers of the marginal laws of a hidden Markov model: half a GiB
AFFORDABLE = 1 << 18  # most numbers of a Markov table whose oracle calls take about a second


def fit_latent_class(
    ids: np.ndarray,
    classes: int | None = None,
    *,
    vocabulary: int,
    seed: int = 0,
    grid: Grid = None,
) -> CategoricalMixture:
    """A latent-class model: a mixture of products of categorical laws, by EM.

    Args:
        ids: (n, N) integers in 0..V-1, at least 2 rows.
        classes: Number of components; by held-out likelihood if not given.
        vocabulary: V.
        seed: Seed of the start.
        grid: (rows, columns) of the tokens, if they have any.
    """
    ids = _require_ids(ids, vocabulary)
    _require_few(ids.shape[1], vocabulary)

    def fit(rows: np.ndarray, size: int) -> CategoricalMixture:
        prior = marginals(rows, np.ones(len(rows)), vocabulary)  # (N, V)
        return latent_classes(torch.from_numpy(rows), size, prior, seed=seed, grid=grid)

    sizes = sizes_to_try(classes, SIZES, len(ids))
    return _best("classes", ids, sizes, fit, vocabulary)


def fit_markov_chain(
    ids: np.ndarray,
    order: int | None = None,
    *,
    vocabulary: int,
    grid: Grid = None,
) -> MarkovChain:
    """An n-gram model, each order interpolated with the one below it.

    p(v | context) = (count(context v) + kinds(context) p(v | shorter context)) / (count(context) +
    kinds(context)), where kinds counts the different symbols that were seen after the context.

    Source: Witten & Bell 1991, "The zero-frequency problem".

    Args:
        ids: (n, N) integers in 0..V-1, at least 2 rows.
        order: How many tokens of the past count; by held-out likelihood among 1, 2 and 3 if not
            given, as far as V^(order + 1) numbers are affordable.
        vocabulary: V.
        grid: (rows, columns) of the tokens, if they have any.

    Raises:
        InputError: An order that the sequence or the memory is too small for.
    """
    ids = _require_ids(ids, vocabulary)
    N = ids.shape[1]
    _require_pairs(vocabulary)
    _require_few(N, vocabulary)

    def fit(rows: np.ndarray, size: int) -> MarkovChain:
        tables: list[Tensor] = []
        # Every position counts towards the lower orders, the starts of windows included.
        lower = torch.full((vocabulary,), 1 / vocabulary, dtype=torch.float64)
        for j in range(size + 1):
            counts = torch.from_numpy(_counts(rows, j + 1, vocabulary)).double()
            kinds = (counts > 0).sum(-1, keepdim=True)
            total = counts.sum(-1, keepdim=True) + kinds
            table = torch.where(total > 0, (counts + kinds * lower) / total, lower)
            tables.append(table)
            lower = table
        return MarkovChain(tables, tokens=N, grid=grid)

    sizes = _orders(order, N, vocabulary, len(ids))
    return _best("markov", ids, sizes, fit, vocabulary)


def fit_hidden_markov(
    ids: np.ndarray,
    states: int | None = None,
    *,
    vocabulary: int,
    seed: int = 0,
    grid: Grid = None,
) -> HiddenMarkov:
    """A homogeneous hidden Markov model, by EM.

    Source: Baum, Petrie, Soules & Weiss 1970, "A maximization technique occurring in the
    statistical analysis of probabilistic functions of Markov chains".

    Args:
        ids: (n, N) integers in 0..V-1, at least 2 rows.
        states: Number of hidden states; by held-out likelihood if not given.
        vocabulary: V.
        seed: Seed of the start.
        grid: (rows, columns) of the tokens, if they have any.
    """
    ids = _require_ids(ids, vocabulary)
    if vocabulary * ids.shape[1] > MOMENTS:
        raise InputError(
            f"symbols x tokens must be at most {MOMENTS}, got {vocabulary} x {ids.shape[1]}; merge "
            "rare symbols, or choose fewer tokens."
        )
    facts: dict[str, Any] = {"seed": seed, "grid": grid}
    if vocabulary > MANY:
        sizes = sizes_to_try(states, STATES if ids.size <= MANY_TOKENS else STATES[2:], len(ids))
        return _best(
            "hmm",
            ids,
            sizes,
            lambda rows, S: coarse_to_fine(torch.from_numpy(rows), S, vocabulary, **facts),
            vocabulary,
            again=lambda rows, found: coarse_to_fine(
                torch.from_numpy(rows), len(found.tables[0]), vocabulary, start=found, **facts
            ),
        )

    def fit(rows: np.ndarray, size: int) -> HiddenMarkov:
        prior = marginals(rows, np.ones(len(rows)), vocabulary).mean(0)  # (V,)
        return hidden_states(torch.from_numpy(rows), size, prior, **facts)

    return _best("hmm", ids, sizes_to_try(states, STATES, len(ids)), fit, vocabulary)


def _best(
    law: str,
    ids: np.ndarray,
    sizes: Sequence[int],
    fit: Callable[[np.ndarray, int], TargetT],
    vocabulary: int,
    again: Callable[[np.ndarray, TargetT], TargetT] | None = None,
) -> TargetT:
    """The law of the size that predicts held-out rows best, by its name; see `best_fitted`."""

    def gap(train: np.ndarray, test: np.ndarray, law: np.ndarray) -> Dependence | None:
        scores = independent_symbols(train, test, vocabulary).numpy()
        return dependence_held(train, test, law, scores, vocabulary=vocabulary)

    baseline = independent_symbols_score(vocabulary)
    return best_fitted(
        ids,
        sizes,
        fit,
        baseline,
        "independent tokens",
        name=lambda size: f"{law}:{size}",
        dependence=gap,
        again=again,
    )


def _counts(rows: np.ndarray, length: int, vocabulary: int) -> np.ndarray:
    """Number of occurrences of every string of symbols of a length in the rows: (V,) * length."""
    size = vocabulary**length
    counts = np.zeros(size, dtype=np.int64)
    block = max(1, max(BLOCK, size) // rows.shape[1])  # each block costs as much as its table
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        last = part.shape[1] - length + 1
        places = part[:, :last].copy()
        for age in range(1, length):
            places *= vocabulary
            places += part[:, age : last + age]
        counts += np.bincount(places.ravel(), minlength=size)
    return counts.reshape((vocabulary,) * length)


def _orders(given: int | None, tokens: int, vocabulary: int, count: int) -> Sequence[int]:
    """The given order of a Markov chain, or the orders to choose from.

    Raises:
        InputError: An order that the sequence or the memory is too small for.
    """
    if given is None:
        affordable = [m for m in (1, 2, 3) if vocabulary ** (m + 1) <= AFFORDABLE]
        return sizes_to_try(None, [m for m in affordable if m < tokens] or [0], count)
    order = require_count("order of a Markov chain", given, least=0)
    if order >= tokens:
        raise InputError(
            f"order of a Markov chain must be below the {tokens} tokens of a sequence, got "
            f"{order}; choose a lower one."
        )
    if vocabulary ** (order + 1) > LARGEST:
        raise InputError(
            f"order {order} over {vocabulary} symbols needs {float(vocabulary) ** (order + 1):.2g} "
            f"numbers, and at most {LARGEST} are held; choose a lower one, got {order}."
        )
    return [order]


def _require_pairs(vocabulary: int) -> None:
    """Raise InputError if a table of all pairs of symbols would be too large."""
    if vocabulary**2 > LARGEST:
        raise InputError(
            f"a Markov chain must have at most {math.isqrt(LARGEST)} symbols, as its tables hold "
            f"all pairs of them, got {vocabulary}; use the law hmm, or merge rare symbols."
        )


def _require_few(tokens: int, vocabulary: int) -> None:
    """Raise InputError if the marginal laws of all tokens are too many for several classes."""
    if vocabulary * tokens > MOST_NUMBERS:
        raise InputError(
            f"symbols x tokens must be at most {MOST_NUMBERS}, got {vocabulary} x {tokens}; use "
            "the law hmm, merge rare symbols, or choose fewer tokens."
        )


def _require_ids(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """Rows (n, N) of integers in 0..V-1, n at least 2, as int64."""
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"token ids must be integers of shape (rows, tokens), got {ids.dtype} {ids.shape}."
        )
    require_count("vocabulary", vocabulary)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise InputError(f"token ids must be from 0 to {vocabulary - 1}, got {wrong}; shift them.")
    require_rows(len(ids))
    return ids.astype(np.int64, copy=False)
