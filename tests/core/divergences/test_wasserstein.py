"""What exact transport is given: every input that has no answer is one sentence."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest

from capcheck.core.errors import InputError
from capcheck.divergences.wasserstein import (
    Ground,
    corrected_transport,
    transport,
    transport_cost,
)

GOOD = np.random.default_rng(0).normal(size=(6, 2))
NAN = np.where(GOOD > 0, GOOD, math.nan)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (GOOD, NAN, r"NaN or infinity in \d of 6; leave them out"),
        (np.where(GOOD > 0, GOOD, math.inf), GOOD, "finite rows"),
        (GOOD, GOOD[:, :1], r"one D and at least one row, got \(6, 2\) and \(6, 1\)"),
        (GOOD[0], GOOD, "one D"),
        (GOOD[:0], GOOD, "at least one row"),
        (GOOD[:, :0], GOOD[:, :0], "at least one row"),
    ],
)
@pytest.mark.parametrize("ground", ["squared Euclidean", "Hamming"])
def test_rows_without_an_answer_are_one_clear_error(
    x: np.ndarray, y: np.ndarray, message: str, ground: Ground
) -> None:
    with pytest.raises(InputError, match=message):
        transport(x, y, ground)
    with pytest.raises(InputError, match=message):
        transport_cost(x, y, ground)


def test_squares_that_overflow_are_named_and_large_ones_are_not() -> None:
    with pytest.raises(InputError, match=r"got values of up to .*e\+200; divide both"):
        transport(1e200 * GOOD, GOOD)
    large = transport(1e100 * GOOD, 1e100 * GOOD[::-1] + 1e100).cost
    assert large == pytest.approx(1e200 * transport(GOOD, GOOD[::-1] + 1).cost)


def test_a_ground_that_is_none_is_named() -> None:
    with pytest.raises(InputError, match="squared Euclidean, Hamming, got 'euclid'"):
        transport(GOOD, GOOD, cast(Ground, "euclid"))


@pytest.mark.parametrize("ground", ["squared Euclidean", "Hamming"])
def test_one_row_is_moved_whole(ground: Ground) -> None:
    # From (1, 2) to (1, 5): 9 squared, one of two tokens differs.
    x, y = np.array([[1.0, 2.0]]), np.array([[1.0, 5.0]])
    assert transport(x, y, ground).cost == {"Hamming": 1, "squared Euclidean": 9}[ground]
    with pytest.raises(InputError, match="at least 2 rows"):
        corrected_transport(x, transport(x, x, ground), y, y, ground)


@pytest.mark.parametrize(("p", "q", "r"), [(6, 5, 6), (6, 6, 5), (5, 6, 6)])
def test_sets_of_several_sizes_are_refused(p: int, q: int, r: int) -> None:
    floor = transport(GOOD, GOOD)
    with pytest.raises(InputError, match=r"four sets of one size .*cut them to the smallest"):
        corrected_transport(GOOD[:p], floor, GOOD[:q], GOOD[:r])
