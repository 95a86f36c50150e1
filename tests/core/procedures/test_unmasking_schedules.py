"""Best schedules: against all compositions, the other rules, and curves whose best is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.information import schedules

from capcheck.exact.information_curve import InformationCurve, exact_curve
from capcheck.procedures.orders import uniform_schedule
from capcheck.procedures.unmasking_schedules import best_schedules, cosine_schedule
from capcheck.targets import MarkovChain, from_spec

Array = NDArray[np.float64]

SMALL = [
    "parity:6",
    "parity:tokens=7,ones=0.2",
    "copy",
    "shuffle:5",
    "replacement",
    "latin:3",
    "sudoku",
    "ising:rows=3,columns=3",
    "ising:rows=2,columns=4,coupling=-0.8,field=0.2",
    "brackets:10",
    "chain-parity:4",
    "chain-parity:inputs=6,scratch=no",
    "chain-permutation:2",
]


def curve(seed: int, tokens: int, *, falls: bool) -> Array:
    """A random curve, falling if asked."""
    h = np.random.default_rng(seed).uniform(0.0, 2.0, tokens)
    found: Array = np.sort(h)[::-1].copy() if falls else h
    return found


def cost(schedule: Sequence[int], sizes: Sequence[int], h: Array) -> float:
    """sum_j (m_{j+1} - m_j) h(m_j)."""
    height = dict(zip(sizes, map(float, h), strict=True))
    return sum((after - before) * height[before] for before, after in itertools.pairwise(schedule))


def check_best(tokens: int, sizes: Sequence[int], h: Array, found: Array) -> None:
    """Of the schedules that begin steps at the sizes, none of as many steps costs less by `h`."""
    every = [one for one in schedules(tokens) if set(one[:-1]) <= set(sizes)]
    each = list(best_schedules(tokens, sizes, found))
    assert len(each) == len(sizes)
    for steps, (value, schedule) in enumerate(each, start=1):
        least = min(cost(one, sizes, h) for one in every if len(one) == steps + 1)
        assert len(schedule) == steps + 1
        assert set(schedule[:-1]) <= set(sizes)
        assert_rises(schedule, tokens)
        assert value == pytest.approx(least, abs=1e-12)
        assert cost(schedule, sizes, h) == pytest.approx(least, abs=1e-12)


def assert_rises(schedule: Sequence[int], tokens: int) -> None:
    """From 0 to N, with at least one token in every step."""
    assert schedule[0] == 0
    assert schedule[-1] == tokens
    assert all(after > before for before, after in itertools.pairwise(schedule))


@pytest.mark.parametrize("falls", [True, False])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6, 7])
def test_no_composition_costs_less_than_the_best(tokens: int, falls: bool) -> None:
    for seed in range(5):
        h = curve(seed, tokens, falls=falls)
        check_best(tokens, range(tokens), h, h)


@pytest.mark.parametrize("sizes", [(0,), (0, 6), (0, 3), (0, 1, 2, 5), (0, 2, 3, 4, 6)])
def test_steps_begin_at_the_given_sizes_alone(sizes: tuple[int, ...]) -> None:
    for seed in range(5):
        h = curve(seed, len(sizes), falls=True)
        check_best(7, sizes, h, h)


def test_the_best_for_another_curve_is_noticed() -> None:
    with pytest.raises(AssertionError):
        check_best(7, range(7), curve(0, 7, falls=True), curve(1, 7, falls=True))


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 33, 64])
def test_the_other_rules_rise_from_0_to_all_tokens_in_as_many_steps_as_asked(tokens: int) -> None:
    for calls in range(1, tokens + 1):
        for schedule in (uniform_schedule(tokens, calls), cosine_schedule(tokens, calls)):
            assert len(schedule) == calls + 1
            assert_rises(schedule, tokens)
        steps = np.diff(uniform_schedule(tokens, calls))
        assert steps.max() - steps.min() <= 1


def chain(seed: int, tokens: int) -> MarkovChain:
    """A random chain of 3 symbols."""
    p = np.random.default_rng(seed).dirichlet(np.full(3, 0.5), size=4)
    return MarkovChain([torch.tensor(p[0]), torch.tensor(p[1:])], tokens=tokens)


STICKY = MarkovChain(
    [torch.full((2,), 0.5).double(), torch.tensor(0.05 + 0.9 * np.eye(2))], tokens=24
)


def check_rules(found: InformationCurve) -> None:
    """The best schedule costs no more than the others, for any number of calls, nor less than 0."""
    N, h = found.tokens, found.values.numpy()
    for calls, (value, best) in enumerate(best_schedules(N, range(N), h), start=1):
        assert value - found.entropy == pytest.approx(found.cost(best), abs=1e-11)
        assert found.cost(best) >= -1e-11
        for other in (uniform_schedule(N, calls), cosine_schedule(N, calls)):
            assert found.cost(best) <= found.cost(other) + 1e-11


@pytest.mark.parametrize("spec", SMALL)
def test_the_best_is_no_worse_than_other_rules(spec: str) -> None:
    found = exact_curve(from_spec(spec))
    assert found is not None
    check_rules(found)


@pytest.mark.parametrize("target", [*(chain(seed, 24) for seed in range(5)), STICKY])
def test_on_chains_the_best_is_no_worse_and_takes_small_steps_first(target: MarkovChain) -> None:
    found = exact_curve(target)
    assert found is not None
    check_rules(found)
    four = list(best_schedules(24, range(24), found.values.numpy()))[3][1]
    first, *_, last = np.diff(four)
    assert first <= last
    assert first < last or target is not STICKY


@pytest.mark.parametrize("tokens", [3, 6, 12])
def test_parity_wants_its_last_token_alone_and_a_copy_its_first(tokens: int) -> None:
    # h is ln 2 up to m = N - 2 and 0 at N - 1: 2 calls lose nothing if the second has one token.
    found = exact_curve(from_spec(f"parity:{tokens}"))
    assert found is not None
    two = list(best_schedules(tokens, range(tokens), found.values.numpy()))[1][1]
    assert two == [0, tokens - 1, tokens]
    assert found.cost(two) == pytest.approx(0, abs=1e-12)
    # h is ln 4 at m = 0 and 0 after it: the first call has one token.
    found = exact_curve(from_spec(f"copy:{tokens}"))
    assert found is not None
    two = list(best_schedules(tokens, range(tokens), found.values.numpy()))[1][1]
    assert two == [0, 1, tokens]
    assert found.cost(two) == pytest.approx(0, abs=1e-12)
