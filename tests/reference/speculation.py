"""Speculative decoding by brute force: every draft, every acceptance, every correction.

Everything goes forward from the start of a block, as the procedure does, over a law that is a list
of sequences. A draft of a round from token j has the law of its token given the tokens before j.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from reference.sequences import Sequences, Symbols

Array = NDArray[np.float64]


def law_given(law: Sequences, x: Symbols, i: int) -> Array:
    """P(x_i = v | x) for a prefix x, (V,)."""
    known = np.array([*x, *[0] * (law.tokens - len(x))])
    return law.given(known, range(len(x)), i)


def prefixes(law: Sequences, size: int) -> Iterator[tuple[Symbols, float]]:
    """Every prefix of so many tokens that the law holds, and its probability."""
    for x in itertools.product(range(law.vocabulary), repeat=size):
        value = float(law.probabilities[(law.states[:, :size] == x).all(1)].sum())
        if value > 0:
            yield x, value


def expected_rounds(law: Sequences, start: int, end: int) -> float:
    """Expected rounds that fill tokens start..end - 1, over all that can happen."""

    @functools.cache
    def rounds(x: Symbols) -> float:
        j, total = len(x), 1.0
        if j == end:
            return 0.0
        q = [law_given(law, x, i) for i in range(j, end)]
        for draft in itertools.product(range(law.vocabulary), repeat=end - j):
            chance = math.prod(float(q_i[v]) for q_i, v in zip(q, draft, strict=True))
            for i, v in enumerate(draft):
                if chance == 0:
                    break
                p = law_given(law, (*x, *draft[:i]), j + i)
                accepted, excess = min(1.0, p[v] / q[i][v]), np.maximum(p - q[i], 0)
                for w in np.flatnonzero(excess) if accepted < 1 - 1e-12 else ():
                    refused = chance * (1 - accepted) * excess[w] / excess.sum()
                    total += refused * rounds((*x, *draft[:i], int(w)))
                chance *= accepted
        return total

    return sum(value * rounds(x) for x, value in prefixes(law, start))


def all_accepted(law: Sequences, start: int, end: int) -> list[float]:
    """P(the first m drafts of a round from `start` are accepted), for m = 1, .., end - start."""
    found = np.zeros(end - start)
    for x, value in prefixes(law, start):
        q = [law_given(law, x, i) for i in range(start, end)]
        for draft in itertools.product(range(law.vocabulary), repeat=end - start):
            chance = value * math.prod(float(q_i[v]) for q_i, v in zip(q, draft, strict=True))
            for i, v in enumerate(draft):
                if chance == 0:
                    break
                chance *= min(1.0, law_given(law, (*x, *draft[:i]), start + i)[v] / q[i][v])
                found[i] += chance
    return found.tolist()


def overlaps(law: Sequences, start: int, end: int) -> list[float]:
    """E[sum_v min(p_i(v), q_i(v))] of the tokens i = start + 1, .., end - 1."""
    return [
        sum(
            value * float(np.minimum(law_given(law, x, i), law_given(law, x[:start], i)).sum())
            for x, value in prefixes(law, i)
        )
        for i in range(start + 1, end)
    ]
