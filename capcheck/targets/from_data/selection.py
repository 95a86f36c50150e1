"""Selection of the size of a fitted law by held-out likelihood.

A law of each size is fitted to four fifths of the rows and scored on the other fifth by its mean
log-likelihood, 1/n sum_r log p(x_r) in nats per sequence. The size with the largest score is fitted
again to all rows. Its held-out score is reported together with that of a simpler law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.excerpt import excerpt
from capcheck.targets.from_data.empirical_categorical import HELD_OUT
from capcheck.targets.parameters import require_count
from capcheck.targets.provenance import Dependence, HeldOut, LawScore
from capcheck.targets.target import Target

__all__ = [
    "LEAST",
    "SCORED",
    "SIZES",
    "TargetT",
    "best_fitted",
    "log_likelihoods",
    "mean_log_likelihood",
    "require_rows",
    "sizes_to_try",
]

SIZES = (1, 2, 4, 8, 16, 32)  # numbers of components or classes to choose from
SCORED = 2000  # most rows that a score averages
LEAST = 2  # least number of rows: one to hold out and one to fit to

TargetT = TypeVar("TargetT", bound=Target)


def best_fitted(
    rows: np.ndarray,
    sizes: Sequence[int],
    fit: Callable[[np.ndarray, int], TargetT],
    baseline: Callable[[np.ndarray, np.ndarray], float],
    baseline_name: str,
    *,
    name: Callable[[int], str],
    dependence: Callable[[np.ndarray, np.ndarray, np.ndarray], Dependence | None] | None = None,
    again: Callable[[np.ndarray, TargetT], TargetT] | None = None,
) -> TargetT:
    """The law of the size that predicts held-out rows best, fitted to all rows.

    Args:
        rows: (n, ...), at least 2.
        sizes: Sizes to choose from.
        fit: Function that fits a law of a size to rows.
        baseline: Function of rows to fit and rows to score that returns a simpler law's score.
        baseline_name: Name of the simpler law.
        name: Function of a size that returns the law's name as for `--law`.
        dependence: Function of rows to fit, rows to score and the law's log-likelihoods of these
            that tells how much dependence the law holds.
        again: Function that fits the best law to all rows, if it need not be fitted anew.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    n = max(1, int(HELD_OUT * len(rows)))
    test, train = rows[order[:n]], rows[order[n:]]
    best_size, best, best_score, of_rows = sizes[0], None, -np.inf, torch.empty(0)
    tried: dict[int, float] = {}
    for size in sizes:
        model = fit(train, size)
        scores = log_likelihoods(model, test)
        score = tried[size] = float(scores.mean())
        if best is None or score > best_score:
            best_size, best, best_score, of_rows = size, model, score, scores
    assert best is not None
    told = None if dependence is None else dependence(train, test[:SCORED], of_rows.cpu().numpy())
    final = fit(rows, best_size) if again is None else again(rows, best)
    simple = baseline(train, test)
    return final.with_provenance(
        description=f"{final.provenance.description}, fitted to {len(rows)} rows",
        exactness="fitted surrogate",
        held_out=HeldOut(
            rows=n,
            log_likelihood=best_score,
            in_sample=mean_log_likelihood(best, train),
            baseline=simple,
            baseline_name=baseline_name,
            dependence=told,
            candidates=(
                LawScore(name=baseline_name, log_likelihood=simple, baseline=True),
                *(
                    LawScore(name=name(size), log_likelihood=score, chosen=size == best_size)
                    for size, score in tried.items()
                ),
            ),
        ),
        data_rows=tuple(excerpt(torch.from_numpy(test))),  # which are in random order
    )


def log_likelihoods(model: Target, rows: np.ndarray) -> Tensor:
    """Log-likelihoods of the first `SCORED` rows, in nats per sequence: (r,)."""
    return model.log_prob(torch.from_numpy(rows[:SCORED]))


def mean_log_likelihood(model: Target, rows: np.ndarray) -> float:
    """Mean log-likelihood of the first `SCORED` rows, in nats per sequence."""
    return float(log_likelihoods(model, rows).mean())


def sizes_to_try(
    given: int | None, known: Sequence[int], count: int, *, distinct: int | None = None
) -> Sequence[int]:
    """The given size, or the sizes to choose from.

    Args:
        given: Size that the user asked for, or None.
        known: Sizes to choose from if none is given, as far as the rows allow.
        count: Number of rows.
        distinct: Number of distinct rows, if it limits the size in place of `count`.

    Raises:
        InputError: The given size is not a whole number from 1 to half of the limiting number.
    """
    counted = count if distinct is None else distinct
    if given is None:
        return [size for size in known if size < max(counted // 4, 2)] or [known[0]]
    size, most = require_count("size of the law", given), max(counted // 2, 1)
    if size > most:
        rule = f"between 1 and {most}" if most > 1 else "1"
        rows = f"{count} rows" if counted == count else f"{count} rows, {counted} of them distinct"
        raise InputError(
            f"size of the law must be {rule} for {rows}, got {size}; choose a smaller one, or give "
            "more rows."
        )
    return [size]


def require_rows(count: int, least: int = LEAST) -> None:
    """Raise InputError unless there are enough rows to hold some out and to fit to the others."""
    if count < least:
        raise InputError(
            f"data must have at least {least} rows to fit a law to, got {count}; give more rows."
        )
