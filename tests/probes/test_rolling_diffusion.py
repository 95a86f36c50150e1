"""Rolling Diffusion: what its window forgets, against conditional variances and matrices."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from reference import levels as reference

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.exact.replay import exact_law
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.procedures.probe import State
from capcheck.procedures.registry import build_probe
from capcheck.procedures.trace import classify
from capcheck.targets import GaussianMixture, ProductMixture, Target, from_spec

S = reference.second_order(5)
CHAIN = GaussianMixture(torch.zeros(1, 5, 1).double(), torch.tensor(S)[None])


@functools.cache
def covariance(k: int, window: int, n_clean: int | None) -> np.ndarray:
    """Exact covariance of what is sampled on the chain of order 2."""
    probe = build_probe("rolling_diffusion", {"window": window, "n_clean": n_clean})
    law = exact_law(
        probe,
        probe.signature.oracle(CHAIN),
        completion=TokenPredictorSignature().oracle(CHAIN),
        spec=CHAIN.spec,
        budget=Budget(length=5, steps=k),
    )
    assert isinstance(law, GaussianLaw), law
    found: np.ndarray = law.covariance.numpy()
    return found


def carried(k: int, window: int, n_clean: int) -> np.ndarray:
    """The same by explicit matrices."""
    return reference.carried(S, reference.rolling_passes(5, k, window, n_clean))


def states(target: Target, length: int, k: int, **options: Any) -> list[State]:
    probe = build_probe("rolling_diffusion", options)
    oracle = probe.signature.oracle(target)
    budget = Budget(length=length, steps=k)
    return list(probe.run(oracle, target.spec, budget, 30, CounterRandomness(0)))


@pytest.mark.parametrize("window", [1, 2, 4, 7])
@pytest.mark.parametrize("n_clean", [0, 1, 3])
def test_the_sampled_law_is_that_of_explicit_matrices(window: int, n_clean: int) -> None:
    found = covariance(3, window, n_clean)
    np.testing.assert_allclose(found, carried(3, window, n_clean), rtol=0, atol=1e-11)
    assert np.abs(found - carried(4, window, n_clean)).max() > 1e-4


@pytest.mark.parametrize("n_clean", [0, 1])
def test_a_window_of_one_costs_the_information_that_it_forgets(n_clean: int) -> None:
    cost = reference.cost_of_window(S, n_clean)
    # At n_clean = 0 that is the total correlation: sum_i 1/2 ln S_ii - 1/2 ln |S|.
    if n_clean == 0:
        total = 0.5 * np.log(np.diag(S)).sum() - 0.5 * np.linalg.slogdet(S)[1]
        assert cost == pytest.approx(total, abs=1e-12)
    excess = [reference.kl(S, carried(k, 1, n_clean)) - cost for k in (64, 128)]
    assert abs(excess[1]) < abs(excess[0]) / 3
    assert reference.kl(S, covariance(32, 1, n_clean)) == pytest.approx(cost, abs=0.02)
    assert cost > 0.15


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_context_of_the_chains_order_is_enough(window: int) -> None:
    ks = [16, 32]
    laws = [covariance(k, window, 2) for k in ks]
    gaps = [reference.kl(S, law) for law in laws]
    assert -np.polyfit(np.log(ks), np.log(gaps), 1)[0] == pytest.approx(2, abs=0.3)
    np.testing.assert_allclose(covariance(16, window, None), laws[0], rtol=0, atol=1e-11)


def test_noisy_tokens_of_the_window_carry_some_of_what_is_forgotten() -> None:
    # One clean token where the chain's order is 2: the floor stays, and falls with the window.
    floors = [reference.kl(S, carried(128, window, 1)) for window in (1, 2, 3, 4)]
    enough = [reference.kl(S, carried(128, window, 2)) for window in (1, 2, 3, 4)]
    assert floors == sorted(floors, reverse=True)
    assert floors[0] == pytest.approx(reference.cost_of_window(S, 1), rel=0.02)
    assert all(a > 5 * b for a, b in zip(floors, enough, strict=True))


@pytest.mark.parametrize(("window", "n_clean"), [(1, 1), (2, 0), (2, 1), (4, 1)])
def test_tokens_within_the_reach_of_the_context_have_their_exact_law(
    window: int, n_clean: int
) -> None:
    # The window and its context are a part of a sequence, whose law the flow keeps. So n_clean + 1
    # neighbours are right as k grows, and those further apart are not. Twice the law at 2 k less
    # the law at k is without their error of order 1 / k.
    limit = 2 * carried(128, window, n_clean) - carried(64, window, n_clean)
    lag = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    assert np.abs(limit - S)[lag <= n_clean].max() < 1e-3
    assert np.abs(limit - S)[lag > n_clean].max() > 1e-2


def test_what_lies_before_the_context_is_not_shown(three: ProductMixture) -> None:
    target = from_spec("gaussian:tokens=7")
    probe = build_probe("rolling_diffusion", {"window": 2, "n_clean": 1})
    oracle, levels = probe.signature.oracle(target), []

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        levels.append(t[0].tolist())
        answer: torch.Tensor = oracle(x_t, t)
        return answer

    budget = Budget(length=6, steps=2)
    *_, last = probe.run(network, target.spec, budget, 3, CounterRandomness(0))
    # Two passes for each front; levels (w + t) / 2 of two tokens, one clean token before them.
    expected = [[1.0] * 7, [0.5, *[1.0] * 6]]
    for front in range(1, 6):
        for t in (1.0, 0.5):
            row = [1.0] * 7
            row[front - 1] = 0.0
            row[front] = t / 2
            if front < 5:
                row[front + 1] = (1 + t) / 2
            expected.append(row)
    assert levels == expected
    assert last.placed.tolist() == [[True] * 6 + [False]] * 3


def test_the_window_emits_a_token_every_k_passes() -> None:
    _, *later = states(from_spec("gaussian:tokens=8"), 8, 4)
    written = torch.stack([state.written for state in later])
    assert len(later) == 8 * 4
    assert [int(written[:, 0, i].nonzero().max()) for i in range(8)] == [
        4 * i + 3 for i in range(8)
    ]
    assert classify(written).finish_first == 30


def test_its_floor_is_that_of_a_short_context() -> None:
    found = check(
        "rolling_diffusion",
        CHAIN,
        options={"window": 1, "n_clean": 1},
        lengths=[5],
        steps=[16],
        samples=200,
        divergences=["kl"],
    )
    assert found.failure == "limited emission"
    assert build_probe("rolling_diffusion", {"n_clean": None}).suspects() == ()


def test_runs_that_forget_nothing_approach_the_stated_limit_at_order_one(
    three: ProductMixture,
) -> None:
    options = {"window": 2, "n_clean": 2}
    probe = build_probe("rolling_diffusion", options)
    oracle = probe.signature.oracle(three)
    limit = probe.limit(oracle, three.spec, 30, CounterRandomness(0))
    assert limit is not None
    ks, misses = [16, 32, 64], []
    for k in ks:
        last = states(three, 3, k, **options)[-1]
        misses.append(float((last.tokens - limit).square().mean().sqrt()))
    assert -np.polyfit(np.log(ks), np.log(misses), 1)[0] == pytest.approx(1, abs=0.25)
    forgetting = build_probe("rolling_diffusion", {"window": 2, "n_clean": 1})
    assert forgetting.limit(oracle, three.spec, 4, CounterRandomness(0)) is None


def test_digits_use_both_axes_and_the_length_is_outside(digits: ProductMixture) -> None:
    found = check("rolling_diffusion", digits, samples=400, divergences=["wasserstein", "mmd"])
    assert (found.axes.length, found.axes.steps) == ("used", "used")
    assert found.loop_order == "length_outer"
