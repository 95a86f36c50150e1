from __future__ import annotations

import math
import random
from typing import Any

import pytest

from capcheck import survey
from capcheck.core.budget import Budget
from capcheck.divergences.estimate import GROUPS, Estimate, Term
from capcheck.judging.front import Point, front, non_dominated
from capcheck.procedures.trace import Traces
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell, Outcome
from capcheck.results.survey import SurveyResult
from capcheck.targets import from_spec


def exact(value: float) -> Estimate:
    return Estimate.exact(value, level=0.95, method="", unit="", scale=1.0, power=1)


def sampled(value: float, error: float, **facts: Any) -> Estimate:
    term = Term(
        label="", value=value, standard_error=error, degrees=10**6, groups=(value,) * GROUPS
    )
    given: dict[str, Any] = {"kind": "estimate", **facts}
    return Estimate.of([term], level=0.95, method="", unit="", samples=100, **given)


def cell(calls: int, steps: int = 1, **estimates: Estimate) -> Cell:
    return Cell(
        budget=Budget(length=1, steps=steps),
        samples=100,
        model_calls=calls,
        tokens_processed=1,
        traces=Traces(),
        estimates=estimates,
        outcome=Outcome.INCONCLUSIVE,
        reason="",
    )


def point(calls: int, multiple: float) -> Point:
    return Point(family="f", row="length", cell=cell(calls), multiple=multiple)


def _named(found: FamilyResult, family: str) -> FamilyResult:
    plan = found.plan.model_copy(update={"family": family})
    return found.model_copy(update={"plan": plan})


