"""Windows bound W1 from below: against total variations by enumeration, and exact transport."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from capcheck.divergences.discrete import hamming_w1
from capcheck.divergences.hamming_windows import hamming_windows
from capcheck.targets.categorical.sequence_law import SequenceLaw

Array = NDArray[np.float64]
REPEATS = 200


def chain(tokens: int, stay: float) -> Array:
    """The joint law (2,) * N of fair bits that equal their left neighbour with a probability."""
    p = np.empty((2,) * tokens)
    for x in itertools.product((0, 1), repeat=tokens):
        same = sum(a == b for a, b in itertools.pairwise(x))
        p[x] = 0.5 * stay**same * (1 - stay) ** (tokens - 1 - same)
    return p


def draws(p: Array, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sequences (n, N) from a joint table."""
    index = rng.choice(p.size, size=n, p=p.ravel())
    return np.stack(np.unravel_index(index, p.shape), 1)


def sum_of_distances(p: Array, q: Array, width: int) -> float:
    """The sum over disjoint windows of TV, by sums over the tables."""
    N, total = p.ndim, 0.0
    for first in range(0, N, width):
        others = tuple(i for i in range(N) if not first <= i < first + width)
        total += 0.5 * float(np.abs(p.sum(others) - q.sum(others)).sum())
    return total


@pytest.mark.parametrize(("tokens", "width"), [(6, 2), (6, 3), (5, 2), (6, 1), (6, 6)])
def test_the_bound_is_that_of_enumeration(tokens: int, width: int) -> None:
    p, q = chain(tokens, 0.9), chain(tokens, 0.5)
    rng = np.random.default_rng(0)
    term = hamming_windows(draws(q, 40_000, rng), draws(p, 40_000, rng), width=width)
    assert term.value == pytest.approx(sum_of_distances(p, q, width), abs=0.03)


def test_pairs_of_bits_by_hand() -> None:
    # A pair is equal with probability 0.9 and 0.5: TV = 0.4 each, three pairs.
    p, q = chain(6, 0.9), chain(6, 0.5)
    assert sum_of_distances(p, q, 2) == pytest.approx(1.2)
    assert sum_of_distances(p, q, 1) == pytest.approx(0)


def test_it_is_at_most_exact_transport() -> None:
    p, q = chain(6, 0.95), chain(6, 0.5)
    law_p, law_q = (
        SequenceLaw(
            log_probabilities=torch.from_numpy(law.ravel()).log(),
            vocabulary=2,
            tokens=6,
            method="table",
        )
        for law in (p, q)
    )
    exact = hamming_w1(law_p, law_q)
    assert exact is not None
    assert all(sum_of_distances(p, q, width) <= exact + 1e-9 for width in range(1, 7))


@pytest.mark.parametrize("stay", [0.5, 0.6, 0.9])
def test_the_lower_end_holds(stay: float) -> None:
    p, q = chain(8, stay), chain(8, 0.5)
    truth = sum_of_distances(p, q, 2)
    above = 0
    for seed in range(REPEATS):
        rng = np.random.default_rng(seed)
        term = hamming_windows(draws(q, 200, rng), draws(p, 200, rng), width=2)
        above += term.interval(0.95)[0] > truth
    assert above <= 0.05 * REPEATS  # 2.5% are allowed, and the error is conservative


def test_lost_dependence_is_refused_where_single_tokens_see_nothing() -> None:
    p, q = chain(8, 0.9), chain(8, 0.5)
    rng = np.random.default_rng(1)
    model, target = draws(q, 500, rng), draws(p, 500, rng)
    assert hamming_windows(model, target, width=2).interval(0.95)[0] > 1
    assert hamming_windows(model, target, width=1).interval(0.95)[0] < 0.1
    assert hamming_windows(target[:250], target[250:], width=2).interval(0.95)[0] < 0.2


def test_a_large_vocabulary_takes_no_table() -> None:
    rng = np.random.default_rng(2)
    first = rng.integers(0, 50_000, (300, 1))
    target = np.repeat(first, 8, 1)  # copies of one symbol
    model = rng.integers(0, 50_000, (300, 8))
    assert np.isfinite(hamming_windows(model, target, width=4).value)
