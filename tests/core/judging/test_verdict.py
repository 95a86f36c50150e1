from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from capcheck import Outcome, check, require
from capcheck.core.budget import Budget
from capcheck.divergences.estimate import GROUPS, Estimate, Term
from capcheck.judging.open_questions import draws_needed
from capcheck.judging.scaling import measured_axes, worse_with_more
from capcheck.judging.verdict import family_outcome, judge, smallest_sufficient
from capcheck.laws import MixtureOfGaussians, TokenLaw
from capcheck.procedures.trace import Traces
from capcheck.results.measurement import Cell, Measurement
from capcheck.results.survey import CapacityError
from capcheck.targets import from_spec

TOLERANCES = {"kl": 0.01, "wasserstein": 0.01, "mmd": 0.004}


def estimate(value: float | None, error: float = 0.0, **facts: Any) -> Estimate:
    if value is None:
        return Estimate.unavailable("no", level=0.95, unit="")
    groups = tuple(value + error * math.sqrt(GROUPS) * (-1) ** g for g in range(GROUPS))
    term = Term(label="", value=value, standard_error=error, degrees=10**6, groups=groups)
    given: dict[str, Any] = {"kind": "estimate", "null": 0.0, "null_error": 0.0, **facts}
    return Estimate.of([term], level=0.95, method="", unit="", samples=100, **given)


def measured(length: int = 1, steps: int = 1, calls: int = 1, **estimates: Any) -> Measurement:
    return Measurement(
        budget=Budget(length=length, steps=steps),
        samples=100,
        model_calls=calls,
        tokens_processed=1,
        traces=Traces(),
        estimates=estimates,
    )


def verdict(**estimates: Any) -> Cell:
    (cell,) = judge([measured(**estimates)], TOLERANCES, level=0.95)
    return cell


@pytest.mark.parametrize(
    ("estimates", "outcome"),
    [
        ({"kl": estimate(0.005, 0.001)}, Outcome.REPRESENTABLE),
        ({"kl": estimate(0.02, 0.001)}, Outcome.NOT_REPRESENTABLE),
        ({"kl": estimate(0.009, 0.001)}, Outcome.INCONCLUSIVE),
        ({"kl": estimate(math.inf)}, Outcome.NOT_REPRESENTABLE),
        ({"kl": estimate(math.nan)}, Outcome.INCONCLUSIVE),
        ({"kl": estimate(None)}, Outcome.INCONCLUSIVE),
        # MMD barely sees lost dependence: alone it can refuse, and cannot accept.
        ({"mmd": estimate(0.001, 0.0001)}, Outcome.INCONCLUSIVE),
        ({"mmd": estimate(0.01, 0.0001)}, Outcome.NOT_REPRESENTABLE),
        # One refusal is enough; every resolved divergence must agree to accept.
        ({"kl": estimate(0), "mmd": estimate(0.01, 0.0001)}, Outcome.NOT_REPRESENTABLE),
        ({"kl": estimate(0), "mmd": estimate(0.004, 0.0005)}, Outcome.INCONCLUSIVE),
        # Unresolved divergences can refuse, and do not block.
        (
            {"kl": estimate(0), "wasserstein": estimate(0.02, 0.05, null_error=0.05)},
            Outcome.REPRESENTABLE,
        ),
        ({"wasserstein": estimate(-0.5, 0.1, null_error=0.1)}, Outcome.INCONCLUSIVE),
        (
            {"kl": estimate(0), "wasserstein": estimate(0.5, 0.05, null_error=0.05)},
            Outcome.NOT_REPRESENTABLE,
        ),
        # A bound decides on its own side only.
        ({"kl": estimate(0.5, 0.01, kind="upper bound")}, Outcome.INCONCLUSIVE),
        ({"kl": estimate(0.005, 0.001, kind="upper bound")}, Outcome.REPRESENTABLE),
        ({"kl": estimate(0.5, 0.01, kind="lower bound")}, Outcome.NOT_REPRESENTABLE),
        ({"kl": estimate(0.001, 0.0001, kind="lower bound")}, Outcome.INCONCLUSIVE),
    ],
)
def test_verdicts(estimates: dict[str, Estimate], outcome: Outcome) -> None:
    assert verdict(**estimates).outcome is outcome


def outcomes(*kl: Estimate) -> list[Outcome]:
    cells = judge([measured(length=i, kl=e) for i, e in enumerate(kl)], TOLERANCES, level=0.95)
    return [cell.outcome for cell in cells]


PASS, FAIL, OPEN = Outcome.REPRESENTABLE, Outcome.NOT_REPRESENTABLE, Outcome.INCONCLUSIVE


def test_a_pass_among_many_budgets_needs_stronger_evidence() -> None:
    close = estimate(0.0078, 0.001)  # z = -2.2, p = 0.0139
    assert outcomes(close) == [PASS]
    assert outcomes(close, close) == [OPEN, OPEN]  # 0.0139 > 0.025 / 2
    # What is decided beyond doubt costs the others nothing (Holm): 0.0139 <= 0.025 / 1.
    assert outcomes(estimate(1, 0.001), close) == [FAIL, PASS]
    assert outcomes(estimate(1, 0.001), close, close) == [FAIL, OPEN, OPEN]


