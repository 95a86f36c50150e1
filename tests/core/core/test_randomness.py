from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from capcheck.core.randomness import CounterRandomness, inverse_cdf


@given(start=st.integers(0, 40), words=st.integers(1, 9))
def test_a_row_does_not_depend_on_the_batch_it_is_drawn_in(start: int, words: int) -> None:
    whole, part = CounterRandomness(5), CounterRandomness(5, first_row=start)
    for _ in range(2):
        together, alone = whole.uniform((50, words)), part.uniform((50 - start, words))
        assert torch.equal(together[start:], alone)


@pytest.mark.parametrize(
    "other",
    [
        CounterRandomness(1),
        CounterRandomness(0, replicate=1),
        CounterRandomness(0, name="target"),
        CounterRandomness(0).stream("completion"),
    ],
)
def test_streams_are_unrelated(other: CounterRandomness) -> None:
    a, b = CounterRandomness(0).normal((4000, 1)), other.normal((4000, 1))
    correlation = np.corrcoef(a[:, 0], b[:, 0])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(4000)


def test_draws_follow_their_laws(rng: CounterRandomness) -> None:
    assert stats.kstest(rng.uniform((5000, 3)).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(rng.normal((5000, 3)).flatten().numpy(), "norm").pvalue > 1e-3
    counts = np.bincount(rng.categorical(torch.tensor([0.5, 0.2, 0.3]), (9000,)), minlength=3)
    assert stats.chisquare(counts, [4500, 1800, 2700]).pvalue > 1e-3
    orders = rng.permutation(6000, 3) @ torch.tensor([9, 3, 1])
    assert stats.chisquare(np.unique(orders, return_counts=True)[1]).pvalue > 1e-3


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 1.0, 7.0]), min_size=1, max_size=8),
    u=st.sampled_from([2.0**-53, 0.25, 0.5, 1 - 2.0**-53]),
)
def test_an_index_of_probability_zero_is_never_drawn(weights: list[float], u: float) -> None:
    if sum(weights) == 0:
        return
    index = inverse_cdf(torch.tensor(weights, dtype=torch.float64), torch.tensor([u]).double())
    assert weights[int(index)] > 0


def test_the_extreme_uniforms_stay_inside_the_unit_interval() -> None:
    assert 0 < (0 + 0.5) * 2.0**-52
    assert (2**52 - 1 + 0.5) * 2.0**-52 < 1


def test_weights_go_to_the_device_of_the_numbers_and_the_result_stays_there() -> None:
    # Tensors of `meta` have no storage, and no operation takes one beside a tensor of the CPU.
    weights, u = torch.tensor([0.2, 0.8]), torch.rand(5, 1, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        weights.expand(5, 2) * u
    assert inverse_cdf(weights, u).device.type == "meta"
    assert inverse_cdf(weights.expand(5, 2), u).shape == (5, 1)


def test_weights_that_are_not_numbers_and_draws_that_round_up_stay_within_the_categories() -> None:
    broken = torch.tensor([[math.nan, math.nan], [math.inf, 1.0], [0.5, 0.5]], dtype=torch.float64)
    index = inverse_cdf(broken, torch.full((3, 4), 0.7, dtype=torch.float64))
    assert bool(((index >= 0) & (index < 2)).all())
    assert index[2].tolist() == [1] * 4
    highest = torch.full((1, 1), 1 - 2.0**-53, dtype=torch.float64)
    for weights in ([[0.1] * 10 + [0.0]], [[1.0, 0.0]], [[3.0]], [[1.0, 1e-300, 0.0]]):
        p = torch.tensor(weights, dtype=torch.float64)
        assert float(p[0, inverse_cdf(p, highest)[0]]) > 0
