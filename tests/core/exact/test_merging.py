"""Equal states are merged as a dictionary merges them."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch

from capcheck.exact import merging as module
from capcheck.exact.merging import merged


@pytest.mark.parametrize("packed", [1 << 62, 1 << 6, 1])
@pytest.mark.parametrize("columns", [1, 3, 7])
def test_masses_of_equal_states_are_added(
    packed: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", packed)
    generator = torch.Generator().manual_seed(columns)
    states = torch.randint(0, 3, (60, columns), generator=generator)
    log_mass = torch.randn(60, generator=generator).double()
    log_mass[:20] = -torch.inf
    expected: dict[tuple[int, ...], float] = defaultdict(float)
    for state, log_p in zip(states.tolist(), log_mass.tolist(), strict=True):
        expected[tuple(state)] += math.exp(log_p)
    distinct, found = merged(states, log_mass)
    assert [tuple(state) for state in distinct.tolist()] == sorted(expected)
    assert found.exp().tolist() == pytest.approx([expected[s] for s in sorted(expected)])
    assert found.logsumexp(0) != pytest.approx(float(log_mass[30:].logsumexp(0)), abs=1e-3)


def test_masses_too_small_for_a_float_are_added() -> None:
    _, found = merged(torch.tensor([[4], [4]]), torch.tensor([-2000.0, -2000.0]).double())
    assert found.tolist() == pytest.approx([-2000 + math.log(2)], abs=1e-12)


def test_states_without_columns_are_one() -> None:
    distinct, found = merged(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2).double())
    assert distinct.shape == (1, 0)
    assert found.tolist() == pytest.approx([math.log(2)])