def undominated_pairs(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """By the definition: every pair against every other one."""
    return [
        (c, r)
        for c, r in pairs
        if math.isfinite(r) and not any(d <= c and s <= r and (d, s) != (c, r) for d, s in pairs)
    ]


@pytest.fixture(scope="module")
def template() -> SurveyResult:
    return survey(from_spec("modes:tokens=2"), ["gpt", "maskgit"], samples=200, steps=[1])


def of_cells(template: SurveyResult, *families: list[Cell], names: str = "kl") -> SurveyResult:
    """A survey whose families have these cells; every tolerance is 0.5."""
    settings = template.settings.model_copy(
        update={"tolerances": dict.fromkeys(names.split(), 0.5)}
    )
    found = tuple(
        _named(template.families[0], f"f{i}").model_copy(update={"cells": tuple(cells)})
        for i, cells in enumerate(families)
    )
    return template.model_copy(update={"settings": settings, "families": found})


@pytest.mark.parametrize("seed", range(40))
def test_the_front_is_what_no_other_cell_beats(seed: int) -> None:
    draw = random.Random(seed)
    values = [0.0, 0.5, 1.0, 2.0, 4.0, math.inf]  # few, so that there are ties
    pairs = [(draw.randint(1, 8), draw.choice(values)) for _ in range(draw.randint(0, 15))]
    best = [(p.calls, p.multiple) for p in non_dominated([point(c, r) for c, r in pairs])]
    assert best == sorted(undominated_pairs(pairs))


def test_a_front_that_keeps_a_beaten_cell_is_seen() -> None:
    pairs = [(1, 3.0), (2, 3.0), (4, 1.0), (5, 1.0)]
    assert undominated_pairs(pairs) == [(1, 3.0), (4, 1.0)]  # 2 and 5 cost more for the same


def test_multiples_are_of_the_tolerance_and_flat_axes_count_once(template: SurveyResult) -> None:
    cells = [cell(1, 1, kl=exact(2.0)), cell(1, 4, kl=exact(2.0)), cell(8, 1, kl=exact(0.25))]
    found = front(of_cells(template, cells))
    assert found.divergence == "kl"
    assert [(p.calls, p.multiple) for p in found.points] == [(1, 4.0), (8, 0.5)]  # / 0.5
    assert [p.cell.budget.steps for p in found.points] == [1, 1]  # the lesser of the two alike
    assert found.best == found.points


def test_a_cell_achieves_what_its_upper_end_shows(template: SurveyResult) -> None:
    # 0.01 + 1.96 * 0.06 = 0.128 > 0.10 + 1.96 * 0.01 = 0.120: the lower value is shown less well.
    vague = [cell(2, kl=sampled(0.10, 0.01)), cell(4, 2, kl=sampled(0.01, 0.06))]
    found = front(of_cells(template, vague))
    assert [p.calls for p in found.best] == [2]
    assert found.best[0].multiple == pytest.approx((0.10 + 1.959964 * 0.01) / 0.5, rel=1e-4)
    clear = [cell(2, kl=sampled(0.10, 0.02)), cell(4, 2, kl=sampled(0.01, 0.06))]
    assert [p.calls for p in front(of_cells(template, clear)).best] == [2, 4]  # 0.139 > 0.128


def test_kl_is_taken_where_every_cell_has_it(template: SurveyResult) -> None:
    none = Estimate.unavailable("no density", level=0.95, unit="")
    both = [cell(1, kl=exact(1.0), wasserstein=exact(2.0))]
    lacks = [cell(2, kl=none, wasserstein=exact(0.5))]
    names = "kl wasserstein mmd"
    mmd = exact(0.0)
    both, lacks = (
        [c.model_copy(update={"estimates": {**c.estimates, "mmd": mmd}}) for c in cells]
        for cells in (both, lacks)
    )
    assert front(of_cells(template, both, names=names)).divergence == "kl"
    assert front(of_cells(template, both, lacks, names=names)).divergence == "wasserstein"
    # MMD alone cannot make a family representable, so that it is no measure of quality here.
    alone = front(of_cells(template, lacks, names="kl mmd"))
    assert (alone.divergence, alone.absent) == ("kl", ("f0",))


def test_bounds_count_by_their_upper_end(template: SurveyResult) -> None:
    below = sampled(0.3, 0.01, kind="lower bound")
    above = sampled(0.2, 0.0, kind="upper bound")
    both = Estimate(
        value=0.5, low=0.0, high=1.0, level=0.95, kind="two bounds", method="", unit="", samples=9
    )
    cells = [cell(1, kl=below), cell(2, kl=above), cell(3, kl=both)]
    found = front(of_cells(template, cells))
    assert [(p.calls, p.multiple) for p in found.points] == [(2, 0.4), (3, 2.0)]


def test_infinite_and_broken_errors_are_never_on_the_front(template: SurveyResult) -> None:
    cells = [cell(1, kl=exact(math.inf)), cell(2, kl=exact(math.nan)), cell(3, kl=exact(1.0))]
    found = front(of_cells(template, cells))
    assert [p.calls for p in found.points] == [1, 3]
    assert [p.calls for p in found.best] == [3]


def test_a_survey_of_nothing_has_an_empty_front(template: SurveyResult) -> None:
    found = front(of_cells(template, []))
    assert (found.points, found.best, found.of_groups, found.absent) == ((), (), {}, ())


def test_every_group_has_a_front_of_its_own(template: SurveyResult) -> None:
    exact_at_once = [cell(1, kl=exact(0.0))]
    better_with_calls = [cell(1, kl=exact(2.0)), cell(8, kl=exact(0.25)), cell(9, kl=exact(0.5))]
    two = of_cells(template, exact_at_once, better_with_calls)
    first, second = two.families
    apart = [first.model_copy(update={"row": "neither"}), second]
    found = front(two.model_copy(update={"families": tuple(apart)}))
    assert [(p.family, p.calls) for p in found.best] == [("f0", 1)]
    calls = {row: [p.calls for p in best] for row, best in found.of_groups.items()}
    assert calls == {"neither": [1], "length": [1, 8]}
    together = front(two).of_groups
    assert {row: len(best) for row, best in together.items()} == {"length": 1}


def test_on_separate_modes_one_call_is_beaten_only_by_one_call_a_token(
    template: SurveyResult,
) -> None:
    # One shot leaves the total correlation of two tokens that share their mode; gpt leaves nothing.
    found = front(template)
    assert sorted({p.calls for p in found.best}) == [1, 2]
    assert "gpt" in [p.family for p in found.best if p.calls == 2]
    assert found.best[-1].multiple == 0
    assert found.best[0].multiple > 1