def test_a_refusal_beside_a_pass_is_simultaneous_and_a_refusal_of_all_is_not_corrected() -> None:
    near = estimate(0.0122, 0.001)  # z = 2.2, p = 0.0139
    assert outcomes(near, near, near) == [FAIL] * 3  # every one is needed: no correction
    assert outcomes(near, near, estimate(0.0)) == [OPEN, OPEN, PASS]  # 0.0139 > 0.025 / 2
    assert outcomes(near, estimate(0.0)) == [FAIL, PASS]


def test_a_family_of_six_hundred_grids_errs_at_its_level() -> None:
    # Five budgets at the tolerance itself, where either statement about each is false at most
    # half of the time: statements are false in at most 5% of the grids.
    rng = np.random.default_rng(0)
    wrong = 0
    for values in rng.normal(0.01, 0.001, (600, 5)):
        found = outcomes(*(estimate(float(value), 0.001) for value in values))
        wrong += any(outcome is not OPEN for outcome in found)
    assert wrong / 600 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


def test_certificates_decide_on_their_own_sides() -> None:
    def certified(low: float, high: float) -> Estimate:
        below, above = estimate(low, 0.0005).terms, estimate(high, 0.0005).terms
        return Estimate.of(
            [], below=below, above=above, level=0.95, kind="two bounds", method="", unit="",
            samples=100, null=0.0, null_error=1.0,
        )  # fmt: skip

    assert verdict(wasserstein=certified(0.0, 0.005)).outcome is PASS
    assert verdict(wasserstein=certified(0.02, 0.05)).outcome is FAIL
    between = verdict(wasserstein=certified(0.0, 0.05))
    assert between.outcome is OPEN
    assert "on both sides" in between.reason


def test_an_open_question_says_how_many_samples_would_decide() -> None:
    # Half-width 1.96e-3 against a distance of 1e-3: (1.96)^2 x 100 = 385, rounded up.
    assert "about 390 samples would decide" in verdict(kl=estimate(0.009, 0.001)).reason
    unresolved = verdict(wasserstein=estimate(0, 0.005, null_error=0.005))
    assert "about 800 samples" in unresolved.reason  # two sets of 100 x (0.005 / 0.0025)^2
    impossible = verdict(wasserstein=estimate(0, 1.0, null_error=1.0))
    assert "more than can be transported" in impossible.reason


def test_further_looks_are_those_that_would_decide() -> None:
    def needed(**estimates: Any) -> float:
        return draws_needed([verdict(**estimates)], TOLERANCES, level=0.95)

    assert needed(kl=estimate(0.009, 0.001)) == pytest.approx(384, abs=1)
    both = {"kl": estimate(0.009, 0.001), "wasserstein": estimate(0, 0.005, null_error=0.005)}
    assert needed(**both) < 800  # one divergence may suffice
    assert needed(kl=estimate(0.005, 0.001, kind="lower bound")) == math.inf
    assert needed(kl=estimate(0.02, 0.001, kind="upper bound")) == math.inf
    assert needed(kl=estimate(math.nan)) == math.inf
    assert needed(kl=estimate(None)) == math.inf


def cells(values: dict[tuple[int, int], Estimate], calls: int = 1) -> list[Cell]:
    grid = [
        measured(length, steps, calls * (1 + length), kl=kl)
        for (length, steps), kl in values.items()
    ]
    return list(judge(grid, TOLERANCES, level=0.95))


def test_a_family_is_judged_over_its_grid() -> None:
    bad, good, open_ = estimate(1, 0.01), estimate(0), estimate(0.009, 0.001)
    assert family_outcome(cells({(0, 1): bad, (1, 1): good}))[0] is Outcome.REPRESENTABLE
    assert family_outcome(cells({(0, 1): bad, (1, 1): bad}))[0] is Outcome.NOT_REPRESENTABLE
    assert family_outcome(cells({(0, 1): bad, (1, 1): open_}))[0] is Outcome.INCONCLUSIVE
    assert family_outcome([])[0] is Outcome.INCONCLUSIVE
    found = smallest_sufficient(cells({(0, 1): bad, (1, 1): good, (2, 1): good}))
    assert found is not None
    assert found.budget.length == 1


@pytest.mark.parametrize(
    ("first", "last", "use"),
    [
        (estimate(1, 0.01), estimate(0), "used"),
        (estimate(math.inf), estimate(5, 0.1), "used"),
        (estimate(1, 0.01), estimate(1, 0.01), "flat"),
        (estimate(0.004), estimate(0.001), "used"),
        (estimate(1.0), estimate(0.95), "undecided"),  # a drop of a twentieth is not scaling
        (estimate(0.1), estimate(1.0), "undecided"),  # more is worse: neither used nor flat
        (estimate(None), estimate(None), "undecided"),
    ],
)
def test_axes(first: Estimate, last: Estimate, use: str) -> None:
    found = measured_axes(cells({(0, 1): first, (1, 1): last}), {"kl": 0.01}, level=0.95)
    assert found.length == use
    assert found.steps == "undecided"  # one budget shows nothing


