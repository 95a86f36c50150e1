"""What exact transport is given: every input that has no answer is one sentence."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest

from capcheck.core.errors import InputError
from capcheck.divergences.estimate import Estimate, Term
from capcheck.divergences.wasserstein import (
    Ground,
    corrected_transport,
    in_halves,
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


# What corrected transport falls short by. N(0, I) against N(0, diag(f)^2): W2^2 = |1 - f|^2.


def terms(f: np.ndarray, m: int, runs: int) -> list[Term]:
    """T between `runs` quadruples of sample sets of m rows."""
    rng, found = np.random.default_rng(3), []
    for _ in range(runs):
        p, other, q, q_other = rng.normal(size=(4, m, len(f)))
        halves = zip(in_halves(p), in_halves(other), strict=True)
        found.append(
            corrected_transport(
                p,
                transport(p, other),
                q * f,
                q_other * f,
                half_floors=[transport(*half) for half in halves],
            )
        )
    return found


def without_shortfall(found: list[Term]) -> list[Term]:
    return [term.model_copy(update={"shortfall": 0.0}) for term in found]


def covered(found: list[Term], truth: float) -> tuple[float, float]:
    """Shares of lower and of upper ends on the right side of the truth."""
    ends = np.array([term.interval(0.95) for term in found])
    return float((ends[:, 0] <= truth).mean()), float((ends[:, 1] >= truth).mean())


COLLAPSED = {D: np.eye(D)[0] == 0 for D in (4, 8)}  # one coordinate is constant
CASES = {
    "equal, 4": np.ones(4),
    "equal, 8": np.ones(8),
    "narrow, 4": np.full(4, 0.5),
    "narrow, 8": np.full(8, 0.5),
    "nearly equal, 8": np.full(8, 0.83),
    "collapsed, 4": COLLAPSED[4].astype(float),
    "collapsed, 8": COLLAPSED[8].astype(float),
}
RUNS = 60


@pytest.mark.parametrize("case", CASES)
def test_the_upper_end_of_corrected_transport_covers_a_known_distance(case: str) -> None:
    f = CASES[case]
    truth = float(((1 - f) ** 2).sum())
    found = terms(f, 150, RUNS)
    below, above = covered(found, truth)
    assert above >= 0.95  # of 97.5%: 57 of 60
    assert below >= 0.95
    plain = without_shortfall(found)
    assert covered(plain, truth)[0] == below  # what refuses is as it was
    if case in ("narrow, 8", "collapsed, 8"):
        assert covered(plain, truth)[1] < 0.5  # without it, the interval lies below the truth


def test_a_distance_above_the_tolerance_is_not_accepted_and_still_refused() -> None:
    f = CASES["collapsed, 8"]  # W2^2 = 1, of which T shows about 0.6 at this m
    found = terms(f, 150, RUNS)

    def share(of: list[Term], test: str, bound: float) -> float:
        made = [
            Estimate.of([term], level=0.95, kind="estimate", method="", unit="", samples=150)
            for term in of
        ]
        return float(np.mean([getattr(one, test)(bound) <= 0.05 for one in made]))

    assert share(found, "p_within", 0.95) <= 0.05
    assert share(without_shortfall(found), "p_within", 0.95) > 0.5
    assert share(found, "p_above", 0.1) == share(without_shortfall(found), "p_above", 0.1) > 0.6


def test_the_shortfall_of_a_shift_is_noise_and_it_is_never_beyond_the_raw_cost() -> None:
    # All four costs move alike: C(P, Q) is what it is at equal laws plus the shift's square.
    rng = np.random.default_rng(4)
    p, other, q, q_other = rng.normal(size=(4, 300, 4))
    floors = [transport(*half) for half in zip(in_halves(p), in_halves(other), strict=True)]
    floor = transport(p, other)
    term = corrected_transport(p, floor, q + 5, q_other + 5, half_floors=floors)
    raw = transport_cost(p, q + 5)
    assert 0 <= term.shortfall <= raw - term.value
    assert term.value == pytest.approx(4 * 25, abs=3)
    assert term.shortfall < 1
    scaled = term.scaled(9.0)
    assert scaled.shortfall == 9 * term.shortfall
    assert scaled.interval(0.95)[1] == pytest.approx(9 * term.interval(0.95)[1])


def test_in_halves_leaves_the_last_of_an_odd_number_out() -> None:
    first, second = in_halves(np.arange(5)[:, None])
    assert (first.ravel().tolist(), second.ravel().tolist()) == ([0, 1], [2, 3])
