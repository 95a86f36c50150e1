"""Two runs side by side: closed forms, paired intervals, and what counts as worse."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch

import capcheck
from capcheck import InputError, SurveyResult
from capcheck.divergences.estimate import Estimate, Term
from capcheck.pipeline.compare import _changes, compare
from capcheck.pipeline.comparison import CellChange, Comparison

RHO, N = 0.9, 4
AR1 = torch.tensor([[RHO ** abs(i - j) for j in range(N)] for i in range(N)], dtype=torch.float64)
GAUSSIAN = capcheck.targets.GaussianMixture(torch.zeros(1, N, 1, dtype=torch.float64), AR1[None])
TOTAL_CORRELATION = -0.5 * (N - 1) * math.log(1 - RHO**2)  # of an AR(1) process, in nats


@functools.cache
def rounds(number: int) -> SurveyResult:
    options = {"rounds": number, "order": "fixed"}
    run = {"lengths": [N], "steps": [1], "samples": 200}
    return capcheck.check("maskgit", GAUSSIAN, options=options, **run).survey  # type: ignore[arg-type]


def diffusion(solver: str, seed: int, steps: int = 3, **keywords: Any) -> SurveyResult:
    target = capcheck.targets.from_spec("modes:tokens=2,modes=2,gap=4")
    run: dict[str, Any] = {"lengths": [0], "divergences": ["mmd"], "samples": 300, **keywords}
    options = {"solver": solver, "path": run.pop("path", "cosine")}
    return capcheck.check(
        "diffusion", target, options=options, steps=[steps], seed=seed, **run
    ).survey


def change(found: Comparison, divergence: str) -> CellChange:
    [family] = found.families
    [cell] = [cell for cell in family.cells if cell.divergence == divergence]
    return cell


def test_a_change_is_the_closed_form() -> None:
    found = compare(rounds(N), rounds(1))
    kl = change(found, "kl")
    assert kl.change == pytest.approx(TOTAL_CORRELATION, rel=1e-9)
    assert kl.low == kl.high == kl.change
    assert kl.verdict == "worse"
    assert found.worse
    assert found.same_target
    assert found.paired
    [family] = found.families
    assert family.reasons[0] == "representable before, not representable after"


def test_the_way_back_is_better() -> None:
    found = compare(rounds(1), rounds(N))
    assert change(found, "kl").change == pytest.approx(-TOTAL_CORRELATION, rel=1e-9)
    assert not found.worse
    assert found.families[0].verdict == "better"


def test_a_run_is_the_same_as_itself() -> None:
    found = compare(rounds(1), rounds(1))
    assert {cell.change for cell in found.families[0].cells} == {0.0}
    assert found.families[0].verdict == "same"


def test_a_rise_within_the_margin_is_none() -> None:
    tolerance = 0.01 * N  # of KL, nats per sequence
    assert change(compare(rounds(N), rounds(1), margin=1e3), "kl").verdict == "same"
    assert change(compare(rounds(N), rounds(1), margin=1e3), "kl").allowed == 1e3 * tolerance


def test_more_calls_are_worse() -> None:
    target = capcheck.targets.from_spec("parity:4")  # three tokens tell the fourth, two do not
    run: dict[str, Any] = {"lengths": [2, 3], "steps": [1], "samples": 200, "divergences": ["kl"]}
    loose = capcheck.check("gpt", target, **run, tolerance={"kl": 1.0}).survey
    found = compare(loose, capcheck.check("gpt", target, **run).survey)
    assert found.families[0].calls == (3, 4)  # the other tokens are completed in one more
    assert "3 model calls sufficed, now 4" in found.families[0].reasons[0]
    assert found.worse


def test_an_infinite_divergence_is_worse_than_any() -> None:
    target = capcheck.targets.from_spec("parity:3")
    run: dict[str, Any] = {"lengths": [3], "steps": [1], "samples": 200}
    fine = capcheck.check("gpt", target, **run).survey
    odd = capcheck.targets.uniform_over(
        [[0, 0, 0], [0, 1, 1], [1, 0, 1]], vocabulary=2, description="one sequence is missing"
    )

    def network(tokens: Any, known: Any) -> Any:
        return odd.marginals(tokens, (~known.bool()).double())

    broken = capcheck.check("gpt", target, network=network, **run).survey
    own = broken.model_copy(
        update={
            "families": (broken.families[-1].model_copy(update={"plan": fine.families[0].plan}),)
        }
    )
    assert change(compare(fine, own), "kl").verdict == "worse"
    assert change(compare(own, fine), "kl").verdict == "better"
    assert change(compare(own, own), "kl").verdict == "same"


def test_other_steps_are_compared_at_the_largest_budget_of_each() -> None:
    found = compare(diffusion("ddim", 0, steps=2), diffusion("ddim", 0, steps=8))
    cell = change(found, "mmd")
    assert (cell.budget.steps, cell.before_budget.steps) == (8, 2)
    assert cell.verdict == "better"


def width(found: CellChange) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_paired_draws_tell_more_than_independent_ones() -> None:
    paired = compare(diffusion("ddim", 0), diffusion("ddim", 0, path="linear"))
    apart = compare(diffusion("ddim", 0), diffusion("ddim", 1, path="linear"))
    assert (paired.paired, apart.paired) == (True, False)
    assert width(change(paired, "mmd")) < width(change(apart, "mmd"))


def bounded(low: float, high: float) -> Estimate:
    """An estimate that is known between two certificates only."""

    def term(value: float) -> Term:
        return Term(label="", value=value, standard_error=0.1, degrees=99, groups=())

    facts: dict[str, Any] = {"unit": "nats", "method": "", "samples": 100, "level": 0.95}
    return Estimate.of([], kind="two bounds", below=[term(low)], above=[term(high)], **facts)


def test_estimates_between_bounds_are_compared_by_both_intervals() -> None:
    [before] = rounds(N).families[0].cells
    old, new = (
        before.model_copy(update={"estimates": {"kl": estimate}})
        for estimate in (bounded(1.0, 2.0), bounded(4.0, 5.0))
    )
    [found] = _changes(old, new, {"kl": 0.01}, margin=0.1, level=0.95)
    (a, b), (c, d) = (cell.estimates["kl"].interval(0.975) for cell in (old, new))
    assert (found.low, found.high) == (c - b, d - a)
    assert found.verdict == "worse"


def test_what_only_one_run_has_is_named() -> None:
    target = capcheck.targets.from_spec("parity:3")
    run: dict[str, Any] = {"lengths": [3], "steps": [1], "samples": 200, "network": "none"}
    both = capcheck.survey(target, ["gpt", "maskgit"], **run)
    one = capcheck.survey(target, ["gpt"], **run)
    assert compare(both, one).only_before == ("maskgit",)
    assert compare(one, both).only_after == ("maskgit",)


def test_a_family_that_was_not_measured_is_not_called_undecided() -> None:
    """`masked_diffusion` is defined for token ids, so that numbers leave it without a cell."""
    run: dict[str, Any] = {"steps": [1], "samples": 200, "network": "none"}
    ids, numbers = (
        capcheck.survey(capcheck.targets.from_spec(name), ["masked_diffusion"], **run)
        for name in ("parity:3", "gaussian:tokens=3")
    )
    [found] = compare(ids, numbers).families
    assert found.words == ("not representable", "not measured")
    assert (found.verdict, found.reasons) == (
        "open",
        ("not representable before, not measured after",),
    )
    [twice] = compare(numbers, numbers).families
    assert (twice.words, twice.verdict) == (("not measured", "not measured"), "same")


def test_runs_without_anything_in_common_are_one_sentence() -> None:
    with pytest.raises(InputError, match="no family in common"):
        compare(rounds(1), diffusion("ddim", 0))
    with pytest.raises(InputError, match="margin must be"):
        compare(rounds(1), rounds(1), margin=-1)