def test_more_is_called_worse_only_where_that_is_known() -> None:
    def note(first: Estimate, last: Estimate) -> str | None:
        line = cells({(0, 1): first, (1, 1): last})
        return worse_with_more(line, {"kl": 0.01}, "length", level=0.95)

    worse = "more length can make kl worse: length 0 is better than 1."
    assert note(estimate(0.1, 0.001), estimate(0.2, 0.001)) == worse
    assert note(estimate(0.1, 0.001), estimate(0.1005, 0.002)) is None
    assert note(estimate(-0.1, 0.001), exact_zero()) is None
    bound = estimate(0.2, 0.001, kind="upper bound")
    assert note(estimate(0.1, 0.001, kind="upper bound"), bound) is None


def test_the_fall_of_an_upper_bound_is_no_fall() -> None:
    bound = estimate(0.5, 0.001, kind="upper bound")
    line = cells({(0, 1): bound, (1, 1): estimate(0.1, 0.001)})
    assert measured_axes(line, {"kl": 0.01}, level=0.95).length == "undecided"
    same = cells({(0, 1): bound, (1, 1): bound})
    assert measured_axes(same, {"kl": 0.01}, level=0.95).length == "flat"


def exact_zero() -> Estimate:
    return Estimate.exact(0.0, level=0.95, method="", unit="", scale=1.0, power=1)


def squeezed(tokens: int, variance: float) -> Any:
    """A predictor whose every token has the wrong variance."""

    def predict(x: torch.Tensor, known: torch.Tensor) -> TokenLaw:
        means = torch.zeros(len(x), tokens, 1, 1, dtype=torch.float64)
        return MixtureOfGaussians(
            torch.zeros(1, 1, 1, dtype=torch.float64),
            means,
            torch.full_like(means[:1], variance),
        )

    return predict


def test_a_broken_oracle_is_caught_and_the_right_one_passes() -> None:
    # KL(N(0,1) || N(0,1/2)) = (2 - 1 - ln 2) / 2 = 0.153 nats per token; W2 = 1 - sqrt(1/2).
    target = from_spec("gaussian:tokens=4")
    right = check("gpt", target, network=squeezed(4, 1.0), lengths=[0, 4], steps=[1])
    assert right.outcome is Outcome.REPRESENTABLE
    wrong = check("gpt", target, network=squeezed(4, 0.5), lengths=[4], steps=[1])
    assert wrong.outcome is Outcome.NOT_REPRESENTABLE
    kl, w2 = (wrong.cells[0].estimates[name] for name in ("kl", "wasserstein"))
    expected = 4 * (1 - math.log(2)) / 2
    assert kl.value == pytest.approx(expected, abs=1e-12)  # replayed: no sampling error
    assert w2.value == pytest.approx(4 * (1 - math.sqrt(0.5)) ** 2, abs=1e-12)
    with pytest.raises(CapacityError, match="not representable") as caught:
        require("gpt", target, network=squeezed(4, 0.5), lengths=[4], steps=[1])
    assert caught.value.exit_code == 1
    assert require("gpt", target, lengths=[4], steps=[1]).outcome is Outcome.REPRESENTABLE


def test_a_dropped_mode_is_caught() -> None:
    target = from_spec("modes:tokens=2,modes=2,gap=6")

    def one_mode(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        # The oracle of the lower mode alone, N(-3, 1), on the cosine path.
        a, s = torch.cos(t * math.pi / 2)[..., None], torch.sin(t * math.pi / 2)[..., None]
        return -3 + a * (x_t + 3 * a) / (a**2 + s**2)

    found = check("diffusion", target, network=one_mode, steps=[32], lengths=[2])
    assert found.outcome is Outcome.NOT_REPRESENTABLE
    assert found.found.network == "given"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((2.0, 3.0), (0.0, 0.5), "used"),  # it falls by 1.5 at least
        ((0.1, 3.0), (0.0, 2.0), "undecided"),  # it may rise or fall
        ((0.0, 0.001), (0.0, 0.001), "undecided"),  # small bounds, of which nothing is compared
    ],
)
def test_an_axis_between_two_bounds_is_used_or_undecided(
    before: tuple[float, float], after: tuple[float, float], expected: str
) -> None:
    def between(low: float, high: float) -> Estimate:
        below, above = (
            Term(label=end, value=value, standard_error=1e-6, degrees=99, groups=(value,) * GROUPS)
            for end, value in (("below", low), ("above", high))
        )
        return Estimate.of(
            [],
            below=[below],
            above=[above],
            level=0.95,
            kind="two bounds",
            method="",
            unit="",
            samples=100,
        )

    first, last = between(*before), between(*after).model_copy(update={"samples": 101})
    found = measured_axes(cells({(0, 1): first, (1, 1): last}), {"kl": 0.01}, level=0.95)
    assert found.length == expected
    same = measured_axes(cells({(0, 1): first, (1, 1): first}), {"kl": 0.01}, level=0.95)
    assert same.length == "flat"
