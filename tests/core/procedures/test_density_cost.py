"""The number of draws at which a log-density is evaluated, and the draws themselves."""

from __future__ import annotations

import math

import pytest
import torch

from capcheck import InputError, check
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.divergences.known_draws import KnownDraws
from capcheck.procedures.density_cost import (
    FEWEST_ROWS,
    MOST_ROWS,
    NETWORK_ROWS,
    affordable_rows,
)
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import ProductMixture, from_spec

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
    assert cell.estimates["kl"].samples == MOST_ROWS


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, "long", True])
def test_a_time_that_is_none_is_refused(seconds: object) -> None:
    with pytest.raises(InputError, match=r"seconds_per_cell must be a number of seconds above 0"):
        check("gpt", from_spec("parity:3"), seconds_per_cell=seconds)  # type: ignore[arg-type]
