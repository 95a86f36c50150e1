"""Classifier two-sample test: the accuracy of a classifier f that separates two samples.

    accuracy = 1/2 P(f(X) = 0) + 1/2 P(f(Y) = 1),  at most 1/2 + TV(P, Q) / 2

The rows are cut into `BLOCKS` blocks in random order, and f is trained on all blocks before the one
that it classifies. Every row is thus classified before f is trained on it, so that for equal laws
the number of right answers is binomial with parameter 1/2, or less dispersed. Ordinary
cross-validation lacks this property, because two classifiers trained on exchanged halves are right
together. Clopper and Pearson's interval holds for the accuracy averaged over the blocks.

The classifier is a logistic regression on the coordinates, their squares and their products. The
log-ratio of two Gaussians has this form, so the test responds to every mean, variance and pairwise
dependence; it needs no seed and no nearest neighbours, which fail in many dimensions. It does not
respond to dependence that only three or more tokens show together; MMD does.

Source: Lopez-Paz and Oquab, Revisiting classifier two-sample tests (ICLR 2017),
https://arxiv.org/abs/1610.06545, with exact bounds in place of their normal one; sequential answers
after Dawid's prequential principle (1984).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness

__all__ = [
    "BLOCKS",
    "FARTHEST",
    "ITERATIONS",
    "LEAST",
    "PRODUCTS",
    "WIDEST",
    "ClassifierTest",
    "binomial_interval",
    "classifier_test",
]

BLOCKS = 5  # blocks of rows, the first of which is only trained on
LEAST = 20 * BLOCKS  # least rows of each sample; with fewer the classifier learns nothing
PRODUCTS = 40  # most coordinates with products as features: 860 features
WIDEST = 4096  # most coordinates; with more, thousands of rows teach a classifier nothing
FARTHEST = 100.0  # standard deviations at which coordinates are clipped: squares would dominate
ITERATIONS = 200  # iterations of the optimiser; the test is valid without convergence


@dataclass(frozen=True, kw_only=True)
class ClassifierTest:
    """The outcome of a classifier two-sample test.

    Attributes:
        accuracy: Share of rows classified correctly; 1/2 on average for equal laws.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p_value: Upper bound of the probability of at least as many right answers for equal laws.
        rows: Number of rows classified, half of them from each sample.
    """

    accuracy: float
    low: float
    high: float
    p_value: float
    rows: int


def classifier_test(
    x: Tensor, y: Tensor, *, rng: Randomness, level: float = 0.95
) -> ClassifierTest:
    """Test whether two samples have one law, by a classifier's accuracy on rows it has not seen.

    Args:
        x: (n, D) numbers, or token ids; n at least `LEAST`.
        y: (m, D) numbers, or token ids; m at least `LEAST`. The same number of rows of each sample
            is used, that of the smaller one.
        rng: Source of the random order of the rows.
        level: Confidence of the interval.

    Raises:
        InputError: The shapes do not match, there are too few rows, values are not finite, one
            sample holds numbers and the other token ids, there are more than `WIDEST` coordinates,
            or the level is outside (0, 1).
    """
    _require_samples(x, y, level)
    if not x.is_floating_point():
        x, y = _one_hot(x, y)
    n = min(len(x), len(y))
    a, b = (_shuffled(z, rng.stream(f"classifier/{name}"))[:n] for z, name in ((x, "x"), (y, "y")))
    size = n // BLOCKS
    first = n - (BLOCKS - 1) * size
    right = 0
    for start in range(first, n, size):
        asked = slice(start, start + size)
        right += _right_answers(a[:start], b[:start], a[asked], b[asked])
    rows = 2 * (n - first)
    low, high = binomial_interval(right, rows, level=level)
    return ClassifierTest(
        accuracy=right / rows,
        low=low,
        high=high,
        p_value=float(stats.binom.sf(right - 1, rows, 0.5)),
        rows=rows,
    )


def binomial_interval(successes: int, trials: int, *, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval for a probability, exact at every number of trials.

    Source: Clopper and Pearson, The use of confidence or fiducial limits (Biometrika, 1934).
    """
    tail = (1 - level) / 2
    low, high = 0.0, 1.0
    if successes > 0:
        low = float(stats.beta.ppf(tail, successes, trials - successes + 1))
    if successes < trials:
        high = float(stats.beta.isf(tail, successes + 1, trials - successes))
    return low, high


