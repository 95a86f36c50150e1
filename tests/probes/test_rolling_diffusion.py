"""Rolling Diffusion: what its window forgets, against conditional variances and matrices."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from reference import levels as reference
from reference.traces import traces_of

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import Wrapper
from capcheck.probes.length_outer.rolling_diffusion import RollingDiffusion
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, ProductMixture, Target, from_spec

S = reference.second_order(5)
S = S / np.diag(S).mean()  # in its own unit, as coordinates make it
CHAIN = GaussianMixture(torch.zeros(1, 5, 1).double(), torch.tensor(S)[None])


@functools.cache
def covariance(k: int, window: int, n_clean: int | None, given: tuple[int, ...] = ()) -> np.ndarray:
    """Exact covariance of what is sampled on the chain of order 2, in its own unit."""
    procedure = Procedure.of(RollingDiffusion(window=window, n_clean=n_clean), CHAIN, given=given)
    law = procedure.exact_law(Budget(length=5 - len(given), steps=k))
    assert isinstance(law, GaussianLaw), law
    found: np.ndarray = law.covariance.numpy()
    return found


def carried(k: int, window: int, n_clean: int) -> np.ndarray:
    """The same by explicit matrices."""
    return reference.carried(S, reference.rolling_passes(5, k, window, n_clean))


def states(target: Target, length: int, k: int, **options: Any) -> list[State]:
    procedure = Procedure.of(build_probe("rolling_diffusion", options), target)
    return list(procedure.run(Budget(length=length, steps=k), 30, CounterRandomness(0)))


class Looking(Wrapper):
    """Notes the levels that the network is shown."""

    def __init__(self) -> None:
        self.levels: list[list[float]] = []

    def call(self, network: Any, *shown: torch.Tensor) -> Any:
        self.levels.append(shown[1][0].tolist())
        return network(*shown)


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


def test_the_floors_on_the_card() -> None:
    # Twice KL at 2 k less KL at k is without its error of order 1 / k.
    chain = reference.second_order(6)
    chain = chain / np.diag(chain).mean()

    def floor(window: int) -> float:
        few, many = (
            reference.kl(chain, reference.carried(chain, reference.rolling_passes(6, k, window, 1)))
            for k in (128, 256)
        )
        return 2 * many - few

    assert reference.cost_of_window(chain, 1) == pytest.approx(0.271, abs=5e-4)
    assert floor(2) == pytest.approx(0.044, abs=5e-4)
    assert floor(3) == pytest.approx(0.012, abs=5e-4)
    assert floor(4) == pytest.approx(0.0044, abs=2e-4)


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


def test_what_lies_before_the_context_is_not_shown() -> None:
    target = from_spec("gaussian:tokens=7")
    looking = Looking()
    procedure = Procedure.of(RollingDiffusion(window=2, n_clean=1), target).wrapped(looking)
    *_, last = procedure.run(Budget(length=6, steps=2), 3, CounterRandomness(0))
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
    assert looking.levels == expected
    assert last.placed.tolist() == [[True] * 6 + [False]] * 3


def test_given_tokens_do_not_lift_the_limits_of_window_and_context() -> None:
    # Tokens 0, 3 and 6 of 8 are given, 1, 2, 4, 5 and 7 drawn in windows of 2 after 1 clean place.
    looking = Looking()
    procedure = Procedure.of(
        RollingDiffusion(window=2, n_clean=1), from_spec("gaussian:tokens=8"), given=(0, 3, 6)
    ).wrapped(looking)
    *_, last = procedure.run(Budget(length=5, steps=1), 3, CounterRandomness(0))
    assert looking.levels == [
        [0, 1, 1, 1, 1, 1, 1, 1],  # tokens 1 and 2 from noise; 3 and 6 are beyond the window
        [1, 0, 0.5, 0, 1, 1, 1, 1],  # tokens 2 and 4, with 3 in between; 0 is forgotten
        [1, 1, 1, 0, 0.5, 1, 1, 1],  # tokens 4 and 5, after the clean 3
        [1, 1, 1, 1, 0, 0.5, 0, 1],  # tokens 5 and 7, with 6 in between
        [1, 1, 1, 1, 1, 1, 0, 0.5],  # token 7 after the clean 6
    ]
    assert bool(last.placed.all())


@pytest.mark.parametrize("n_clean", [0, 1, 3])
def test_beside_given_tokens_the_sampled_law_is_that_of_explicit_matrices(n_clean: int) -> None:
    # Tokens 0 and 1 are given; windows of 2 over tokens 2, 3 and 4, filled first.
    k, given = 3, (0, 1)
    steps = []
    for before, after, shown in reference.rolling_passes(3, k, 2, 9):
        clean = [i for i in range(3) if before[i] == 0]
        front = 2 + len(clean)
        seen = [i for i in [*given, *(2 + j for j in shown)] if i >= front - n_clean]
        seen = [i for i in seen if i <= front + 1]
        steps.append(((0, 0, *before), (0, 0, *after), seen))
    start = reference.start_beside(S, given)
    expected = reference.carried(S, steps, start=start)  # type: ignore[arg-type]
    found = covariance(k, 2, n_clean, given)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    lifted = [(b, a, sorted({*given, *seen})) for b, a, seen in steps]
    other = reference.carried(S, lifted, start=start)  # type: ignore[arg-type]
    assert (np.abs(found - other).max() > 1e-3) == (n_clean < 3)


def test_forgotten_given_tokens_leave_a_floor() -> None:
    # A Markov chain of order 2 from two given tokens: a context of 2 is enough, one of 1 is not.
    floors = [reference.kl(S, covariance(64, 1, n, (0, 1))) for n in (0, 1, 2)]
    assert floors[2] < 2e-3
    assert floors[1] > 20 * floors[2]
    # A window of one token costs sum_i I(x_i; x_<i-n | x_i-n..i-1) over the drawn ones.
    for n in (0, 1):
        ratios = [
            reference.conditional_variance(S, i, range(max(0, i - n), i))
            / reference.conditional_variance(S, i, range(i))
            for i in (2, 3, 4)
        ]
        assert floors[n] == pytest.approx(0.5 * np.log(ratios).sum(), abs=0.01)


def test_a_limit_needs_every_given_token_in_sight(three: ProductMixture) -> None:
    def limit(window: int, n_clean: int | None, *given: int) -> torch.Tensor | None:
        probe = RollingDiffusion(window=window, n_clean=n_clean)
        return Procedure.of(probe, three, given=given).limit(4, CounterRandomness(0))

    assert limit(1, None, 0) is not None
    assert limit(1, None, 2) is None  # beyond a window of one token until the end
    assert limit(3, None, 2) is None  # the window ends with the last token that it holds
    assert limit(2, None, 1) is not None  # between the two tokens of a window
    assert limit(2, 0, 0) is None  # forgotten


def test_the_window_emits_a_token_every_k_passes() -> None:
    made = states(from_spec("gaussian:tokens=8"), 8, 4)
    _, *later = made
    written = torch.stack([state.written for state in later])
    assert len(later) == 8 * 4
    assert [int(written[:, 0, i].nonzero().max()) for i in range(8)] == [
        4 * i + 3 for i in range(8)
    ]
    assert traces_of(made).finish_first == 30


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
    assert found.found.failure == "limited emission"
    assert build_probe("rolling_diffusion", {"n_clean": None}).suspects() == ()


def test_runs_that_forget_nothing_approach_the_stated_limit_at_order_one(
    three: ProductMixture,
) -> None:
    procedure = Procedure.of(RollingDiffusion(window=2, n_clean=2), three)
    limit = procedure.limit(30, CounterRandomness(0))
    assert limit is not None
    ks, misses = [16, 32, 64], []
    for k in ks:
        last = procedure.sample(Budget(length=3, steps=k), 30, CounterRandomness(0))
        misses.append(float((last - limit).square().mean().sqrt()))
    assert -np.polyfit(np.log(ks), np.log(misses), 1)[0] == pytest.approx(1, abs=0.25)
    forgetting = Procedure.of(RollingDiffusion(window=2, n_clean=1), three)
    assert forgetting.limit(4, CounterRandomness(0)) is None


def test_digits_use_both_axes_and_the_length_is_outside(digits: ProductMixture) -> None:
    found = check("rolling_diffusion", digits, samples=400, divergences=["wasserstein", "mmd"])
    assert (found.axes.length, found.axes.steps) == ("used", "used")
    assert found.found.loop_order == "length_outer"
