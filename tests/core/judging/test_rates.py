"""Rates against powers of the budget, the order of samplers on a Gaussian, and by repetition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from reference.diffusion import ddim_variance

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.divergences.estimate import Estimate, Term
from capcheck.judging.rates import measured_rates
from capcheck.procedures.trace import Traces
from capcheck.results.family import Axes, Rate
from capcheck.results.measurement import Cell, Outcome
from capcheck.targets import from_spec

STEPS = (1, 2, 4, 8, 16, 32)
USED = Axes(length="undecided", steps="used")


def cell(steps: int, estimate: Estimate, length: int = 3) -> Cell:
    return Cell(
        budget=Budget(length=length, steps=steps),
        samples=100,
        model_calls=steps,
        tokens_processed=1,
        traces=Traces(),
        estimates={"kl": estimate},
        outcome=Outcome.INCONCLUSIVE,
        reason="",
    )


def exact(value: float) -> Estimate:
    facts: dict[str, Any] = {"method": "", "unit": "", "scale": 1.0, "power": 1}
    return Estimate.exact(value, level=0.95, **facts)


def of(terms: Sequence[Term], null: float = 0.0, **facts: Any) -> Estimate:
    given: dict[str, Any] = {"kind": "estimate", "null_error": 0.0, **facts}
    return Estimate.of(terms, level=0.95, method="", unit="", samples=100, null=null, **given)


def rate(line: Sequence[Cell], axes: Axes = USED, axis: str = "steps") -> Rate:
    found = measured_rates(line, {"kl": 0.01}, axes, level=0.95)
    return next(r for r in found if r.axis == axis)


# Known values


def test_a_power_of_the_budget_has_its_exponent() -> None:
    found = rate([cell(k, exact(0.7 * k**-1.5)) for k in STEPS])
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))
    assert (found.budgets, found.reason) == (3, "over steps 8 to 32")


def test_the_tail_counts_and_the_interval_shows_that_it_is_no_power() -> None:
    # 1/k + 1/k^2 falls faster than 1/k, and ever less so: the last two slopes are the interval.
    found = rate([cell(k, exact(1 / k + 1 / k**2)) for k in STEPS])
    slopes = [math.log2((1 / k + 1 / k**2) / (1 / (2 * k) + 1 / (4 * k**2))) for k in (8, 16)]
    assert (found.low, found.high) == pytest.approx((slopes[1], slopes[0]))
    assert found.value == pytest.approx(sum(slopes) / 2)  # two equal intervals of log k
    assert found.low is not None
    assert found.low > 1


def test_the_floor_is_taken_off() -> None:
    def with_floor(null: float) -> Rate:
        terms = [[Term(label="", value=4 / k**2 + 0.5, standard_error=0, degrees=1, groups=())]
                 for k in STEPS]  # fmt: skip
        return rate([cell(k, of(t, null=null)) for k, t in zip(STEPS, terms, strict=True)])

    assert with_floor(0.5).value == pytest.approx(2)
    assert with_floor(0.0).value != pytest.approx(2, abs=1)


# Samplers of known order


def kl_of_variances(v: float, q: float) -> float:
    """KL(N(0, v) || N(0, q))."""
    return 0.5 * (v / q - 1 - math.log(v / q))


def test_ddim_has_the_order_of_the_literature() -> None:
    # Variances are off by O(1 / k), and the divergence is the square of that to leading order.
    steps, target = [8, 16, 32, 64], from_spec("gaussian:tokens=3,std=2")
    fitted = {}
    for path in ("cosine", "linear"):
        kl = [3 * kl_of_variances(1.0, ddim_variance(1.0, k, path)) for k in steps[1:]]
        fitted[path] = -np.polyfit(np.log(steps[1:]), np.log(kl), 1)[0]
    found = check("diffusion", target, steps=steps, samples=200)
    measured = next(r for r in found.found.rates if (r.axis, r.divergence) == ("steps", "kl"))
    assert measured.value == pytest.approx(fitted["cosine"], rel=1e-6)
    assert measured.value != pytest.approx(fitted["linear"], rel=1e-4)
    assert measured.value == pytest.approx(2, abs=0.2)
    w2 = next(r for r in found.found.rates if (r.axis, r.divergence) == ("steps", "wasserstein"))
    assert w2.value == pytest.approx(2, abs=0.2)
    of_length = next(r for r in found.found.rates if r.axis == "length")
    assert of_length.reason == "the length axis is flat"


def test_a_sampler_of_second_order_has_twice_the_rate() -> None:
    target = from_spec("gaussian:tokens=3,std=2")
    found = check(
        "diffusion", target, options={"solver": "heun"}, steps=[8, 16, 32, 64], samples=200
    )
    measured = next(r for r in found.found.rates if (r.axis, r.divergence) == ("steps", "kl"))
    assert measured.value == pytest.approx(4, abs=0.4)


# Noise


def noisy(run: int, exponent: float, shared: float) -> list[Cell]:
    """A line whose rows share a part of their noise, as paired budgets do."""
    rng = np.random.default_rng(run)
    common = rng.normal(size=1000)
    cells = []
    for k in STEPS:
        rows = k**-exponent * (1 + 0.8 * (shared * common + rng.normal(size=1000)))
        term = Term.from_influence("", float(rows.mean()), [rows])
        cells.append(cell(k, of([term])))
    return cells


@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_the_interval_covers_the_exponent(shared: float) -> None:
    found = [rate(noisy(run, 1.2, shared)) for run in range(200)]
    hits = [r.low <= 1.2 <= r.high for r in found if r.low is not None and r.high is not None]
    assert len(hits) == 200
    assert np.mean(hits) >= 0.91
    narrow = [
        abs(r.value - 1.2) <= 0.6 * (r.high - r.value)
        for r in found
        if r.value is not None and r.high is not None
    ]
    assert np.mean(narrow) < 0.88


def test_pairing_makes_the_interval_narrow_and_a_noisy_floor_makes_it_wide() -> None:
    def width(found: Rate) -> float:
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    paired = noisy(0, 1.2, 2.0)
    turned = []  # groups of other rows at every budget, as if they shared none
    for shift, one in enumerate(paired):
        (term,) = one.estimates["kl"].terms
        groups = term.groups[7 * shift :] + term.groups[: 7 * shift]
        turned.append(cell(one.budget.steps, of([term.model_copy(update={"groups": groups})])))
    assert width(rate(paired)) < 0.7 * width(rate(turned))
    floor = []
    for one in paired:
        floor.append(cell(one.budget.steps, of(one.estimates["kl"].terms, null_error=0.003)))
    assert width(rate(floor)) > 1.1 * width(rate(paired))


# No rate


def test_where_there_is_no_rate_the_reason_is_said() -> None:
    power = [cell(k, exact(1 / k)) for k in STEPS]
    assert rate(power, Axes(length="used", steps="flat")).reason == "the steps axis is flat"
    assert rate(power, axis="length").value is None
    few = rate(power[:2])
    assert (few.value, few.budgets) == (None, 2)
    assert few.reason == (
        "2 of 2 budgets are measured to be clearly above the null floor, and a rate needs 3"
    )
    at_floor = [cell(k, exact(0.0)) for k in STEPS]
    assert rate(at_floor).budgets == 0
    noise = [
        cell(k, of([Term(label="", value=1 / k, standard_error=0.25 / k, degrees=9, groups=())]))
        for k in STEPS
    ]
    assert rate(noise).budgets == 0
    bounds = [cell(k, one.estimates["kl"].model_copy(update={"kind": "upper bound"}))
              for k, one in zip(STEPS, power, strict=True)]  # fmt: skip
    assert rate(bounds).value is None


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_and_infinite_budgets_are_left_out(broken: float) -> None:
    line = [cell(k, exact(broken if k == 16 else 1 / k)) for k in STEPS]
    found = rate(line)
    assert found.value == pytest.approx(1)
    assert found.reason == "over steps 4 to 32"
    missing = Estimate.unavailable("no", level=0.95, unit="")
    assert rate([cell(k, missing) for k in STEPS]).value is None
