"""The divergence that decides a family, and its profile along rising model calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from judged import between, cell, exact, family, sampled, unfinished, unsupported

from capcheck import check
from capcheck.divergences.estimate import Estimate
from capcheck.judging.profile import deciding_divergence, profile
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Measurement, Outcome
from capcheck.targets import from_spec

KL = {"kl": 0.5}
THREE = {"kl": 0.5, "wasserstein": 0.5, "mmd": 0.5}
NONE = Estimate.unavailable("no density", level=0.95, unit="")


def decided(
    cells: Sequence[Measurement], expected: Outcome, tolerances: dict[str, float] = THREE
) -> tuple[FamilyResult, str | None]:
    found = family(*cells, tolerances=tolerances)
    assert found.outcome is expected
    return found, deciding_divergence(found, tolerances)


# The deciding divergence


def test_a_refusal_is_decided_at_the_largest_budget() -> None:
    # In tolerances, W2 is 20 and KL 4 at one step; at four steps it is 2 and 3.
    cells = [
        cell(1, 1, kl=exact(2.0), wasserstein=exact(10.0), mmd=exact(0.1)),
        cell(4, 4, kl=exact(1.5), wasserstein=exact(1.0), mmd=exact(0.1)),
    ]
    assert decided(cells, Outcome.NOT_REPRESENTABLE)[1] == "kl"
    assert decided(cells[::-1][1:], Outcome.NOT_REPRESENTABLE)[1] == "wasserstein"


def test_a_refusal_counts_by_its_lower_end_and_never_by_an_upper_bound() -> None:
    vague, clear = sampled(3.0, 1.2), sampled(1.5, 0.01)
    cells = [cell(1, kl=clear, wasserstein=vague, mmd=exact(0.1))]
    assert decided(cells, Outcome.NOT_REPRESENTABLE)[1] == "kl"
    above = [cell(1, kl=clear, wasserstein=sampled(9.0, 0.01, "upper bound"), mmd=exact(0.1))]
    assert decided(above, Outcome.NOT_REPRESENTABLE)[1] == "kl"
    twin = [cell(1, kl=clear, wasserstein=sampled(9.0, 0.01), mmd=exact(0.1))]
    assert decided(twin, Outcome.NOT_REPRESENTABLE)[1] == "wasserstein"


def test_a_pass_is_decided_where_it_comes_closest_at_the_smallest_sufficient_budget() -> None:
    cells = [
        cell(1, 1, kl=exact(2.0), wasserstein=exact(2.0), mmd=exact(0.4)),
        cell(4, 4, kl=exact(0.2), wasserstein=exact(0.3), mmd=exact(0.4)),
        cell(8, 8, kl=exact(0.2), wasserstein=exact(0.1), mmd=exact(0.4)),
    ]
    # mmd is closest, but cannot make a family representable; at 8 steps kl would be.
    assert decided(cells, Outcome.REPRESENTABLE)[1] == "wasserstein"
    assert decided([cells[0], cells[2]], Outcome.REPRESENTABLE)[1] == "kl"


def test_a_pass_is_not_decided_by_what_is_unresolved() -> None:
    blurred = sampled(0.1, 0.15, null_error=0.3)  # more than a quarter of the tolerance
    cells = [cell(1, kl=exact(0.2), wasserstein=blurred, mmd=exact(0.0))]
    assert decided(cells, Outcome.REPRESENTABLE)[1] == "kl"
    resolved = [cell(1, kl=exact(0.2), wasserstein=sampled(0.1, 0.15), mmd=exact(0.0))]
    assert decided(resolved, Outcome.REPRESENTABLE)[1] == "wasserstein"  # up to 0.39


def test_an_open_question_is_about_what_blocks_a_pass() -> None:
    blurred = sampled(0.1, 0.3, null_error=0.3)
    both_sides = [cell(1, kl=between(0.1, 2.0), wasserstein=blurred, mmd=sampled(0.5, 0.1))]
    assert decided(both_sides, Outcome.INCONCLUSIVE)[1] == "kl"
    of_mmd = [cell(1, kl=exact(0.1), wasserstein=exact(0.1), mmd=sampled(0.5, 0.1))]
    assert decided(of_mmd, Outcome.INCONCLUSIVE)[1] == "mmd"
    # mmd alone cannot make it representable, and is all that there is.
    alone = [cell(1, kl=NONE, wasserstein=NONE, mmd=exact(0.1))]
    assert decided(alone, Outcome.INCONCLUSIVE)[1] == "mmd"


def test_where_nothing_was_measured_nothing_decides() -> None:
    assert deciding_divergence(unsupported("f", "not here"), KL) is None
    assert profile(unsupported("f", "not here"), KL) == ()
    only = family(cell(1, kl=NONE))
    assert deciding_divergence(only, KL) is None
    started = unfinished(cell(1, 1, kl=exact(2.0)), of=3)
    assert deciding_divergence(started, KL) == "kl"
    assert [p.multiple for p in profile(started, KL)] == [4.0]


# The profile


def test_a_profile_is_in_tolerances_by_rising_calls() -> None:
    cells = [cell(8, 1, kl=exact(0.25)), cell(2, 4, kl=exact(1.0)), cell(1, 8, kl=exact(math.inf))]
    points = profile(family(*cells), KL)
    assert [(p.calls, p.multiple) for p in points] == [(1, math.inf), (2, 2.0), (8, 0.5)]
    assert [p.outcome for p in points] == [
        Outcome.NOT_REPRESENTABLE, Outcome.NOT_REPRESENTABLE, Outcome.REPRESENTABLE,
    ]  # fmt: skip
    assert [p.budget.steps for p in points] == [8, 4, 1]


def test_of_cells_with_equal_calls_the_best_counts() -> None:
    cells = [cell(4, 1, kl=exact(2.0)), cell(4, 2, kl=exact(1.0)), cell(4, 3, kl=exact(3.0))]
    assert [(p.multiple, p.budget.steps) for p in profile(family(*cells), KL)] == [(2.0, 2)]
    # A lower bound may lie below a value that passes, and is no better for it.
    both = [cell(4, 1, kl=exact(0.4)), cell(4, 2, kl=sampled(0.1, 0.01, "lower bound"))]
    assert [(p.multiple, p.budget.steps) for p in profile(family(*both), KL)] == [(0.8, 1)]


def test_ends_are_known_on_the_side_that_is_bounded() -> None:
    cells = [
        cell(1, 1, kl=sampled(2.0, 0.1)),
        cell(2, 2, kl=sampled(2.0, 0.1, "lower bound")),
        cell(3, 3, kl=sampled(2.0, 0.1, "upper bound")),
        cell(4, 4, kl=between(1.0, 3.0)),
    ]
    half = 1.959964 * 0.1 / 0.5
    ends = [(p.low, p.multiple, p.high) for p in profile(family(*cells), KL)]
    assert ends[0] == pytest.approx((4 - half, 4, 4 + half), rel=1e-5)
    assert ends[1][2] is None
    assert ends[2][0] is None
    assert ends[3] == (2.0, 4.0, 6.0)


def test_what_is_not_a_number_has_no_point_and_a_law_without_spread_an_infinite_one() -> None:
    cells = [cell(1, 1, kl=exact(math.nan)), cell(2, 2, kl=NONE), cell(3, 3, kl=exact(1.0))]
    assert [p.calls for p in profile(family(*cells), KL)] == [3]
    flat = [cell(1, 1, kl=exact(0.1, scale=0.0)), cell(2, 2, kl=exact(0.0, scale=0.0))]
    assert [p.multiple for p in profile(family(*flat), KL)] == [math.inf, 0.0]


def test_a_chain_of_tokens_is_exact_only_when_each_is_drawn_in_turn() -> None:
    result = check("gpt", from_spec("modes:tokens=2"), samples=200, steps=[1])
    points = profile(result.found, result.settings.tolerances)
    assert [p.calls for p in points] == [1, 2]
    assert points[0].multiple > 1
    assert points[1].multiple == 0
