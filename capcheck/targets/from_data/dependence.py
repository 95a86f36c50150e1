"""The gap to the data: the share of the dependence of its tokens that a law of token ids holds.

Let H_0, H and H_n be the cross entropies of held-out rows, in nats per token, under independent
tokens, under the law, and under the n-gram model (`ngrams`) that predicts the rows best. Then

    share = (H_0 - H) / (H_0 - H_n),

which is above 1 if the law predicts the rows better than every n-gram. All models were fitted to
the same other rows. The interval is Fieller's, over the held-out rows, whose three scores are
paired; it does not cover other choices of the rows that the models were fitted to. The order of the
n-gram is chosen on the held-out rows, as sizes of laws are.

Source: Fieller, "Some problems in interval estimation" (1954).
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from capcheck.targets.categorical.emissions import MANY
from capcheck.targets.from_data.ngrams import fit_ngrams
from capcheck.targets.provenance import Dependence

__all__ = [
    "COUNTED",
    "FEWEST",
    "LEVEL",
    "ORDERS",
    "SCORED_TOKENS",
    "dependence_held",
    "ratio_interval",
]

COUNTED = 1 << 22  # most tokens that n-grams are counted in: about a second
SCORED_TOKENS = 1 << 18  # most held-out tokens that n-grams are scored on
ORDERS = (3, 7)  # largest orders of the n-grams: the second where the first predicts best
FEWEST = 10  # held-out rows, below which no share is told
LEVEL = 0.95  # confidence of the interval


def dependence_held(
    train: np.ndarray,
    test: np.ndarray,
    law: np.ndarray,
    independent: np.ndarray,
    *,
    vocabulary: int,
    fitted: int | None = None,
    weights: np.ndarray | None = None,
) -> Dependence | None:
    """Compare a law with n-grams and with independent tokens on held-out rows.

    Args:
        train: Rows that the law was fitted to, (n, N) token ids, in random order: n-grams are
            counted in the first `COUNTED` tokens.
        test: Held-out rows, (m, N), of which the first `SCORED_TOKENS` tokens are used.
        law: Log-likelihood of each held-out row under the law, (m,), in nats per sequence.
        independent: The same under independent tokens, (m,).
        vocabulary: V.
        fitted: Number of rows that the law was fitted to, if `train` holds only some of them.
        weights: Weight of each held-out row, (m,); equal by default.

    Returns:
        The comparison, or None if a row is one token, there are fewer than `FEWEST` held-out rows,
        or a score is not finite.
    """
    N = test.shape[1]
    m = min(len(test), max(FEWEST, SCORED_TOKENS // N))
    w = np.ones(m) if weights is None else weights[:m]
    if N < 2 or m < FEWEST or not np.isfinite([law[:m], independent[:m]]).all():
        return None
    counted = train[: max(1, COUNTED // N)]
    for most in ORDERS:
        model = fit_ngrams(counted, min(most, N - 1), vocabulary=vocabulary)
        scores = np.array([of_order.sum(1) for of_order in model.log_probs(test[:m])])  # (K + 1, m)
        means = np.average(scores, axis=1, weights=w)
        order = int(means.argmax())
        if order < most:
            break
    gained, found = law[:m] - independent[:m], scores[order] - independent[:m]
    # Independent tokens of many symbols have one law, as the n-gram of order 0 has.
    none = order == 0 and vocabulary > MANY
    interval = None if none else ratio_interval(gained, found, w)
    share, low, high = interval if interval is not None else (None, None, None)
    return Dependence(
        rows=m,
        independent=float(-np.average(independent[:m], weights=w) / N),
        law=float(-np.average(law[:m], weights=w) / N),
        ngram=float(-means[order] / N),
        order=order,
        share=share,
        low=low,
        high=high,
        level=LEVEL,
        counted=len(counted),
        fitted=len(train) if fitted is None else fitted,
    )


def ratio_interval(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, *, level: float = LEVEL
) -> tuple[float, float, float] | None:
    """mean(x) / mean(y) of pairs with Fieller's interval: the values r at which x - r y may be 0.

    Args:
        x: Numerators, (m,).
        y: Denominators, (m,), paired with them.
        weights: Weights of the pairs, (m,), positive.
        level: Confidence.

    Returns:
        Value, low and high, or None if mean(y) is not clearly positive.
    """
    w = weights / weights.sum()
    spare = float((w**2).sum())  # 1 / m for equal weights
    means = np.array([w @ x, w @ y])
    from_mean = np.array([x, y]) - means[:, None]  # (2, m)
    covariance = (w**2 * from_mean) @ from_mean.T / max(1 - spare, 1e-12)  # of the means
    t = float(stdtrit(1 / spare - 1, (1 + level) / 2))
    (a, b), (vx, vxy, vy) = means, t**2 * covariance[[0, 0, 1], [0, 1, 1]]
    leading = b**2 - vy
    if not (b > 0 and leading > 0):
        return None
    half = np.sqrt(max((a * b - vxy) ** 2 - leading * (a**2 - vx), 0.0))
    middle = a * b - vxy
    return float(a / b), float((middle - half) / leading), float((middle + half) / leading)
