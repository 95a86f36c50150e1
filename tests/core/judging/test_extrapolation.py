"""The steps that would suffice: powers in closed form, and samplers whose need is then measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
from judged import between, cell, exact, family, sampled
from reference.diffusion import ddim_variance

from capcheck import check
from capcheck.divergences.estimate import Estimate
from capcheck.judging.extrapolation import Extrapolation, sufficient
from capcheck.results.family import FamilyResult, Rate
from capcheck.results.measurement import Outcome
from capcheck.targets import from_spec

STEPS = (1, 2, 4, 8)
KL = {"kl": 0.5}


def powers(start: float, r: float) -> FamilyResult:
    return family(*(cell(k, k, kl=exact(start * k**-r)) for k in STEPS))


def rate(value: float, low: float, high: float, name: str = "kl") -> Rate:
    facts = {"axis": "steps", "level": 0.95, "budgets": 3, "reason": ""}
    return Rate.model_validate(
        {"divergence": name, "value": value, "low": low, "high": high, **facts}
    )


# Known values


@pytest.mark.parametrize("r", [0.5, 1.0, 2.0])
def test_a_power_is_within_its_tolerance_where_it_equals_it(r: float) -> None:
    # 64 k^-r = 1/2 at k = 128^(1/r): 16384, 128 and 11.3 steps.
    found = sufficient(powers(64.0, r), KL)
    assert found is not None
    assert found.budget == pytest.approx(128 ** (1 / r), rel=1e-9)
    assert (found.low, found.high) == pytest.approx((found.budget, found.budget))
    assert (found.axis, found.divergence) == ("steps", "kl")


def test_the_interval_is_that_of_both_the_divergence_and_its_rate() -> None:
    # At 8 steps 1 +- 0.1 with tolerance 1/2: multiples 2 +- 0.2; rates 1 [0.5, 2].
    noisy = family(*(cell(k, k, kl=sampled(8 / k, 0.1 / 1.959964)) for k in STEPS))
    found = sufficient(noisy.model_copy(update={"rates": (rate(1.0, 0.5, 2.0),)}), KL)
    assert found is not None
    assert found.budget == pytest.approx(8 * 2)
    assert found.low == pytest.approx(8 * 1.8 ** (1 / 2), rel=1e-3)
    assert found.high == pytest.approx(8 * 2.2 ** (1 / 0.5), rel=1e-3)


def test_the_divergence_that_asks_for_most_steps_counts() -> None:
    # kl: 8 * (1 / 0.5)^(1/1) = 16; wasserstein in squared units: 8 * (0.25 / 0.2^2)^(1/2) = 20.
    both = {"kl": 0.5, "wasserstein": 0.2}
    cells = [cell(k, k, kl=exact(8 / k), wasserstein=exact(16 / k**2, power=2)) for k in STEPS]
    found = sufficient(family(*cells, tolerances=both), both)
    assert found is not None
    assert found.divergence == "wasserstein"
    assert found.budget == pytest.approx(20)
    # With 0.3 it is 8 * (0.25 / 0.09)^(1/2) = 13.3, and kl asks for more.
    wider = both | {"wasserstein": 0.3}
    found = sufficient(family(*cells, tolerances=wider), wider)
    assert found is not None
    assert found.divergence == "kl"
    assert found.budget == pytest.approx(16)


def test_steps_are_told_in_whole_numbers_that_keep_the_interval() -> None:
    def told(budget: float, low: float, high: float | None) -> str:
        return str(Extrapolation(axis="steps", budget=budget, low=low, high=high, divergence="kl"))

    assert told(46.2, 39.9, 59.1) == "about 47 [39, 60] steps"
    assert told(16.000000000000004, 16, 16) == "about 16 [16, 16] steps"
    assert told(1234.5, 1001, 12345) == "about 1,240 [1,000, 12,400] steps"
    assert told(47, 39, None) == "about 47 [39 or more] steps"


# No extrapolation


def test_a_floor_has_no_sufficient_budget() -> None:
    assert sufficient(family(*(cell(k, k, kl=exact(2.0)) for k in STEPS)), KL) is None
    noise = powers(64.0, 1.0).model_copy(update={"rates": (rate(0.2, -0.1, 0.5),)})
    assert sufficient(noise, KL) is None
    sure = powers(64.0, 1.0).model_copy(update={"rates": (rate(0.2, 0.1, 0.5),)})
    assert sufficient(sure, KL) is not None


def test_one_divergence_with_a_floor_is_enough() -> None:
    both = {"kl": 0.5, "mmd": 0.5}
    cells = [cell(k, k, kl=exact(8 / k), mmd=exact(0.6)) for k in STEPS]
    assert sufficient(family(*cells, tolerances=both), both) is None
    within = [cell(k, k, kl=exact(8 / k), mmd=exact(0.4)) for k in STEPS]
    assert sufficient(family(*within, tolerances=both), both) is not None


def test_what_is_not_refused_or_already_suffices_needs_no_steps() -> None:
    assert sufficient(powers(3.0, 1.0), KL) is None  # 3 / 8 < 1 / 2
    undecided = [cell(k, k, kl=exact(8 / k)) for k in STEPS[:-1]]
    undecided.append(cell(8, 8, kl=sampled(1.0, 0.4)))
    found = family(*undecided)
    assert found.cells[-1].outcome is Outcome.INCONCLUSIVE
    assert sufficient(found, KL) is None
    assert sufficient(found.model_copy(update={"cells": ()}), KL) is None


@pytest.mark.parametrize(
    "last", [exact(math.inf), sampled(2.0, 0.01, "lower bound"), sampled(2.0, 0.01, "estimate")]
)
def test_infinite_divergences_and_lower_bounds_have_none(last: Estimate) -> None:
    cells = [cell(k, k, kl=exact(64 / k)) for k in (1, 2, 4, 8)]
    found = family(*cells, cell(16, 16, kl=last)).model_copy(
        update={"rates": (rate(1.0, 0.9, 1.1),)}
    )
    assert (sufficient(found, KL) is not None) == (last.kind == "estimate")  # the last is the twin


def test_lengths_are_not_extrapolated() -> None:
    line = [cell(n, 1, length=n, kl=exact(64 / n)) for n in STEPS]
    found = family(*line)
    assert any(r.axis == "length" and r.value == pytest.approx(1) for r in found.rates)
    assert sufficient(found, KL) is None


def test_steps_beyond_any_run_are_not_told() -> None:
    slow = powers(64.0, 0.1)  # 128^10 = 1.2e21 steps, and 2^31 can be run
    assert sufficient(slow, KL) is None
    open_end = powers(64.0, 1.0).model_copy(update={"rates": (rate(1.0, 0.01, 1.1),)})
    found = sufficient(open_end, KL)
    assert found is not None
    assert found.high is None


# Samplers


def steps_needed() -> int:
    """The smallest number of DDIM steps whose KL is within 0.01 nats per token, in closed form."""
    for k in range(2, 100):
        q = ddim_variance(1.0, k, "cosine")
        if 0.5 * (1 / q - 1 - math.log(1 / q)) <= 0.01:
            return k
    raise AssertionError("no number of steps suffices")


def test_few_steps_foretell_the_steps_that_ddim_needs() -> None:
    target = from_spec("gaussian:tokens=3,std=2")
    how: dict[str, Any] = {"lengths": [3], "samples": 200, "divergences": ["kl"]}
    few = check("diffusion", target, steps=[2, 4, 8], **how)
    found = sufficient(few.found, few.settings.tolerances)
    assert found is not None
    needed = steps_needed()
    assert found.high is not None
    assert found.low <= needed <= math.ceil(found.high)
    more = check("diffusion", target, steps=[needed - 1, needed], **how)
    outcomes = [one.outcome for one in more.cells]
    assert outcomes == [Outcome.NOT_REPRESENTABLE, Outcome.REPRESENTABLE]


def test_a_lower_end_is_kept_between_bounds() -> None:
    bounds = family(*(cell(k, k, kl=between(8 / k, 16 / k)) for k in STEPS))
    assert sufficient(bounds, KL) is None  # bounds have no rate
    rated = bounds.model_copy(update={"rates": (rate(1.0, 1.0, 1.0),)})
    found = sufficient(rated, KL)
    assert found is not None
    # At 8 steps [1, 2], whose middle is 1.5: multiples 2, 3 and 4.
    assert (found.low, found.budget, found.high) == pytest.approx((16, 24, 32))