def _right_answers(a: np.ndarray, b: np.ndarray, a_new: np.ndarray, b_new: np.ndarray) -> int:
    """Number of new rows that a classifier trained on a and b classifies correctly."""
    from sklearn.exceptions import ConvergenceWarning  # scikit-learn takes a second to load
    from sklearn.linear_model import LogisticRegression

    known = np.concatenate([a, b])
    unit = np.abs(known).max(0)  # squares must not overflow
    unit[unit == 0] = 1
    centre, spread = (known / unit).mean(0), (known / unit).std(0)
    spread[spread == 0] = 1

    def standard(z: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            values = (z / unit - centre) / spread
        clipped: np.ndarray = np.clip(values, -FARTHEST, FARTHEST)
        return clipped

    features = _quadratic(standard(known))
    mean, deviation = features.mean(0), features.std(0)
    deviation[deviation < 1e-9] = 1
    model = LogisticRegression(max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((features - mean) / deviation, np.repeat([0, 1], [len(a), len(b)]))
    said = [model.predict((_quadratic(standard(new)) - mean) / deviation) for new in (a_new, b_new)]
    return int((said[0] == 0).sum() + (said[1] == 1).sum())


def _quadratic(z: np.ndarray) -> np.ndarray:
    """Features (n, F): coordinates, squares, and in at most `PRODUCTS` dimensions products."""
    if z.shape[1] > PRODUCTS:
        return np.concatenate([z, z**2], 1)
    i, j = np.triu_indices(z.shape[1])
    return np.concatenate([z, z[:, i] * z[:, j]], 1)


def _shuffled(z: Tensor, rng: Randomness) -> np.ndarray:
    order = rng.uniform((len(z),)).argsort().to(z.device)
    rows: np.ndarray = z[order].to("cpu", torch.float64).numpy()
    return rows


def _one_hot(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """One-hot vectors of token ids, (n, D V) and (m, D V)."""
    lowest = min(int(x.min()), int(y.min()))
    symbols = max(int(x.max()), int(y.max())) - lowest + 1
    if symbols * x.shape[1] > WIDEST:
        raise InputError(
            f"a classifier of token ids takes at most {WIDEST} one-hot coordinates, got "
            f"{x.shape[1]} tokens over {symbols} symbols; leave it out."
        )
    hot = [torch.nn.functional.one_hot(z.long() - lowest, symbols).flatten(1) for z in (x, y)]
    return hot[0], hot[1]


def _require_samples(x: Tensor, y: Tensor, level: float) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise InputError(
            f"samples must be (n, D) and (m, D) with one D, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}; flatten the tokens of a sequence."
        )
    if min(len(x), len(y)) < LEAST:
        raise InputError(
            f"the classifier test needs at least {LEAST} rows of each sample, got {len(x)} and "
            f"{len(y)}; draw more."
        )
    if x.shape[1] > WIDEST:
        raise InputError(
            f"the classifier test takes at most {WIDEST} coordinates, got {x.shape[1]}; leave it "
            "out."
        )
    if x.is_floating_point() != y.is_floating_point():
        raise InputError(f"samples must both hold numbers or ids, got {x.dtype} and {y.dtype}.")
    if not all(bool(z.isfinite().all()) for z in (x, y)):
        raise InputError("samples must be finite, got NaN or infinity; leave such rows out.")
    if not 0 < level < 1 or math.isnan(level):
        raise InputError(f"level must be between 0 and 1, got {level!r}.")
