"""Counts of n-grams in rows of token ids, of every length up to a largest one.

A gram of l tokens has the key `context x B + last + 1`, with B = V + 1, so that sorted keys stand
in groups of one context. As long as B^l fits into 63 bits, the context is the key of a gram of
l - 1 tokens, and shorter grams are counted by dropping the oldest token of longer ones. Beyond
that, the context is the index of a gram among those that occur, and any order and any vocabulary
has keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from capcheck.core.errors import InputError

__all__ = ["BLOCK", "MOST_GRAMS", "Grams", "count_grams", "groups", "last_tokens_key", "packed"]

BLOCK = 1 << 22  # tokens whose keys are sorted at once: 32 MiB
MOST_GRAMS = 1 << 26  # most different grams of one length that are held: 1 GiB with their counts
BITS = 63  # of a key


@dataclass(frozen=True, kw_only=True, eq=False)
class Grams:
    """The different grams of one length.

    Attributes:
        keys: (U,) int64, rising.
        counts: Number of occurrences of each gram, (U,) int64.
        extensions: Number of different tokens that were seen before each gram, where the start of
            a row is one of them, (U,) int64; None for the longest grams.
    """

    keys: np.ndarray
    counts: np.ndarray
    extensions: np.ndarray | None


def count_grams(rows: np.ndarray, order: int, vocabulary: int) -> list[Grams]:
    """Count all grams of 1 to order + 1 tokens; a gram lies within one row.

    Args:
        rows: (n, N) integers in 0..V-1.
        order: Number of tokens of the longest context, below N.
        vocabulary: V.

    Raises:
        InputError: More than `MOST_GRAMS` different grams of one length occur.
    """
    B = vocabulary + 1
    longest = packed(order + 1, vocabulary)
    found: list[Grams] = []
    keys, counts = _counted(rows, longest, B)
    extensions = None
    for length in range(longest, 0, -1):
        whole = keys >= B ** (length - 1)  # others begin before their row
        own = None if extensions is None else extensions[whole]
        found.insert(0, Grams(keys=keys[whole], counts=counts[whole], extensions=own))
        if length > 1:
            keys, (counts, extensions) = _merged(keys % B ** (length - 1), counts)
    if longest <= order:
        found += _longer(rows, order, B, found.pop())
    return found


def packed(length: int, vocabulary: int) -> int:
    """The largest number of tokens, at most `length`, whose keys hold all tokens themselves."""
    while length > 1 and (vocabulary + 1) ** length >= 1 << BITS:
        length -= 1
    return length


def last_tokens_key(rows: np.ndarray, length: int, B: int) -> np.ndarray:
    """Keys of the `length` tokens up to each one of rows (n, N); 0 stands before a row: (n, N)."""
    keys = np.zeros(rows.shape, dtype=np.int64)
    for age in range(min(length, rows.shape[1]) - 1, -1, -1):
        keys *= B
        keys[:, age:] += rows[:, : rows.shape[1] - age]
        keys[:, age:] += 1
    return keys


def groups(sorted_values: np.ndarray) -> np.ndarray:
    """The index at which each group of equal values begins: (G,) int64."""
    first = np.ones(len(sorted_values), dtype=bool)
    np.not_equal(sorted_values[1:], sorted_values[:-1], out=first[1:])
    return np.flatnonzero(first)


def _counted(rows: np.ndarray, length: int, B: int) -> tuple[np.ndarray, np.ndarray]:
    """Different keys of the `length` tokens up to each one, rising, and their counts.

    Blocks are counted by themselves and merged in pairs of like size, as in a merge sort.
    """
    runs: list[tuple[np.ndarray, np.ndarray]] = []
    for block in _blocks(rows, length, B):
        keys = np.sort(block)
        starts = groups(keys)
        runs.append((keys[starts], np.diff(starts, append=len(keys))))
        while len(runs) > 1 and len(runs[-2][0]) < 2 * len(runs[-1][0]):
            runs.append(_sum_of(runs.pop(), runs.pop()))
    while len(runs) > 1:
        runs.append(_sum_of(runs.pop(), runs.pop()))
    return runs[0]


def _blocks(rows: np.ndarray, length: int, B: int) -> Iterator[np.ndarray]:
    """Keys of the `length` tokens up to each one, in blocks of about `BLOCK`: (k,) each."""
    n, N = rows.shape
    if N <= BLOCK:
        size = max(1, BLOCK // N)
        for start in range(0, n, size):
            yield last_tokens_key(rows[start : start + size], length, B).ravel()
        return
    for row in rows:
        for start in range(0, N, BLOCK):
            before = min(start, length - 1)
            part = row[None, start - before : start + BLOCK]
            yield last_tokens_key(part, length, B)[0, before:]


def _sum_of(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Two lists of different keys with counts as one."""
    keys, (counts, _) = _merged(np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]]))
    _require_held(len(keys))
    return keys, counts


def _merged(
    keys: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Different keys, rising, with the sums of their counts and the numbers of entries."""
    order = np.argsort(keys, kind="stable")  # which merges runs that are sorted already
    keys = keys[order]
    starts = groups(keys)
    sums = np.add.reduceat(counts[order], starts)
    return keys[starts], (sums, np.diff(starts, append=len(keys)))


def _longer(rows: np.ndarray, order: int, B: int, last: Grams) -> list[Grams]:
    """The longest packed grams with their extensions, and all longer ones.

    All positions are held at once.
    """
    length = packed(order + 1, B - 1)
    found: list[Grams] = []
    index = np.searchsorted(last.keys, last_tokens_key(rows, length, B))  # (n, N), of each gram
    for l in range(length + 1, order + 2):  # noqa: E741, the length of a gram
        keys = index[:, l - 2 : -1] * B + rows[:, l - 1 :] + 1  # (n, N - l + 1)
        unique, first, inverse, counts = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        _require_held(len(unique))
        shorter = index[:, l - 1 :].ravel()[first]  # the gram without its oldest token
        extensions = np.bincount(shorter, minlength=len(last.keys))
        extensions[np.unique(index[:, l - 2])] += 1  # the start of a row
        found.append(Grams(keys=last.keys, counts=last.counts, extensions=extensions))
        last = Grams(keys=unique, counts=counts, extensions=None)
        index[:, l - 1 :] = inverse.reshape(keys.shape)
    return [*found, last]


def _require_held(count: int) -> None:
    """Raise InputError if there are more grams of one length than are held."""
    if count > MOST_GRAMS:
        raise InputError(
            f"order must leave at most {MOST_GRAMS} different n-grams, got {count}; choose a lower "
            "order, or give fewer rows."
        )
