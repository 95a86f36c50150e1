"""A lower bound on KL(p* || q) from draws alone, by a function that tells them apart.

    KL(p* || q) >= E_p f - log E_q e^f    for every function f

with equality for f = log p* / q (Donsker & Varadhan). The function is learned on one half of the
draws and evaluated on the other half, both ways, and the two values are averaged. It is the logit
of a classifier of the two samples, times a factor: a logistic regression or boosted trees,
whichever bounds better on rows held back from the half that it learns from. If none does better
than 0, f is 0 and so is the bound.

The classifier sees the tokens, their squares and products, and log p*(x), which is known. That one
number tells a model whose draws are too narrow, too wide or impossible, in any dimension. It is
left out where only some of the tokens count, since it depends on all of them.

The bound can refuse a model and never accept one. Values of f are clipped such that no draw has a
share of more than `SHARE` in the mean of e^f, so that the interval holds at its level.

Source: Donsker & Varadhan 1983; Nguyen, Wainwright & Jordan 2010, "Estimating divergence
functionals", https://arxiv.org/abs/0809.0853.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.divergences.estimate import Term

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

__all__ = ["FARTHEST", "FEWEST", "SHARE", "kl_from_below"]

FEWEST = 200  # fewest draws of each law; with fewer a classifier learns nothing
MOST = 5_000  # most draws of each law that are read
SHARE = 0.02  # largest share of a draw in the mean of e^f, were that mean 1
FARTHEST = 8.0  # standard deviations at which features are clipped
PRODUCTS = 32  # most coordinates with products as features: 528 features
WIDEST = 2048  # most features of token ids, as one-hot vectors
FACTORS = (1.0, 0.7, 0.4)  # factors of the logit that are tried
HELD_BACK = 4  # one row in this many of a half chooses among the functions

Function = Callable[[np.ndarray], np.ndarray]


def kl_from_below(
    spec: SequenceSpec, x: Tensor, y: Tensor, log_p_x: Tensor, log_p_y: Tensor
) -> Term | None:
    """The bound, averaged over both halves, with the influence of every draw.

    Args:
        spec: Specification of the tokens.
        x: Draws of the target, (n, N, d), or (n, N) integers.
        y: Draws of the model, like x. Rows may be infinite or not numbers.
        log_p_x: Log-density of the target at x, (n,), nats.
        log_p_y: The same at y, (n,); -inf where the target has no mass.

    Returns:
        The term, in nats; None if there are fewer than `FEWEST` draws.
    """
    n = min(len(x), len(y), MOST)
    if n < FEWEST:
        return None
    centre, spread = float(log_p_x[:n].double().mean()), float(log_p_x[:n].double().std())
    a, b = (_features(spec, rows[:n]) for rows in (x, y))
    if spec.scored is None:
        own = [(log_p[:n].double() - centre) / (spread or 1.0) for log_p in (log_p_x, log_p_y)]
        a, b = (
            np.concatenate([features, _clipped(torch.stack([of, of.square()], 1))], 1)
            for features, of in zip((a, b), own, strict=True)
        )
    halves = np.arange(n) % 2 == 0
    value, of_x, of_y = 0.0, np.zeros(n), np.zeros(n)
    for learned in (halves, ~halves):
        f = _learned(a[learned], b[learned])
        asked = ~learned
        f_x, f_y = f(a[asked]), np.exp(f(b[asked]))
        value += 0.5 * float(f_x.mean() - math.log(f_y.mean()))
        of_x[asked], of_y[asked] = f_x, -f_y / f_y.mean()
    return Term.from_influence("KL from below", value, [of_x, of_y])


def _learned(a: np.ndarray, b: np.ndarray) -> Function:
    """The function that bounds best on the rows held back, of those learned on the others."""
    held = np.arange(len(a)) % HELD_BACK == 0
    known = np.concatenate([a[~held], b[~held]])
    label = np.repeat([1, 0], [len(a[~held]), len(b[~held])])
    limit = math.log(max(2.0, SHARE * len(a)))
    best: Function = _nothing
    most = 0.0
    for logit, factor in itertools.product(_logits(known, label), FACTORS):

        def f(z: np.ndarray, logit: Function = logit, factor: float = factor) -> np.ndarray:
            return np.clip(factor * logit(z), -limit, limit)

        f_x, f_y = f(a[held]), np.exp(f(b[held]))
        found = float(f_x.mean() - math.log(f_y.mean()))
        error = math.sqrt((f_x.var() + f_y.var() / f_y.mean() ** 2) / held.sum())
        if found - error > most:
            most, best = found - error, f
    return best


def _nothing(z: np.ndarray) -> np.ndarray:
    return np.zeros(len(z))


def _logits(known: np.ndarray, label: np.ndarray) -> Iterator[Function]:
    """The logits of several classifiers of the rows."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # scikit-learn is slow to load
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    centre, spread = known.mean(0), known.std(0)
    spread[spread < 1e-9] = 1
    for strength in (1e-3, 1e-1):
        model = LogisticRegression(C=strength, max_iter=100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit((known - centre) / spread, label)
        yield functools.partial(_logit, model, centre, spread)
    trees = HistGradientBoostingClassifier(
        max_iter=60, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=20, random_state=0,
        early_stopping=False,
    )  # fmt: skip
    trees.fit(known, label)
    yield trees.decision_function


def _logit(
    model: LogisticRegression, centre: np.ndarray, spread: np.ndarray, z: np.ndarray
) -> np.ndarray:
    logit: np.ndarray = model.decision_function((z - centre) / spread)
    return logit


def _clipped(z: Tensor) -> np.ndarray:
    """Features within `FARTHEST`; what is not a number counts as the lowest."""
    finite = torch.nan_to_num(z, -FARTHEST, FARTHEST, -FARTHEST).clamp(-FARTHEST, FARTHEST)
    features: np.ndarray = finite.cpu().numpy()
    return features


def _features(spec: SequenceSpec, rows: Tensor) -> np.ndarray:
    """Features (n, F) of the rows: the tokens that count, their squares and products."""
    counted = list(spec.counted)
    if spec.kind == "categorical" and len(counted) * spec.dim <= WIDEST:
        flat = _clipped(torch.nn.functional.one_hot(rows[:, counted], spec.dim).flatten(1).double())
    elif spec.kind == "categorical":
        return rows[:, counted].double().cpu().numpy()
    else:
        mean, deviation = spec.mean[counted].double(), spec.variance[counted].double().sqrt()
        z = (rows[:, counted].double() - mean) / torch.where(deviation > 0, deviation, 1)
        flat = _clipped(z.flatten(1))
    if flat.shape[1] <= PRODUCTS:
        i, j = np.triu_indices(flat.shape[1])
        return np.concatenate([flat, flat[:, i] * flat[:, j]], 1)
    return flat if spec.kind == "categorical" else np.concatenate([flat, flat**2], 1)
