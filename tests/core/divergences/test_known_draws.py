"""Draws with their log-densities do not depend on what was asked for before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.divergences.known_draws import KnownDraws
from capcheck.targets import from_spec


class RoundsByRows:
    """A target whose log-densities depend on the number of rows that they are computed for."""

    def __init__(self) -> None:
        self._target = from_spec("gaussian:tokens=2")

    def sample(self, n: int, rng: CounterRandomness) -> Tensor:
        return self._target.sample(n, rng)

    def log_prob(self, x: Tensor) -> Tensor:
        return self._target.log_prob(x) + 1e-9 * len(x)


@pytest.mark.parametrize("before", [[], [500, 700], [1500], [2999, 100]])
def test_they_are_the_same_whatever_was_asked_for_before(before: list[int]) -> None:
    target: Any = RoundsByRows()

    def known() -> KnownDraws:
        return KnownDraws(target, 400, lambda row: CounterRandomness(0, first_row=row))

    fresh, used = known(), known()
    for n in before:
        used.log_prob(n)
        used.draws(n)
    assert torch.equal(used.log_prob(3000), fresh.log_prob(3000))
    assert torch.equal(used.draws(3000), fresh.draws(3000))
    assert len(used.log_prob(3000)) == 3000
    whole = from_spec("gaussian:tokens=2").sample(3000, CounterRandomness(0))
    assert torch.equal(used.draws(3000), whole)
