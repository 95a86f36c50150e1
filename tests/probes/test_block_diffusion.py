"""Block diffusion: its ends are other families, and between them the curve of a block bounds it."""

from __future__ import annotations

import itertools

import pytest
import torch
from reference.information import mean_over_orders, of_table

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import from_table

P = torch.rand((2,) * 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 3
P = P / P.sum()
TARGET = from_table(P)


def kl(family: str, steps: int, **options: object) -> float:
    found = check(family, TARGET, lengths=[6], steps=[steps], samples=200, options=options)
    estimate = found.cells[0].estimates["kl"]
    assert estimate.kind == "exact"
    assert estimate.value is not None
    return estimate.value


def test_one_step_a_block_is_multi_token() -> None:
    assert kl("block_diffusion", 1, block=3) == pytest.approx(
        kl("multi_token", 1, heads=3), abs=1e-12
    )


@pytest.mark.parametrize("block", [1, 2, 3, 6])
def test_as_many_steps_as_tokens_are_exact(block: int) -> None:
    assert kl("block_diffusion", block, block=block) == pytest.approx(0, abs=1e-12)


def test_one_block_is_random_order() -> None:
    # All tokens are one block: the mean over orders bounds the mixture, which is no larger.
    found = kl("block_diffusion", 2, block=6)
    mean = mean_over_orders(of_table(P.numpy()), [0, 3, 6])
    assert 0 < found <= mean


def test_more_steps_or_smaller_blocks_lose_less() -> None:
    by_steps = [kl("block_diffusion", steps, block=6) for steps in (1, 2, 3, 6)]
    by_block = [kl("block_diffusion", 1, block=block) for block in (6, 3, 2, 1)]
    for line in (by_steps, by_block):
        assert all(b < a for a, b in itertools.pairwise(line))


def test_blocks_are_written_from_the_left() -> None:
    procedure = Procedure.of(build_probe("block_diffusion", {"block": 4}), TARGET)
    first, *states = procedure.run(Budget(length=6, steps=2), 50, CounterRandomness(0))
    assert not first.placed.any()
    assert len(states) == 4
    assert states[1].placed[:, :4].all()
    assert not states[1].placed[:, 4:].any()
    assert states[-1].placed.all()
