"""The number of draws at which a log-density is evaluated, and the draws themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from capcheck import InputError, check
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.divergences.known_draws import KnownDraws
from capcheck.procedures import density_cost
from capcheck.procedures.density_cost import (
    DECIDED_ROWS,
    FEWEST_ROWS,
    MOST_ROWS,
    NETWORK_ROWS,
    affordable_draws,
    affordable_rows,
    decided_rows,
    pilot_pays,
    rows_that_decide,
)
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, MarkovChain, ProductMixture, from_spec

BUDGET = Budget(length=4, steps=16)


def of_data(rows: int) -> AnyProcedure:
    means = CounterRandomness(0).normal((rows, 4, 1))
    law = ProductMixture(means, torch.full((4, 1), 0.5, dtype=torch.float64))
    return Procedure.of(build_probe("diffusion", {}), law)


def test_large_data_have_draws_in_proportion_to_the_time() -> None:
    data = of_data(100_000)
    few, more = (affordable_rows(data, BUDGET, 2_000, seconds) for seconds in (10.0, 20.0))
    assert isinstance(few, int)
    assert isinstance(more, int)
    assert FEWEST_ROWS <= few < more < 2_000
    assert more == pytest.approx(2 * few, abs=2)
    assert affordable_rows(data, BUDGET, 50, 10.0) == 50


def test_a_cheap_density_has_more_draws_than_samples() -> None:
    cheap = affordable_rows(of_data(2), BUDGET, 2_000, 10.0)
    assert isinstance(cheap, int)
    assert 2_000 < cheap <= MOST_ROWS
    assert affordable_rows(of_data(2), BUDGET, 100_000, 10.0) == 100_000


def test_what_takes_too_long_is_unavailable_with_the_time_that_it_takes() -> None:
    found = affordable_rows(of_data(100_000), BUDGET, 2_000, 0.1)
    assert isinstance(found, Unavailable)
    assert "seconds-per-cell" in found.reason
    needed = float(found.reason.split("some ")[1].split(" seconds")[0])
    assert affordable_rows(of_data(100_000), BUDGET, 2_000, 1.1 * needed) is not None
    rows = affordable_rows(of_data(100_000), BUDGET, 2_000, 1.1 * needed)
    assert isinstance(rows, int)


def test_a_network_has_few_draws_and_a_chain_rule_has_no_limit() -> None:
    data = of_data(10)
    assert affordable_rows(data.with_network(data.oracle), BUDGET, 2_000, 10.0) == NETWORK_ROWS
    gpt = Procedure.of(build_probe("gpt", {}), data.target)
    assert affordable_rows(gpt, BUDGET, 2_000, 10.0) is None


def test_more_draws_begin_with_the_same_ones() -> None:
    target = from_spec("modes:tokens=2,modes=2")

    def from_row(row: int) -> CounterRandomness:
        return CounterRandomness(7, first_row=row, name="target")

    draws = KnownDraws(target, 20, from_row)
    first = draws.draws(20).clone()
    assert torch.equal(draws.draws(50)[:20], first)
    assert torch.equal(draws.draws(50), target.sample(50, from_row(0)))
    assert torch.equal(draws.log_prob(50), target.log_prob(draws.draws(50)))


def test_a_cell_says_at_how_many_draws_its_kl_was_found() -> None:
    how = {"lengths": [2], "steps": [4], "samples": 300, "divergences": ["kl"]}
    found = check("diffusion", from_spec("modes:tokens=2,modes=2"), **how)  # type: ignore[arg-type]
    (cell,) = found.found.cells
    assert cell.samples == 300
    assert 2_000 < cell.estimates["kl"].samples <= MOST_ROWS


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, "long", True])
def test_a_time_that_is_none_is_refused(seconds: object) -> None:
    with pytest.raises(InputError, match=r"seconds_per_cell must be a number of seconds above 0"):
        check("gpt", from_spec("parity:3"), seconds_per_cell=seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mean", "deviation", "expected"),
    [
        (4.0, 1.0, DECIDED_ROWS),  # far above the tolerance of 0.08
        (0.001, 0.01, DECIDED_ROWS),  # far below it
        # 160 thousandths apart by a pilot of 400 rows, two of whose standard errors are 50.
        (0.24, 0.5, (6 * 0.5 / 0.11) ** 2),
        (0.12, 0.5, 10_000),  # no further from the tolerance than the pilot can tell
        (0.08, 0.5, 10_000),  # at the tolerance
        (0.8, 2.0, (2 / 0.08) ** 2),  # a tenth of KL as its standard error
        (math.inf, math.nan, DECIDED_ROWS),
        (math.nan, math.nan, 10_000),
    ],
)
def test_a_pilot_asks_for_the_rows_that_tell_kl_from_its_tolerance(
    mean: float, deviation: float, expected: float
) -> None:
    pilot = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pilot = mean + deviation * (pilot - pilot.mean()) / pilot.std()
    if math.isinf(mean):
        pilot = torch.tensor([0.1, math.inf])
    found = rows_that_decide(pilot, 0.08, 10_000)
    assert found == pytest.approx(min(expected, 10_000), rel=1e-3)
    assert rows_that_decide(pilot, 0.08, 120) <= 120


def test_a_pilot_that_overestimates_the_distance_does_not_leave_the_question_open() -> None:
    """KL is 0.12 here, and a pilot of 100 rows may find 0.18: 415 rows left the verdict open."""
    pilot = torch.linspace(-1, 1, 100, dtype=torch.float64)
    assert rows_that_decide(0.18 + 0.34 * pilot / pilot.std(), 0.08, 10_000) > 3_000


def test_token_ids_take_fewer_rows_after_a_pilot() -> None:
    assert decided_rows(of_text(1)) == FEWEST_ROWS < decided_rows(of_data(2)) == DECIDED_ROWS
    clear = torch.tensor([3.9, 4.1])
    assert rows_that_decide(clear, 0.08, 10_000, FEWEST_ROWS) == FEWEST_ROWS


def test_only_slow_densities_have_a_pilot() -> None:
    data = of_data(20_000)
    assert pilot_pays(data, BUDGET, 2_000)
    assert not pilot_pays(data, BUDGET, 300)
    assert not pilot_pays(of_data(2), BUDGET, 4_000)
    assert not pilot_pays(data.with_network(data.oracle), BUDGET, 2_000)
    gpt = Procedure.of(build_probe("gpt", {}), data.target)
    assert not pilot_pays(gpt, BUDGET, None)


def of_text(order: int, **options: Any) -> AnyProcedure:
    """A decoder of 128 tokens of 40 symbols."""
    tables = [torch.full((40,) * k, 1 / 40, dtype=torch.float64) for k in range(1, order + 2)]
    return Procedure.of(build_probe("parallel_decoder", options), MarkovChain(tables, tokens=128))


def test_a_costly_decoder_makes_the_draws_that_fit_into_the_time() -> None:
    budget = Budget(length=128, steps=16)
    slow = of_text(2)
    few, more = (affordable_draws(slow, budget, 2_000, seconds) for seconds in (5.0, 10.0))
    assert 0 < few < more < 2_000
    assert more == pytest.approx(2 * few, abs=2)
    assert affordable_draws(slow, Budget(length=128, steps=4), 2_000, 5.0) == pytest.approx(
        4 * few, abs=4
    )
    assert affordable_draws(of_text(1), budget, 2_000, 5.0) == 2_000
    assert affordable_draws(of_data(2), BUDGET, 2_000, 1e-9) == 2_000  # numbers
    assert affordable_draws(slow.with_network(slow.oracle), budget, 2_000, 1e-9) == 2_000


def test_rows_that_know_tokens_of_their_own_are_as_many_as_fit_into_the_time() -> None:
    means = torch.zeros(1, 48, 8, dtype=torch.float64)
    law = GaussianMixture(means, torch.eye(384, dtype=torch.float64)[None])
    own = Procedure.of(build_probe("mar"), law)

    whole = Budget(length=48, steps=4)
    assert 0 < affordable_draws(own, whole, 9_000, 0.1) < 9_000

    assert affordable_draws(own, whole, 9_000, 0.4) == pytest.approx(
        4 * affordable_draws(own, whole, 9_000, 0.1), abs=4
    )
    one_order = Procedure.of(build_probe("mar", {"order": "fixed"}), law)
    assert affordable_draws(one_order, whole, 9_000, 1e-9) == 9_000


def test_a_pilot_saves_rows_and_changes_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    target = of_data(3_000).target
    how: dict[str, Any] = {"lengths": [4], "divergences": ["kl"], "samples": 2_000}
    monkeypatch.setattr(density_cost, "SLOW", math.inf)
    whole = check("diffusion", target, steps=[1, 4, 16], **how)
    monkeypatch.setattr(density_cost, "SLOW", 0.0)
    fewer = check("diffusion", target, steps=[1, 4, 16], **how)
    assert [cell.outcome for cell in fewer.cells] == [cell.outcome for cell in whole.cells]
    rows = [cell.estimates["kl"].samples for cell in fewer.cells]
    assert DECIDED_ROWS <= rows[1] < 0.5 * whole.cells[1].estimates["kl"].samples
    for one, other in zip(fewer.cells, whole.cells, strict=True):
        a, b = one.estimates["kl"], other.estimates["kl"]
        if a.value is not None and b.value is not None and math.isfinite(b.value):
            assert a.low is not None
            assert a.high is not None
            assert a.low - 0.05 * b.value <= b.value <= a.high + 0.05 * b.value
