"""The laws of short windows of categorical tokens bound W1 from below, under the Hamming distance.

    W1 >= sum over disjoint windows of TV(p_w, q_w)

A coupling of whole sequences couples every window, and two windows that differ do so in at least
one token. Windows see dependence between neighbours, which the laws of single tokens do not.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from capcheck.divergences.estimate import Term

__all__ = ["hamming_windows"]

Integers = NDArray[np.int64]


def hamming_windows(model: Integers, target: Integers, *, width: int) -> Term:
    """Bound the sum over disjoint windows of TV(p_w, q_w) from draws of both laws.

    The function f(x) = sum over windows of s(x_w) with s in [-1/2, 1/2] is 1-Lipschitz, so that
    E_Q f - E_P f is at most W1 for any s. It is chosen as half the sign of the difference of the
    shares of a string in all windows together, on one half of the draws, and averaged over the
    other half, both ways: the estimate is not biased upwards. One s for all windows is learned from
    few draws; where the laws of windows differ between places it falls short.

    Args:
        model: (n, N) token ids drawn from Q, n at least 4.
        target: (m, N) token ids drawn from P, m at least 4.
        width: Number of tokens of a window; the last window may be shorter.
    """
    codes = _codes(np.concatenate([model, target]), width)  # (n + m, windows)
    halves = [np.array_split(part, 2) for part in (codes[: len(model)], codes[len(model) :])]
    value = 0.0
    influences: list[list[np.ndarray]] = [[], []]
    for one, other in ((0, 1), (1, 0)):
        signs = _signs(*(part[one] for part in halves), size=int(codes.max()) + 1)
        for k, (part, sign) in enumerate(zip(halves, (1, -1), strict=True)):
            of_rows = sign * signs[part[other]].sum(1)
            value += 0.5 * float(of_rows.mean())
            influences[k].append(of_rows)
    together = [np.concatenate([second, first]) for first, second in influences]
    windows = codes.shape[1]
    term = Term.from_influence(f"windows of {width}", value, together, reach=float(windows))
    # Each half helped to choose the other's signs: at worst they err together.
    return term.model_copy(update={"standard_error": math.sqrt(2) * term.standard_error})


def _codes(x: Integers, width: int) -> Integers:
    """A number for the string in each window, equal for equal strings: (n, windows) from 0."""
    n, N = x.shape
    padded = np.full((n, -(-N // width) * width), -1, dtype=np.int64)
    padded[:, :N] = x
    strings = padded.reshape(n, -1, width)
    codes = np.zeros(strings.shape[:2], dtype=np.int64)
    for symbol in strings.transpose(2, 0, 1):
        base = int(symbol.max()) + 2
        _, codes = np.unique(codes * base + symbol + 1, return_inverse=True)
        codes = codes.reshape(symbol.shape)
    return codes


def _signs(model: Integers, target: Integers, *, size: int) -> np.ndarray:
    """Half the sign of the difference of the shares of each of `size` codes."""
    shares = (np.bincount(part.flatten(), minlength=size) / part.size for part in (model, target))
    of_model, of_target = shares
    signs: np.ndarray = 0.5 * np.sign(of_model - of_target)
    return signs
