"""Diffusion Forcing: which schedules reach the target, with which network, and in which order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from reference import levels as reference
from reference.diffusion import PATHS, ddim_variance
from reference.gaussians import autoregressive
from reference.traces import traces_of

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import Wrapper
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.procedures.trace import Traces
from capcheck.targets import GaussianMixture, ProductMixture, Target, from_spec

S = autoregressive(3, 0.8).covariances[0]
AR1 = from_spec("gaussian:ar1,tokens=3,rho=0.8")
DELAYS = {"full_sequence": lambda i: 0, "pyramid": lambda i: i, "autoregressive": None}


def covariance(
    target: Target,
    k: int,
    length: int | None = None,
    given: Sequence[int] = (),
    **options: Any,
) -> np.ndarray:
    """Exact covariance of what is sampled, completed."""
    procedure = Procedure.of(build_probe("diffusion_forcing", options), target, given=given)
    length = len(procedure.spec.free) if length is None else length
    law = procedure.exact_law(Budget(length=length, steps=k))
    assert isinstance(law, GaussianLaw), law
    found: np.ndarray = law.covariance.numpy()
    return found


def carried(schedule: str, k: int, *, causal: bool = False) -> np.ndarray:
    """The same by explicit matrices."""
    delay = DELAYS[schedule] or (lambda i: k * i)
    rows = reference.pyramid(len(S), k, delay)
    return reference.carried(S, reference.passes(rows), causal=causal)


def states(target: Target, budget: Budget, n: int = 4, **options: Any) -> list[State]:
    procedure = Procedure.of(build_probe("diffusion_forcing", options), target)
    return list(procedure.run(budget, n, CounterRandomness(0)))


def traces(target: Target, k: int, **options: Any) -> Traces:
    return traces_of(states(target, Budget(length=target.spec.tokens, steps=k), **options))


@pytest.mark.parametrize("schedule", DELAYS)
@pytest.mark.parametrize("causal", [False, True])
def test_the_sampled_law_is_that_of_explicit_matrices(schedule: str, causal: bool) -> None:
    found = covariance(AR1, 6, schedule=schedule, causal=causal)
    np.testing.assert_allclose(found, carried(schedule, 6, causal=causal), rtol=0, atol=1e-11)
    assert np.abs(found - carried(schedule, 7, causal=causal)).max() > 1e-3


@pytest.mark.parametrize("schedule", DELAYS)
@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_independent_tokens_have_the_closed_form_whatever_the_schedule(
    schedule: str, path: str
) -> None:
    variances = torch.tensor([0.25, 0.75, 2.0], dtype=torch.float64)  # of mean 1, the unit
    target = GaussianMixture(torch.zeros(1, 3, 1).double(), variances.diag()[None])
    found = covariance(target, 5, schedule=schedule, path=path, causal=True)
    expected = np.diag([ddim_variance(v, 5, path) for v in variances.tolist()])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("schedule", DELAYS)
def test_a_bidirectional_network_reaches_the_target_along_every_schedule(schedule: str) -> None:
    # Errors of order 1 in the covariance are of order 2 in KL.
    ks = [8, 16, 32]
    gaps = [reference.kl(S, covariance(AR1, k, schedule=schedule)) for k in ks]
    assert gaps == sorted(gaps, reverse=True)
    assert -np.polyfit(np.log(ks), np.log(gaps), 1)[0] == pytest.approx(2, abs=0.2)
    # Further than the code is run here, by matrices that it was found to equal.
    assert reference.kl(S, carried(schedule, 256)) < 3e-3 * gaps[0]


def test_a_causal_network_reaches_it_only_token_after_token() -> None:
    in_turn = covariance(AR1, 32, schedule="autoregressive", causal=True)
    seeing = covariance(AR1, 32, schedule="autoregressive")
    np.testing.assert_allclose(in_turn, seeing, rtol=0, atol=1e-12)
    assert reference.kl(S, in_turn) < 8e-3
    floor = reference.kl(S, carried("full_sequence", 512, causal=True))
    assert floor > 0.1
    for schedule in ("full_sequence", "pyramid"):
        gap = reference.kl(S, covariance(AR1, 32, schedule=schedule, causal=True))
        assert gap > 10 * reference.kl(S, covariance(AR1, 32, schedule=schedule))
        # A delay of one pass vanishes beside k: both go to one floor.
        limit = reference.kl(S, carried(schedule, 512, causal=True))
        assert limit == pytest.approx(floor, rel=0.05)


def test_the_floor_of_a_causal_network_on_the_card() -> None:
    # Twice KL at 2 k less KL at k is without its error of order 1 / k.
    chain = autoregressive(4, 0.9).covariances[0]
    for delay in (lambda i: 0, lambda i: i):
        few, many = (
            reference.kl(
                chain,
                reference.carried(
                    chain, reference.passes(reference.pyramid(4, k, delay)), causal=True
                ),
            )
            for k in (256, 512)
        )
        assert 2 * many - few == pytest.approx(0.58, abs=0.005)


def test_full_sequence_is_diffusion(three: ProductMixture) -> None:
    budget = Budget(length=3, steps=7)
    plain = Procedure.of(build_probe("diffusion"), three)
    *_, expected = plain.run(budget, 4, CounterRandomness(0))
    assert (states(three, budget)[-1].tokens - expected.tokens).abs().max() < 1e-12
    other = states(three, budget, schedule="pyramid")[-1].tokens
    assert (other - expected.tokens).abs().max() > 1e-3


def test_a_full_sequence_is_swept_and_slanted_ones_finish_first() -> None:
    target = from_spec("gaussian:tokens=8")
    assert traces(target, 4) == Traces(sweep=4)
    # floor(7 u) passes of the last token are left when the first is finished: two at u >= 2/7.
    assert traces(target, 4, schedule="pyramid", uncertainty=0.25) == Traces(sweep=4)
    for u in (0.5, 1, 2.5):
        assert traces(target, 4, schedule="pyramid", uncertainty=u) == Traces(finish_first=4)
    assert traces(target, 4, schedule="autoregressive") == Traces(finish_first=4)
    assert traces(target, 1, schedule="autoregressive") == Traces(in_turn=4)


@pytest.mark.parametrize("schedule", DELAYS)
def test_tokens_that_may_not_be_placed_are_never_shown(
    three: ProductMixture, schedule: str
) -> None:
    levels = []

    class Looking(Wrapper):
        def call(self, network: Any, *shown: torch.Tensor) -> Any:
            levels.append(shown[1])
            return network(*shown)

    procedure = Procedure.of(build_probe("diffusion_forcing", {"schedule": schedule}), three)
    budget = Budget(length=2, steps=3)
    *_, last = procedure.wrapped(Looking()).run(budget, 5, CounterRandomness(0))
    shown = torch.stack(levels)
    assert bool((shown[..., 2] == 1).all())
    assert bool((shown[..., :2] < 1).any())
    assert last.placed.tolist() == [[True, True, False]] * 5


def test_a_shorter_budget_completes_from_marginals() -> None:
    # With the first two tokens right, the third is conditionally right too: the chain is exact.
    gap = reference.kl(S, covariance(AR1, 64, length=2))
    assert gap < 2e-3
    # With none, all are drawn apart: total correlation -1/2 ln |S| = -ln(1 - 0.64).
    assert reference.kl(S, covariance(AR1, 3, length=0)) == pytest.approx(-np.log(0.36), abs=1e-9)


def test_what_a_causal_network_misses_are_later_tokens() -> None:
    found = check(
        "diffusion_forcing",
        from_spec("gaussian:ar1,tokens=4,rho=0.9"),
        options={"causal": True},
        lengths=[4],
        steps=[32],
        samples=200,
        divergences=["kl"],
    )
    assert found.found.failure == "missing argument"
    assert build_probe("diffusion_forcing").suspects() == ()
    assert (
        build_probe("diffusion_forcing", {"causal": True, "schedule": "autoregressive"}).suspects()
        == ()
    )


@pytest.mark.parametrize("options", [{}, {"schedule": "pyramid"}, {"schedule": "autoregressive"}])
def test_runs_approach_the_stated_limit_at_order_one(
    three: ProductMixture, options: dict[str, str]
) -> None:
    for given in ((), (1,)):
        procedure = Procedure.of(build_probe("diffusion_forcing", options), three, given=given)
        limit = procedure.limit(30, CounterRandomness(0))
        assert limit is not None
        ks, misses = [16, 32, 64], []
        for k in ks:
            budget = Budget(length=3 - len(given), steps=k)
            last = procedure.sample(budget, 30, CounterRandomness(0))
            misses.append(float((last - limit).square().mean().sqrt()))
        assert -np.polyfit(np.log(ks), np.log(misses), 1)[0] == pytest.approx(1, abs=0.25)


def test_neither_a_causal_full_sequence_nor_fresh_noise_has_a_limit(three: ProductMixture) -> None:
    for options in (
        {"causal": True},
        {"causal": True, "schedule": "pyramid"},
        {"eta": 0.5},
    ):
        procedure = Procedure.of(build_probe("diffusion_forcing", options), three)
        assert procedure.limit(4, CounterRandomness(0)) is None


@pytest.mark.parametrize("schedule", DELAYS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("given", [(0,), (2,)])
def test_beside_given_tokens_the_schedule_is_that_of_the_others(
    schedule: str, causal: bool, given: tuple[int, ...]
) -> None:
    delay = DELAYS[schedule] or (lambda i: 4 * i)
    rows = reference.pyramid(2, 4, delay)
    steps = list(reference.beside(3, given, reference.passes(rows)))
    start = reference.start_beside(S, given)
    found = covariance(AR1, 4, given=given, schedule=schedule, causal=causal)
    expected = reference.carried(S, steps, causal=causal, start=start)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    # The twin; a causal network sees a given token to the right as little as a drawn one.
    other = reference.carried(S, steps, causal=not causal, start=start)
    blind = [(b, a, [j for j in shown if j not in given]) for b, a, shown in steps]
    unseen = reference.carried(S, blind, causal=causal, start=start)
    if given == (2,):
        assert np.abs(found - other).max() > 1e-2
        assert (np.abs(found - unseen).max() < 1e-12) == causal
    else:
        assert np.abs(found - unseen).max() > 1e-2


@pytest.mark.parametrize("schedule", DELAYS)
def test_a_pass_with_fresh_noise_is_an_ancestral_step_of_the_tokens_that_move(
    schedule: str,
) -> None:
    # Of independent tokens, the posterior of three jointly normal numbers, token by token.
    v, k, (a, s) = 1.0, 4, PATHS["cosine"]
    found = covariance(from_spec("gaussian:tokens=3"), k, schedule=schedule, eta=1)
    C = 1.0
    for t, u in itertools.pairwise(np.linspace(1, 0, k + 1).tolist()):
        r = a(t) / a(u)
        gain = r * s(u) ** 2 / s(t) ** 2
        A = gain + (a(u) - gain * a(t)) * a(t) * v / (a(t) ** 2 * v + s(t) ** 2)
        C = A**2 * C + s(u) ** 2 - gain * r * s(u) ** 2
    np.testing.assert_allclose(found, C * np.eye(3), rtol=0, atol=1e-10)
    assert abs(C - ddim_variance(1.0, k, "cosine")) > 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_full_sequence_with_fresh_noise_is_diffusion_with_it(
    three: ProductMixture, eta: float
) -> None:
    budget = Budget(length=3, steps=7)
    plain = Procedure.of(build_probe("diffusion", {"eta": eta}), three)
    *_, expected = plain.run(budget, 4, CounterRandomness(0))
    assert (states(three, budget, eta=eta)[-1].tokens - expected.tokens).abs().max() < 1e-12
    assert (states(three, budget)[-1].tokens - expected.tokens).abs().max() < 1e-12 or eta > 0


def test_digits_use_both_axes_and_refinement_is_outside(digits: ProductMixture) -> None:
    found = check("diffusion_forcing", digits, samples=400, divergences=["wasserstein", "mmd"])
    assert (found.axes.length, found.axes.steps) == ("used", "used")
    assert found.found.loop_order == "steps_outer"
