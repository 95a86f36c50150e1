"""A result tells how drafts fare, and its run keeps that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import capcheck
from capcheck.runs.store import Store
from capcheck.targets import MarkovChain

STAYS = 0.9  # probability with which a bit equals the one before


def same(distance: int) -> float:
    """Probability that two bits of a distance are equal."""
    return (1 + (2 * STAYS - 1) ** distance) / 2


def overlap(distance: int) -> float:
    """Mean of sum_v min(p(v), q(v)) of a bit given the one before, and given one further back."""
    q, equal = same(distance), same(distance - 1)  # of the two bits that are seen
    alike = min(STAYS, q) + min(1 - STAYS, 1 - q)
    unlike = min(1 - STAYS, q) + min(STAYS, 1 - q)
    return equal * alike + (1 - equal) * unlike


@pytest.mark.parametrize("family", ["blockwise", "multi_token"])
def test_the_acceptance_of_a_chain_is_told_and_kept(family: str, tmp_path: Path) -> None:
    start = torch.tensor([0.5, 0.5])
    step = torch.tensor([[STAYS, 1 - STAYS], [1 - STAYS, STAYS]])
    result = capcheck.check(
        family, MarkovChain([start, step], tokens=8), lengths=[8], steps=[1], out=tmp_path / "run"
    )
    found = result.found.speculation
    assert found is not None
    assert (found.block, found.blocks, found.level) == (4, 2, result.settings.level)
    # The drafts of the first block see nothing, and those of the second one the token before it.
    expected = [(overlap(1000) + overlap(place)) / 2 for place in (2, 3, 4)]
    for quantity, value in zip(found.overlap, expected, strict=True):
        assert quantity.low - 1e-9 <= value <= quantity.high + 1e-9
        assert quantity.high - quantity.low < 0.1
    assert Store.open(tmp_path / "run").result().families[0].speculation == found
    capcheck.report(result, tmp_path / "report.html")
    assert "acceptance rate" in (tmp_path / "report.html").read_text()


def test_a_family_that_drafts_nothing_tells_nothing() -> None:
    chain = MarkovChain([torch.tensor([0.5, 0.5]), torch.eye(2)], tokens=2)
    assert capcheck.check("gpt", chain, lengths=[2], steps=[1]).found.speculation is None
