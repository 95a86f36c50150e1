"""The bound on KL from draws, against closed forms and equal laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.divergences.estimate import Term
from capcheck.divergences.variational import FEWEST, kl_from_below
from capcheck.targets import from_spec, from_table
from capcheck.targets.target import Target


def bound(target: Target, model: Target, n: int, seed: int) -> Term:
    x, y = (
        law.sample(n, CounterRandomness(seed, name=name))
        for law, name in ((target, "target"), (model, "model"))
    )
    term = kl_from_below(target.spec, x, y, target.log_prob(x), target.log_prob(y))
    assert term is not None
    return term


@pytest.mark.slow
def test_equal_laws_are_called_different_no_more_often_than_the_level() -> None:
    wrong, runs = 0, 60  # six are too many: of a level of 0.15, 60 runs show that in nine of ten
    for seed in range(runs):
        spec = ("gaussian:ar1,tokens=4,rho=0.8", "parity:6", "modes:tokens=3,modes=2,gap=4")[
            seed % 3
        ]
        target = from_spec(spec)
        wrong += bound(target, target, 400, seed).interval(0.95)[0] > 0
    assert stats.binom.sf(wrong - 1, runs, 0.025) > 0.01, wrong


def test_it_lies_below_the_closed_form_and_near_it() -> None:
    target = from_spec("gaussian:tokens=2")
    for std in (0.7, 1.5):
        model = from_spec(f"gaussian:tokens=2,std={std}")
        true = 2 * (math.log(std) + 0.5 / std**2 - 0.5)
        term = bound(target, model, 3000, 1)
        assert term.interval(0.999)[0] <= true
        assert term.value > 0.6 * true
        assert term.p_above(0.02) < 1e-3


def test_lost_dependence_is_seen_without_any_density() -> None:
    rho = 0.8
    target = from_spec(f"gaussian:ar1,tokens=4,rho={rho}")
    true = -1.5 * math.log(1 - rho**2)
    term = bound(target, from_spec("gaussian:tokens=4"), 2000, 2)
    assert 0.5 * true < term.value
    assert term.interval(0.999)[0] <= true


def test_a_dropped_value_of_token_ids_is_seen() -> None:
    p = torch.tensor([[0.25, 0.25], [0.25, 0.25]], dtype=torch.float64)
    q = torch.tensor([[0.4, 0.1], [0.1, 0.4]], dtype=torch.float64)
    true = float((p * (p / q).log()).sum())
    term = bound(from_table(p), from_table(q), 3000, 3)
    assert 0.6 * true < term.value
    assert term.interval(0.999)[0] <= true


def test_rows_that_are_no_numbers_count_as_impossible() -> None:
    target = from_spec("gaussian:tokens=3")
    x = target.sample(2000, CounterRandomness(1))
    y = x.clone().roll(1, 0)
    y[torch.rand(2000, generator=torch.Generator().manual_seed(0)) < 0.5] = torch.nan
    log_p = torch.where(y.isfinite().all(2).all(1), target.log_prob(y.nan_to_num()), -torch.inf)
    term = kl_from_below(target.spec, x, y, target.log_prob(x), log_p)
    assert term is not None
    assert term.value > 0.45
    assert term.interval(0.999)[0] <= math.log(2)


def test_few_draws_bound_nothing() -> None:
    target = from_spec("gaussian:tokens=2")
    x = target.sample(FEWEST - 1, CounterRandomness(1))

    def found(rows: Tensor) -> Term | None:
        return kl_from_below(target.spec, rows, rows, target.log_prob(rows), target.log_prob(rows))

    assert found(x) is None


def test_the_influence_of_draws_gives_the_right_standard_error() -> None:
    target, model = from_spec("gaussian:tokens=2"), from_spec("gaussian:tokens=2,std=0.7")
    terms = [bound(target, model, 600, seed) for seed in range(24)]
    spread = float(np.std([term.value for term in terms], ddof=1))
    assert 0.6 < spread / float(np.mean([term.standard_error for term in terms])) < 1.6
