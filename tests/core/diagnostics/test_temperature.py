"""The effective temperature, against draws made at a known one and a search over enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from reference import quality as reference
from reference.sequences import Sequences
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics import temperature as module
from capcheck.diagnostics.figure import Figure
from capcheck.diagnostics.temperature import temperature
from capcheck.targets import CategoricalMixture, CategoricalTarget, MarkovChain, from_table

N, V = 4, 3


def laws(*, zeros: bool = False) -> tuple[CategoricalTarget, Sequences]:
    rng = np.random.default_rng(1)
    joint = rng.dirichlet(np.full(V**N, 0.8))
    if zeros:
        joint[rng.random(len(joint)) < 0.3] = 0
    joint = (joint / joint.sum()).reshape((V,) * N)
    listed = {x: float(joint[x]) for x in itertools.product(range(V), repeat=N)}
    return from_table(torch.from_numpy(joint)), Sequences(listed, V)


def at(target: CategoricalTarget, x: Tensor, level: float = 0.95) -> Figure:
    return temperature(target, x, free=range(target.spec.tokens), level=level)


def ends(figure: Figure) -> tuple[float, float, float]:
    assert figure.value is not None
    assert figure.low is not None
    assert figure.high is not None
    return figure.low, figure.value, figure.high


def biased_coins(p: float, tokens: int) -> CategoricalMixture:
    return CategoricalMixture(torch.tensor([p, 1 - p]).double().expand(1, tokens, 2))


@pytest.mark.parametrize("t", [0.7, 1.0, 1.5])
def test_a_known_temperature_is_found(t: float) -> None:
    target, listed = laws()
    x = reference.tempered(listed, t, 4000, np.random.default_rng(0))
    low, value, high = ends(at(target, torch.from_numpy(x), level=0.99))
    assert low < t < high
    assert value == pytest.approx(t, rel=0.05)


@pytest.mark.parametrize("zeros", [False, True])
def test_it_is_the_temperature_of_greatest_likelihood(zeros: bool) -> None:
    target, listed = laws(zeros=zeros)
    x = reference.tempered(listed, 1.3, 60, np.random.default_rng(2))
    expected = reference.likeliest_temperature(listed, x)
    assert at(target, torch.from_numpy(x)).value == pytest.approx(expected, rel=1e-4)


def test_coins_have_it_in_closed_form() -> None:
    # Heads 2 in 3 where the target has 9 in 10: 9^(1/t) = 2, t = log 9 / log 2.
    target = biased_coins(0.9, 3)
    x = torch.tensor([[0, 0, 1]]).repeat(50, 1)
    assert at(target, x).value == pytest.approx(math.log(9) / math.log(2), rel=1e-4)


def test_the_interval_covers_as_often_as_it_says() -> None:
    target, listed = laws()
    x = reference.tempered(listed, 0.7, 200 * 60, np.random.default_rng(4)).reshape(200, 60, N)
    found = 0
    for rows in x:
        low, _, high = ends(at(target, torch.from_numpy(rows), level=0.9))
        found += low <= 0.7 <= high
    assert abs(found - 180) < 4 * math.sqrt(200 * 0.9 * 0.1)


def test_repeated_rows_do_not_make_it_more_certain() -> None:
    # Two tokens that are equal count as one: the interval is that of their first one alone.
    copy = from_table(torch.diag(torch.tensor([0.8, 0.2]).double()))
    x = (torch.arange(100) < 30).long()[:, None].expand(-1, 2).contiguous()
    expected = ends(at(biased_coins(0.8, 1), x[:, :1]))
    assert ends(at(copy, x)) == pytest.approx(expected, rel=1e-3)


def test_only_the_most_probable_tokens_are_temperature_zero() -> None:
    p, n, level = 0.7, 40, 0.95
    figure = at(biased_coins(p, 3), torch.zeros(n, 3, dtype=torch.int64), level=level)
    # P(all heads) = (1 + ((1-p)/p)^b)^(-3n) = 1 - level.
    b = math.log((1 - level) ** (-1 / (3 * n)) - 1) / math.log((1 - p) / p)
    assert ends(figure) == pytest.approx((0.0, 0.0, 1 / b), rel=1e-3)


def test_tokens_that_the_target_avoids_are_infinitely_hot() -> None:
    figure = at(biased_coins(0.7, 3), torch.ones(40, 3, dtype=torch.int64))
    assert figure.value == math.inf
    assert figure.high == math.inf


def test_laws_that_are_uniform_at_every_temperature_have_none() -> None:
    fair = MarkovChain([torch.full((2,), 0.5).double()], tokens=4)
    figure = at(fair, fair.sample(50, CounterRandomness(0)))
    assert figure.value is None
    assert "equally likely" in figure.method


def test_given_tokens_do_not_count() -> None:
    target = biased_coins(0.9, 3)
    x = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).repeat(20, 1)
    figure = temperature(target, x, free=[1, 2], level=0.95)
    assert figure.value == pytest.approx(math.log(9) / math.log(2), rel=1e-4)  # 2 in 3 as above
    assert at(target, x).value == math.inf  # heads 4 in 9


def test_where_not_all_tokens_can_be_held_they_are_evenly_spaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = biased_coins(0.9, 8)
    x = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 1]]).repeat(30, 1)
    x[:10, 0] = 1  # of tokens 0 and 4, which are held, 20 of 60 are heads
    monkeypatch.setattr(module, "HELD", 30 * 2 * 2)
    figure = at(target, x)
    assert figure.value == math.inf
    x[:, 4] = 0
    assert at(target, x).value == pytest.approx(math.log(9) / math.log(5), rel=1e-4)  # 50 of 60
    assert "2 tokens of each draw" in figure.method
