"""Draws of others' code: in torch's shapes, types and ranges, and seen by exact laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.procedures.procedure import Procedure
from capcheck.samplers.drawing import Drawing
from capcheck.samplers.from_decoder import decoder_probe
from capcheck.targets import from_table
from capcheck.targets.categorical.sequence_law import SequenceLaw

ROWS = 4000
CALLS: dict[str, Callable[[], Tensor]] = {
    "high and shape": lambda: torch.randint(3, (ROWS, 2)),
    "low, high and shape": lambda: torch.randint(0, 3, (ROWS, 2)),
    "names": lambda: torch.randint(low=0, high=3, size=(ROWS, 2), dtype=torch.int32),
    "like": lambda: torch.randint_like(torch.zeros(ROWS, 2), 3),
    "like with a low": lambda: torch.randint_like(torch.zeros(ROWS, 2, dtype=torch.int16), 0, 3),
}


@pytest.mark.parametrize("name", CALLS)
def test_integers_have_the_shape_type_and_law_of_torch(name: str) -> None:
    expected = CALLS[name]()
    with Drawing(CounterRandomness(0), ROWS) as drawing:
        found = CALLS[name]()
    assert (found.shape, found.dtype, drawing.draws) == (expected.shape, expected.dtype, 1)
    counts = torch.bincount(found.long().flatten(), minlength=3)
    assert len(counts) == 3
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_large_ranges_and_low_ends_are_kept() -> None:
    with Drawing(CounterRandomness(0), ROWS):
        found = torch.randint(-5, 1_000_000, (ROWS,))
    assert -5 <= int(found.min()) < 1_000
    assert 999_000 < int(found.max()) < 1_000_000


def test_orders_are_permutations_and_change_with_every_call() -> None:
    with Drawing(CounterRandomness(0), 3) as drawing:
        found = torch.stack([torch.randperm(3) for _ in range(600)])
    assert drawing.draws == 600
    assert bool((found.sort(1).values == torch.arange(3)).all())
    of_each = torch.unique(found, dim=0, return_counts=True)[1]
    assert len(of_each) == 6
    assert stats.chisquare(of_each.numpy()).pvalue > 1e-3


def test_multinomial_takes_its_names() -> None:
    p = torch.tensor([[0.0, 1.0, 0.0]]).expand(5, 3)
    with Drawing(CounterRandomness(0), 5):
        found = torch.multinomial(input=p, num_samples=1, replacement=True)
    assert found.tolist() == [[1]] * 5


def coin(model: Callable[[Tensor], Any], tokens: Tensor, steps: int) -> Tensor:
    return torch.randint(0, 2, tuple(tokens.shape))


def order(model: Callable[[Tensor], Any], tokens: Tensor, steps: int) -> Tensor:
    return torch.stack([torch.randperm(2)[:1] for _ in tokens])


@pytest.mark.parametrize("decode", [coin, order])
def test_no_exact_law_takes_a_fair_coin_for_a_fixed_one(decode: Callable[..., Tensor]) -> None:
    target = from_table(torch.tensor([0.5, 0.5], dtype=torch.float64))
    law = Procedure.of(decoder_probe(decode, "coin", {}), target).exact_law(
        Budget(length=0, steps=1)
    )
    if not isinstance(law, Unavailable):
        assert isinstance(law, SequenceLaw)
        p = law.log_probabilities.exp()
        torch.testing.assert_close(p, torch.tensor([0.5, 0.5], dtype=p.dtype))
