"""n-gram models of token ids with back-off, of every order up to a largest one.

An order is the number of past tokens that the next one depends on; the order m is the (m + 1)-gram
model. Interpolated Kneser-Ney with three discounts D(1), D(2), D(3+), h a context of m tokens and
h' its last m - 1:

    p(v | h) = (c(h v) - D(c(h v))) / c(h) + g(h) q(v | h'),    g(h) = sum_v D(c(h v)) / c(h),

where c counts occurrences. q is the same formula down to the uniform law over the vocabulary, with
the number of different tokens before a gram in place of c. The first tokens of a row depend on
those that there are.

Source: Chen & Goodman, "An empirical study of smoothing techniques for language modeling" (1999),
section 3, and Kneser & Ney, "Improved backing-off for m-gram language modeling" (1995).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from capcheck.core.errors import InputError
from capcheck.targets.from_data.gram_counts import Grams, count_grams, groups, packed
from capcheck.targets.parameters import require_count

__all__ = ["USUAL_DISCOUNTS", "NGrams", "discounts", "fit_ngrams"]

USUAL_DISCOUNTS = (0.5, 1.0, 1.5)  # where the counts of counts tell none


@dataclass(frozen=True, kw_only=True, eq=False)
class NGrams:
    """Interpolated Kneser-Ney models of the orders 0 to m, from one count of the grams.

    Attributes:
        vocabulary: V.
        grams: The grams of 1, 2, ..., m + 1 tokens.
    """

    vocabulary: int
    grams: tuple[Grams, ...]

    @property
    def order(self) -> int:
        """Largest order m."""
        return len(self.grams) - 1

    def log_probs(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Log-probabilities of every token given those before it, for the orders 0, 1, ..., m.

        Args:
            rows: (n, N) integers in 0..V-1.

        Yields:
            (n, N) float64, in nats.

        Raises:
            InputError: The rows have another shape or type, or hold other ids.
        """
        _require_rows(rows, self.vocabulary)
        B, longest = self.vocabulary + 1, packed(self.order + 1, self.vocabulary)
        context = np.zeros(rows.shape, dtype=np.int64)  # -1: unseen, or beyond the row
        p = lower = np.full(rows.shape, 1 / self.vocabulary)
        for length, of_length in enumerate(self.grams, 1):
            here = context >= 0
            keys = np.where(here, context * B + rows + 1, -1)
            order = np.argsort(keys, axis=None)  # sorted look-ups stay in the cache
            sorted_keys = keys.ravel()[order]
            back = lower.ravel()[order]
            group = _Contexts(of_length.keys, B, sorted_keys)
            shorter, p = p, np.empty_like(lower)
            p.ravel()[order] = group.interpolated(of_length.counts, back)
            p[:, : length - 1] = shorter[:, : length - 1]  # too near the start of the row
            yield np.log(p)
            if of_length.extensions is not None:
                lower = np.empty_like(lower)
                lower.ravel()[order] = group.interpolated(of_length.extensions, back)
            seen = keys
            if length >= longest:
                seen = np.empty_like(keys)
                seen.ravel()[order] = np.where(group.seen, group.place, -1)
            context = np.full(rows.shape, -1, dtype=np.int64)
            context[:, 1:] = seen[:, :-1]


class _Contexts:
    """Grams of one length in groups of one context, and where given keys stand among them.

    Args:
        keys: Keys of the grams that occur, (U,), rising.
        B: V + 1.
        asked: Keys that are looked up, (k,), rising; -1 is none.
    """

    def __init__(self, keys: np.ndarray, B: int, asked: np.ndarray) -> None:
        contexts = keys // B
        self._starts = groups(contexts)
        names = contexts[self._starts]
        self.place, self.seen = _found(keys, asked)
        self._group, self._known = _found(names, asked // B)

    def interpolated(self, counts: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Probabilities of the keys that are looked up, (k,).

        Args:
            counts: Counts of the grams, (U,).
            lower: Probabilities of the shorter grams, (k,).
        """
        D = np.array([0.0, *discounts(counts)])
        of_counts = D[np.minimum(counts, 3)]
        total = np.add.reduceat(counts, self._starts)[self._group]
        mass = np.add.reduceat(of_counts, self._starts)[self._group]
        own = np.where(self.seen, (counts - of_counts)[self.place], 0.0)
        return np.where(self._known, (own + mass * lower) / total, lower)


def fit_ngrams(rows: np.ndarray, order: int, *, vocabulary: int) -> NGrams:
    """Count the grams of rows for models of the orders 0 to `order`.

    Args:
        rows: (n, N) integers in 0..V-1.
        order: Largest number of past tokens, from 0 to N - 1.
        vocabulary: V.

    Raises:
        InputError: The rows have another shape or type or hold other ids, the order is out of its
            range, or there are more grams than memory.
    """
    require_count("vocabulary", vocabulary)
    _require_rows(rows, vocabulary)
    require_count("order of an n-gram model", order, least=0)
    if order >= rows.shape[1]:
        raise InputError(
            f"order of an n-gram model must be below the {rows.shape[1]} tokens of a row, got "
            f"{order}; choose a lower one."
        )
    return NGrams(vocabulary=vocabulary, grams=tuple(count_grams(rows, order, vocabulary)))


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """D(1), D(2) and D(3+) = i - (i + 1) Y n_(i+1) / n_i, with Y = n_1 / (n_1 + 2 n_2).

    n_i is how many grams have the count i. `USUAL_DISCOUNTS` are returned where one of n_1 to n_4
    is 0, or a discount is not positive.

    Source: Chen & Goodman (1999), eq. 17.

    Args:
        counts: Counts of the grams, (U,), at least 1.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    if not n[1:5].all():
        return USUAL_DISCOUNTS
    Y = n[1] / (n[1] + 2 * n[2])
    found = [i - (i + 1) * Y * n[i + 1] / n[i] for i in (1, 2, 3)]
    if min(found) <= 0:
        return USUAL_DISCOUNTS
    return float(found[0]), float(found[1]), float(found[2])


def _found(keys: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each key that is asked for among rising keys, (k,), and whether it is there."""
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return place, keys[place] == asked


def _require_rows(rows: np.ndarray, vocabulary: int) -> None:
    """Raise InputError unless rows are (n, N) integers in 0..V-1."""
    if rows.ndim != 2 or rows.size == 0 or not np.issubdtype(rows.dtype, np.integer):
        raise InputError(
            f"rows of n-grams must be integers of shape (rows, tokens), got {rows.dtype} "
            f"{rows.shape}."
        )
    if rows.min() < 0 or rows.max() >= vocabulary:
        raise InputError(
            f"token ids must be from 0 to {vocabulary - 1}, got {rows.min()} to {rows.max()}; "
            "shift them."
        )
