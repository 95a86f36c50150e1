"""Joint draws from one uniform number against grids of numbers, and facts in numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from capcheck.core.randomness import inverse_cdf
from capcheck.exact import common_noise as module
from capcheck.exact.common_noise import common_draws

Joint = dict[tuple[int, ...], float]


def joint(*laws: list[float]) -> Joint:
    """The probability of every combination of values of some laws, of as many values or fewer."""
    V = max(len(law) for law in laws)
    p = [law + [0.0] * (V - len(law)) for law in laws]
    row, values, mass = common_draws(torch.tensor([p], dtype=torch.float64))
    assert not bool(row.any())
    found: Joint = {}
    for combination, probability in zip(values.tolist(), mass.tolist(), strict=True):
        assert tuple(combination) not in found
        found[tuple(combination)] = probability
    return found


def test_two_coins_in_numbers() -> None:
    # u < 0.3 gives two zeros, u < 0.6 a one and a zero, and the rest two ones.
    found = joint([0.3, 0.7], [0.6, 0.4])
    assert found == pytest.approx({(0, 0): 0.3, (1, 0): 0.3, (1, 1): 0.4}, abs=1e-15)
    independent = {(0, 0): 0.18, (0, 1): 0.12, (1, 0): 0.42, (1, 1): 0.28}
    assert found != pytest.approx(independent, abs=0.1)


@pytest.mark.parametrize(("laws", "values"), list(itertools.product([1, 2, 4], [1, 2, 5])))
def test_the_joint_law_is_that_of_a_grid_of_numbers(laws: int, values: int) -> None:
    m, n, rng = 12, 20, np.random.default_rng(laws * 10 + values)
    counts = torch.tensor(rng.multinomial(m, np.ones(values) / values, size=(n, laws)))
    u = (torch.arange(m).double() + 0.5) / m  # every step of the laws is a multiple of 1 / m
    drawn = inverse_cdf(counts, u.expand(n, laws, m).contiguous())  # (n, laws, m)
    expected = np.zeros((n, *[values] * laws))
    for r, cell in itertools.product(range(n), range(m)):
        expected[r, *drawn[r, :, cell].tolist()] += 1 / m
    row, combinations, mass = common_draws(counts)
    found = np.zeros_like(expected)
    np.add.at(found, (row.numpy(), *combinations.numpy().T), mass.numpy())
    assert np.abs(found - expected).max() < 1e-14
    shifted = np.roll(expected, 1, 0)  # the twin that must fail
    assert (np.abs(found - shifted).max() > 0.05) == (values > 1)


def test_the_intervals_are_those_of_the_sampler() -> None:
    p = torch.rand(50, 3, 4, generator=torch.Generator().manual_seed(0)).double() ** 4
    row, values, mass = common_draws(p)
    start = torch.zeros(len(p)).double()
    for r, value, length in zip(row.tolist(), values, mass, strict=True):
        u = (start[r] + length / 2).expand(3, 1)
        assert torch.equal(inverse_cdf(p[r], u.contiguous())[:, 0], value)
        start[r] += length
    assert (start - 1).abs().max() < 1e-12


def test_a_value_of_any_probability_is_drawn() -> None:
    tiny = 1e-200
    found = joint([0.5, tiny, 0.5], [0.5, tiny, 0.5])
    assert found == {(0, 0): 0.5, (1, 1): tiny, (2, 2): 0.5}
    assert joint([0.3, tiny, 0.7], [0.6, 0.4])[1, 0] == tiny
    assert joint([1.0, 0.0], [1.0, tiny]) == {(0, 0): 1.0, (0, 1): tiny}
    assert joint([1.0, tiny], [0.5, 0.5]) == {(0, 0): 0.5, (0, 1): 0.5, (1, 1): tiny}
    assert joint([0.0, 1.0, 0.0], [0.0, 0.0, 2.0]) == {(1, 2): 1.0}


def test_steps_that_differ_by_rounding_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # 0.1 + 0.2 is not 0.3 in binary, so that an interval of 6e-17 would come between the two.
    laws = ([0.1, 0.2, 0.7], [0.3, 0.7])
    assert sorted(joint(*laws)) == [(0, 0), (1, 0), (2, 1)]
    monkeypatch.setattr(module, "TIE", 0.0)
    assert len(joint(*laws)) == 4
