"""The KL of pooled transitions, against loops over the draws and what is known of its mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference import quality as reference
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics.transitions import transition_figure, transition_kl
from capcheck.divergences.estimate import t_quantile
from capcheck.targets import MarkovChain, from_spec

TRANSITION = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])


def chain(transition: np.ndarray = TRANSITION, tokens: int = 6) -> MarkovChain:
    start = torch.full((len(transition),), 1 / len(transition), dtype=torch.float64)
    return MarkovChain([start, torch.from_numpy(transition)], tokens=tokens)


def draws(target: MarkovChain, name: str, n: int) -> Tensor:
    return target.sample(n, CounterRandomness(0, name=name))


def test_it_is_the_weighted_divergence_of_counted_transitions() -> None:
    for n in (2, 5, 40):  # with few rows some symbols and pairs are missing
        x = np.random.default_rng(n).integers(0, 3, size=(n, 6))
        expected = reference.transition_kl(TRANSITION, x)
        assert transition_kl(chain(), torch.from_numpy(x)).value == pytest.approx(expected)


def test_independent_coins_have_it_in_closed_form() -> None:
    # Of a chain that stays with probability 0.9, coins have KL(1/2 || 0.9) = log(0.5 / 0.3).
    stay = chain(np.array([[0.9, 0.1], [0.1, 0.9]]), tokens=40)
    coins = (CounterRandomness(0).uniform((4000, 40)) < 0.5).long()
    assert transition_kl(stay, coins).value == pytest.approx(math.log(0.5 / 0.3), abs=0.01)


def test_its_mean_over_draws_of_the_chain_is_the_stated_bias() -> None:
    found = [transition_kl(chain(), draws(chain(), f"{k}", 50)) for k in range(200)]
    values = np.array([one.value for one in found])
    # 9 pairs of symbols less 3 symbols, in 2 x 50 x 5 halves of a transition: 6 / 500 = 0.012.
    assert {one.bias for one in found} == {0.012}
    assert values.mean() == pytest.approx(0.012, abs=4 * values.std() / math.sqrt(200))


@pytest.mark.parametrize("own", [True, False])
def test_the_interval_of_its_mean_covers_at_least_as_often_as_it_says(own: bool) -> None:
    other = chain() if own else chain(np.full((3, 3), 1 / 3))
    found = [transition_kl(chain(), draws(other, f"{k}", 50)) for k in range(200)]
    mean, t = np.mean([one.value for one in found]), t_quantile(0.9, 49)
    covered = sum(abs(one.value - mean) <= t * one.standard_error for one in found)
    assert covered > 180 - 3 * math.sqrt(200 * 0.9 * 0.1)
    if not own:  # a chi-squared value has a smaller error than its influence tells
        assert covered < 180 + 3 * math.sqrt(200 * 0.9 * 0.1)


def test_a_transition_that_cannot_occur_makes_it_infinite() -> None:
    never = chain(np.array([[0.5, 0.5], [1.0, 0.0]]))
    x = torch.tensor([[0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
    figure = transition_figure(never, x, draws(never, "own", 10), level=0.95)
    assert (figure.value, figure.low, figure.high) == (math.inf, math.inf, math.inf)
    assert figure.target is not None
    assert math.isfinite(figure.target)


def test_the_targets_own_value_is_of_as_many_draws() -> None:
    own, x = draws(chain(), "own", 300), draws(chain(), "model", 100)
    figure = transition_figure(chain(), x, own, level=0.95)
    assert figure.target == transition_kl(chain(), own[:100]).value
    assert figure.rows == 100
    assert "0.006" in figure.method


@pytest.mark.parametrize("spec", ["parity:4", "ising:rows=2,columns=2,coupling=0.3"])
def test_other_targets_have_none(spec: str) -> None:
    target = from_spec(spec)
    x = target.sample(10, CounterRandomness(0))
    figure = transition_figure(target, x, x, level=0.95)
    assert figure.value is None
    assert "no Markov chain of order 1" in figure.method
