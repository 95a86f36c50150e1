"""The rehearsal of a survey: its counts against those of the survey itself, and its arithmetic."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from capcheck import InputError, survey
from capcheck.core.pace import Pace
from capcheck.judging.causes import has_floor
from capcheck.probes.length.gpt import GPT
from capcheck.results.cost import UNSEEN, FamilyCost, RunCost
from capcheck.runs.planning import cost_of_survey
from capcheck.runs.work_counter import MemoryMeter, Work, WorkCounter
from capcheck.targets import from_spec
from capcheck.targets.continuous.product_mixture import ProductMixture

HOW: dict[str, Any] = {"lengths": [0, 3], "steps": [1, 5], "samples": 300, "network": "none"}


def rows_of(count: int) -> ProductMixture:
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(count, 3, 1, generator=generator, dtype=torch.float64)
    return ProductMixture(means, torch.full((3, 1), 0.3, dtype=torch.float64))


def test_products_are_counted_by_their_closed_form_and_views_move_nothing() -> None:
    x, y = torch.ones(4, 6, dtype=torch.float64), torch.ones(6, 5, dtype=torch.float64)
    with WorkCounter() as counter:
        z = x @ y
        _ = z.T[1:]
    assert counter.work == Work(flops=2 * 4 * 6 * 5, moved=8 * (24 + 30 + 20), launches=1)
    more = counter.work.scaled(size=3, turns=2)
    assert more == Work(flops=6 * 240, moved=6 * 592, launches=2)


def test_memory_is_that_of_the_tensors_that_live_at_once() -> None:
    x = torch.ones(1000, dtype=torch.float64)
    with MemoryMeter() as meter:
        y = x + 1
        z = y[:10]  # a view, which takes nothing
        for _ in range(5):
            x = y * 2  # each is freed by the next, after it is made
        assert meter.peak == 8000 * 3
        del y
        (x + 1).sum()
    assert meter.peak == 8000 * 3 + 8
    assert len(z) == 10


def test_memory_grows_with_the_batch_and_not_with_the_samples() -> None:
    small, large, more = (
        cost_of_survey(rows_of(40), ["diffusion"], **(HOW | {"batch": batch, "samples": samples}))
        for batch, samples in ((256, 2000), (1024, 2000), (1024, 4000))
    )
    memory = [one.families[0].memory for one in (small, large, more)]
    assert 2 * memory[0] < memory[1] == pytest.approx(memory[2], rel=0.2)
    assert large.held < more.held
    assert more.memory == more.held + more.families[0].memory


@pytest.mark.parametrize("batch", [100, 1024])
def test_the_turns_are_those_that_the_survey_makes(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Counter[str] = Counter()
    turn = Pace.turn

    def counted(self: Pace) -> None:
        made["turns"] += 1
        turn(self)

    monkeypatch.setattr(Pace, "turn", counted)
    for family in ("gpt", "diffusion", "ar_diffusion", "diffusion_forcing"):
        found = cost_of_survey(rows_of(40), [family], batch=batch, **HOW).families[0]
        made.clear()
        # One divergence, so that no cell takes fewer draws, and no suspect is measured.
        result = survey(rows_of(40), [family], batch=batch, divergences=["mmd"], **HOW)
        suspects = has_floor(result.families[0]) and found.causes > 0
        assert found.turns <= made["turns"] if suspects else found.turns == made["turns"], family


@pytest.mark.parametrize("family", ["gpt", "diffusion", "maskgit", "ar_diffusion", "vae"])
def test_cells_and_calls_are_those_of_the_check(family: str) -> None:
    cost = cost_of_survey(rows_of(40), [family], **HOW).families[0]
    cells = survey(rows_of(40), [family], **HOW).families[0].cells
    assert cost.cells == len(cells) == 4
    assert cost.calls == max(cell.model_calls for cell in cells)


def test_every_part_has_its_time_and_a_family_without_an_oracle_its_reason() -> None:
    how = HOW | {"network": ["mlp:width=8,depth=1"], "fit_steps": 40}
    cost = cost_of_survey(rows_of(40), ["gpt", "masked_diffusion"], start=2.0, **how)
    oracle, fitted, unfit = cost.families
    assert min(oracle.draws, oracle.densities, oracle.estimates, oracle.longest) > 0
    assert oracle.fit == 0 < fitted.fit
    assert fitted.title == "gpt, mlp:width=8,depth=1"
    assert fitted.longest >= fitted.fit
    assert "categorical" in unfit.reason
    assert unfit.seconds == 0
    assert cost.start == 2.0


def test_a_family_that_fails_keeps_no_other_from_being_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*args: Any, **named: Any) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(GPT, "run", fails)
    broken, sound = cost_of_survey(rows_of(40), ["gpt", "diffusion"], **HOW).families
    assert "out of luck" in broken.reason
    assert sound.reason == ""
    assert sound.draws > 0


def test_a_run_takes_its_share_or_its_longest_part() -> None:
    one = FamilyCost(title="a", draws=30.0, densities=5.0, causes=5.0, longest=12.0)
    cost = RunCost(families=(one, one), shared=1.0, start=2.0)
    assert cost.work == pytest.approx(UNSEEN * 80)
    assert cost.seconds(2) == pytest.approx(3 + UNSEEN * 40)
    assert cost.seconds(1000) == pytest.approx(3 + 12)


def test_a_device_is_bound_by_its_slowest_rate() -> None:
    one = FamilyCost(title="a", flops=100.0, moved=10.0, launches=1.0)
    cost = RunCost(families=(one,), shared=0.0, start=0.0)
    assert cost.on_device((10.0, 10.0, 10.0)) == (10.0, 10.0)
    assert cost.on_device((1000.0, 2.0, 10.0)) == (0.1, 5.0)
    assert cost.on_device((1000.0, 1000.0, 0.5)) == (2.0, 2.0)


def test_the_arithmetic_of_rows_grows_with_them() -> None:
    few, many = (
        cost_of_survey(rows_of(40), ["diffusion"], rows=rows, **HOW).families[0]
        for rows in (40, 4000)
    )
    assert many.flops == pytest.approx(100 * few.flops)
    assert many.turns == few.turns
    # The count is that of a law with so many rows, up to what does not depend on them.
    true = cost_of_survey(rows_of(4000), ["diffusion"], **HOW).families[0]
    assert many.flops == pytest.approx(true.flops, rel=0.1)


def test_rows_of_a_law_that_holds_none_are_refused() -> None:
    with pytest.raises(InputError, match="rows needs a law that is a sum over the rows of data"):
        cost_of_survey(from_spec("gaussian:ar1,tokens=2,rho=0.5"), ["gpt"], rows=9, **HOW)
    with pytest.raises(InputError, match="rows must be"):
        cost_of_survey(rows_of(4), ["gpt"], rows=0, **HOW)
