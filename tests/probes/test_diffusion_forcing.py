"""Diffusion Forcing: which schedules reach the target, with which network, and in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import levels as reference
from reference.diffusion import ddim_variance
from reference.gaussians import autoregressive

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.exact.replay import exact_law
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.procedures.probe import State
from capcheck.procedures.registry import build_probe
from capcheck.procedures.trace import Traces, classify
from capcheck.targets import ProductMixture, Target, from_spec

S = autoregressive(3, 0.8).covariances[0]
AR1 = from_spec("gaussian:ar1,tokens=3,rho=0.8")
DELAYS = {"full_sequence": lambda i: 0, "pyramid": lambda i: i, "autoregressive": None}


def covariance(target: Target, k: int, length: int | None = None, **options: Any) -> np.ndarray:
    """Exact covariance of what is sampled, completed."""
    probe = build_probe("diffusion_forcing", options)
    law = exact_law(
        probe,
        probe.signature.oracle(target),
        completion=TokenPredictorSignature().oracle(target),
        spec=target.spec,
        budget=Budget(length=target.spec.tokens if length is None else length, steps=k),
    )
    assert isinstance(law, GaussianLaw), law
    found: np.ndarray = law.covariance.numpy()
    return found


def carried(schedule: str, k: int, *, causal: bool = False) -> np.ndarray:
    """The same by explicit matrices."""
    delay = DELAYS[schedule] or (lambda i: k * i)
    rows = reference.pyramid(len(S), k, delay)
    return reference.carried(S, reference.passes(rows), causal=causal)


def states(target: Target, budget: Budget, n: int = 4, **options: Any) -> list[State]:
    probe = build_probe("diffusion_forcing", options)
    oracle = probe.signature.oracle(target)
    return list(probe.run(oracle, target.spec, budget, n, CounterRandomness(0)))


def traces(target: Target, k: int, **options: Any) -> Traces:
    _, *later = states(target, Budget(length=target.spec.tokens, steps=k), **options)
    return classify(torch.stack([state.written for state in later]))


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
    target = from_spec("gaussian:tokens=3,std=2")
    found = covariance(target, 5, schedule=schedule, path=path, causal=True)
    np.testing.assert_allclose(found, ddim_variance(4.0, 5, path) * np.eye(3), rtol=0, atol=1e-10)


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


def test_full_sequence_is_diffusion(three: ProductMixture) -> None:
    budget = Budget(length=3, steps=7)
    plain = build_probe("diffusion")
    oracle = plain.signature.oracle(three)
    *_, expected = plain.run(oracle, three.spec, budget, 4, CounterRandomness(0))
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
    probe = build_probe("diffusion_forcing", {"schedule": schedule})
    oracle, levels = probe.signature.oracle(three), []

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        levels.append(t)
        answer: torch.Tensor = oracle(x_t, t)
        return answer

    budget = Budget(length=2, steps=3)
    *_, last = probe.run(network, three.spec, budget, 5, CounterRandomness(0))
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
    assert found.failure == "missing argument"
    assert build_probe("diffusion_forcing").suspects() == ()
    assert (
        build_probe("diffusion_forcing", {"causal": True, "schedule": "autoregressive"}).suspects()
        == ()
    )


@pytest.mark.parametrize("options", [{}, {"schedule": "pyramid"}, {"schedule": "autoregressive"}])
def test_runs_approach_the_stated_limit_at_order_one(
    three: ProductMixture, options: dict[str, str]
) -> None:
    probe = build_probe("diffusion_forcing", options)
    oracle = probe.signature.oracle(three)
    limit = probe.limit(oracle, three.spec, 30, CounterRandomness(0))
    assert limit is not None
    ks, misses = [16, 32, 64], []
    for k in ks:
        last = states(three, Budget(length=3, steps=k), n=30, **options)[-1]
        misses.append(float((last.tokens - limit).square().mean().sqrt()))
    assert -np.polyfit(np.log(ks), np.log(misses), 1)[0] == pytest.approx(1, abs=0.2)


def test_a_causal_full_sequence_has_no_limit_that_is_the_target(three: ProductMixture) -> None:
    for schedule in ("full_sequence", "pyramid"):
        probe = build_probe("diffusion_forcing", {"causal": True, "schedule": schedule})
        oracle = probe.signature.oracle(three)
        assert probe.limit(oracle, three.spec, 4, CounterRandomness(0)) is None


def test_digits_use_both_axes_and_refinement_is_outside(digits: ProductMixture) -> None:
    found = check("diffusion_forcing", digits, samples=400, divergences=["wasserstein", "mmd"])
    assert (found.axes.length, found.axes.steps) == ("used", "used")
    assert found.loop_order == "steps_outer"
