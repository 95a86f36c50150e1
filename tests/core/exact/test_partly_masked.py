"""Steps that mask tokens again, in numbers."""

from __future__ import annotations

import math

import pytest
import torch

from capcheck.exact.partly_masked import PartlyMasked

State = tuple[int | None, ...]


def masses(states: PartlyMasked) -> dict[State, float]:
    """The probability of each state, in which None stands for a masked token."""
    rows = zip(states.tokens.tolist(), states.known.tolist(), strict=True)
    keys = [tuple(v if k else None for v, k in zip(*row, strict=True)) for row in rows]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, states.log_mass.exp().tolist(), strict=True))


def table(*laws: list[float]) -> torch.Tensor:
    """Log-probabilities of one sequence, (1, N, V)."""
    return torch.tensor([laws], dtype=torch.float64).log()


def test_a_step_reveals_and_masks_again() -> None:
    # x_1 = 1 is known, x_2 is masked with law (0.9, 0.1); a known token stays with 0.75, a masked
    # one is revealed with 0.5.
    start = PartlyMasked.beside(torch.tensor([[1, 0]]), [0])
    assert masses(start) == {(1, None): 1.0}
    keep = torch.full((2,), 0.75, dtype=torch.float64)
    after = start.renewed(table([0.3, 0.7], [0.9, 0.1]), keep=keep, reveal=0.5)
    expected: dict[State, float] = {
        (1, None): 0.375,  # 0.75 * 0.5
        (1, 0): 0.3375,  # 0.75 * 0.5 * 0.9
        (1, 1): 0.0375,
        (None, None): 0.125,  # 0.25 * 0.5
        (None, 0): 0.1125,
        (None, 1): 0.0125,
    }
    assert masses(after) == pytest.approx(expected, abs=1e-15)
    kept = start.renewed(table([0.3, 0.7], [0.9, 0.1]), keep=torch.ones(2).double(), reveal=0.5)
    assert masses(kept) == pytest.approx({(1, None): 0.5, (1, 0): 0.45, (1, 1): 0.05}, abs=1e-15)


def test_states_that_lose_their_difference_are_merged() -> None:
    law = [0.25, 0.75]
    drawn = PartlyMasked.all_masked(1).renewed(table(law), keep=torch.ones(1).double(), reveal=1.0)
    assert masses(drawn) == pytest.approx({(0,): 0.25, (1,): 0.75})
    assert not bool(drawn.open.any())
    nothing = torch.zeros(0, 1, 2, dtype=torch.float64)  # no sequence is open
    keep = torch.tensor([0.4], dtype=torch.float64)
    again = drawn.renewed(nothing, keep=keep, reveal=1.0)
    assert masses(again) == pytest.approx({(None,): 0.6, (0,): 0.1, (1,): 0.3})


def test_a_mass_below_all_floats_is_kept() -> None:
    log_p = torch.tensor([[[0.0, -800.0]]], dtype=torch.float64)  # exp(-800) is 0
    drawn = PartlyMasked.all_masked(1).renewed(log_p, keep=torch.ones(1).double(), reveal=0.5)
    found = drawn.log_prob(torch.tensor([[1]]))
    assert float(found) == pytest.approx(-800 + math.log(0.5), abs=1e-9)


def test_starts_with_given_tokens_stand_side_by_side() -> None:
    x = torch.tensor([[0, 2, 1], [1, 2, 1], [0, 0, 2]])
    beside = PartlyMasked.beside(x, [0, 2])
    assert masses(beside) == {(0, None, 1): 1.0, (1, None, 1): 1.0, (0, None, 2): 1.0}
    assert masses(PartlyMasked.beside(x, ())) == {(None, None, None): 1.0}
