"""Curves and plans against closed forms of lists that are copied, shuffled, or have one change."""

from __future__ import annotations

import math

import pytest
from reference import parallelbench as losses

from capcheck import decoding_plan
from capcheck.exact.information_curve import exact_curve
from capcheck.targets import from_spec

LOSSES = [
    *(
        (f"copy:tokens={N},symbols={V}", losses.copy_at_once(N, V), losses.copy_by_twos(N, V))
        for N, V in [(2, 2), (5, 3), (8, 4), (9, 17)]
    ),
    *((f"shuffle:{N}", losses.shuffle_at_once(N), losses.shuffle_by_twos(N)) for N in [2, 3, 6, 7]),
    *(
        (f"replacement:{N}", losses.replacement_at_once(N), losses.replacement_by_twos(N))
        for N in [2, 3, 8, 13]
    ),
]
NAMES = [spec for spec, *_ in LOSSES]


def by_twos(N: int) -> list[int]:
    """Two tokens in every step, and one in the last if N is odd."""
    return [*range(0, N, 2), N]


def check_losses(spec: str, at_once: float, of_twos: float) -> None:
    """The exact curve gives both losses, to 1e-12 nats."""
    curve = exact_curve(from_spec(spec))
    assert curve is not None
    N = curve.tokens
    assert curve.cost([0, N]) == pytest.approx(at_once, abs=1e-12)
    assert curve.total_correlation == pytest.approx(at_once, abs=1e-12)
    assert curve.cost(by_twos(N)) == pytest.approx(of_twos, abs=1e-12)


@pytest.mark.parametrize(("spec", "at_once", "of_twos"), LOSSES, ids=NAMES)
def test_the_curve_of_a_list_has_the_losses_of_closed_forms(
    spec: str, at_once: float, of_twos: float
) -> None:
    check_losses(spec, at_once, of_twos)


@pytest.mark.parametrize("spec", ["copy:tokens=7,symbols=7", "replacement:7", "shuffle:6"])
def test_the_losses_of_another_list_are_noticed(spec: str) -> None:
    with pytest.raises(AssertionError):
        check_losses(spec, losses.shuffle_at_once(7), losses.shuffle_by_twos(7))


@pytest.mark.parametrize(("spec", "at_once", "of_twos"), LOSSES, ids=NAMES)
def test_a_plan_of_a_list_has_the_losses_of_closed_forms(
    spec: str, at_once: float, of_twos: float
) -> None:
    target = from_spec(spec)
    N = target.spec.tokens
    plan = decoding_plan(target, calls=[1, max(1, N // 2)])
    assert plan.total_correlation.value == pytest.approx(at_once, abs=1e-12)
    one = plan.price(1, "uniform")
    assert one is not None
    assert one.kl.value == pytest.approx(at_once / N, abs=1e-12)
    if N % 2 == 0:  # then uniform steps of N / 2 calls are of two tokens
        twos = plan.price(N // 2, "uniform")
        assert twos is not None
        assert set(twos.placed) == {2}
        assert twos.kl.value == pytest.approx(of_twos / N, abs=1e-12)


def test_known_values() -> None:
    # Two tokens in one step: a pair of a copy shares ln V, of a shuffle ln 2, and so does 01 or 10.
    assert losses.copy_at_once(2, 5) == losses.copy_by_twos(2, 5) == math.log(5)
    assert losses.shuffle_at_once(2) == pytest.approx(math.log(2))
    assert losses.replacement_at_once(2) == pytest.approx(math.log(2))
    assert losses.replacement_by_twos(2) == pytest.approx(math.log(2))
    # Four symbols by twos: ln(4/3) + ln(2/1) = ln(8/3).
    assert losses.shuffle_by_twos(4) == pytest.approx(math.log(8 / 3))
    # One change in four, by twos: (f(4) - 2 f(3) + 2 f(2) - 2 f(1) + f(0)) / 4, f(n) = n ln n,
    # = ln 4 - (3/2) ln 3 + ln 2.
    expected = math.log(4) - 1.5 * math.log(3) + math.log(2)
    assert losses.replacement_by_twos(4) == pytest.approx(expected)
