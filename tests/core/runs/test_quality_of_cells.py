"""Cells of token ids tell what their draws are like, and tables and reports show it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import capcheck
from capcheck.judging.qualities import quality_table
from capcheck.runs.store import Store
from capcheck.targets import MarkovChain, from_spec

STAYS = 0.9  # probability with which a bit equals the one before


def test_draws_of_one_step_keep_no_dependence_and_those_of_all_steps_keep_all(
    tmp_path: Path,
) -> None:
    step = torch.tensor([[STAYS, 1 - STAYS], [1 - STAYS, STAYS]])
    result = capcheck.check(
        "parallel_decoder",
        MarkovChain([torch.tensor([0.5, 0.5]), step], tokens=8),
        lengths=[0, 8],
        steps=[1, 8],
        options={"order": "fixed"},
        samples=1000,
        out=tmp_path / "run",
    )
    *short, at_once, one_by_one = result.found.cells
    assert all(cell.quality is None for cell in short)  # they are completed all at once
    # Independent fair bits differ from their neighbours half of the time.
    independent = (2 * (STAYS * (1 - STAYS)) ** -3.5) ** (1 / 8)
    for cell, kept, perplexity in ((at_once, 0.0, independent), (one_by_one, 1.0, None)):
        assert cell.quality is not None
        near, figure = cell.quality.dependence[0].kept, cell.quality.perplexity
        assert near.low is not None
        assert near.high is not None
        assert near.low <= kept <= near.high
        assert figure.value == pytest.approx(perplexity or figure.target, rel=0.05)
    table = quality_table(result.found)
    assert table is not None
    assert table.steps == ("1", "8")
    assert [name for name, _, _ in table.rows][:2] == ["valid sequences", "generative perplexity"]
    kept_cell = Store.open(tmp_path / "run").result().families[0].cells[2]
    assert kept_cell.quality == at_once.quality
    capcheck.report(result, tmp_path / "report.html")
    assert "What its draws are like" in (tmp_path / "report.html").read_text()


def test_sequences_that_cannot_occur_are_counted() -> None:
    result = capcheck.check(
        "maskgit", from_spec("parity:4"), lengths=[4], steps=[1], options={"rounds": 1}
    )
    (cell,) = result.found.cells
    assert cell.quality is not None
    assert cell.witness is not None
    assert cell.witness.impossible is not None
    valid = cell.quality.valid
    assert valid.value == 1 - cell.witness.impossible / cell.witness.samples
    assert valid.low is not None
    assert valid.high is not None
    assert valid.low <= 0.5 <= valid.high  # half of all sequences have the parity


def test_tokens_that_no_step_accepts_are_told() -> None:
    result = capcheck.check(
        "parallel_decoder",
        from_spec("parity:4"),  # whose bits are fair until all others are known
        lengths=[2, 4],
        steps=[1, 2, 4],
        options={"threshold": 0.9},
    )
    left = {str(cell.budget): cell.unplaced for cell in result.found.cells}
    # A step accepts one token at least, and the last bit follows from the others.
    assert {budget: left[budget] for budget in left if budget.startswith("length 4")} == {
        "length 4, steps 1": 3,
        "length 4, steps 2": 2,
        "length 4, steps 4": 0,
    }
    assert all(left[budget] == 0 for budget in left if budget.startswith("length 2"))
    (note,) = [note for note in result.found.notes if "no step accepted" in note]
    assert "3 at length 4, steps 1; 2 at length 4, steps 2" in note


def test_numbers_have_no_such_figures() -> None:
    result = capcheck.check("gpt", from_spec("gaussian:ar1,tokens=2,rho=0.5"), steps=[1])
    assert result.found.cells[-1].quality is None
    assert quality_table(result.found) is None
