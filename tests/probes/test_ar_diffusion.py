"""AR-Diffusion: where its published schedule stops short, and what a sequential one makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from reference import levels as reference
from reference.diffusion import ddim_variance
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
from capcheck.targets import ProductMixture, Target, from_spec

S = autoregressive(4, 0.9).covariances[0]
AR1 = from_spec("gaussian:ar1,tokens=4,rho=0.9")


def covariance(target: Target, k: int, given: Sequence[int] = (), **options: Any) -> np.ndarray:
    """Exact covariance of what is sampled."""
    procedure = Procedure.of(build_probe("ar_diffusion", options), target, given=given)
    law = procedure.exact_law(Budget(length=len(procedure.spec.free), steps=k))
    assert isinstance(law, GaussianLaw), law
    found: np.ndarray = law.covariance.numpy()
    return found


def states(target: Target, length: int, k: int, **options: Any) -> list[State]:
    procedure = Procedure.of(build_probe("ar_diffusion", options), target)
    return list(procedure.run(Budget(length=length, steps=k), 4, CounterRandomness(0)))


def published_limit(S: np.ndarray, path: str) -> np.ndarray:
    """Covariance as T grows: N - 1 passes from the exact law at levels n / 2N.

    Before token 0 is clean, jumps go to 0, and that part becomes exact. From then on anchor m puts
    token n at (n - m) / (2N - m), for m = 0..N-1, however many steps there are.
    """
    N = len(S)
    rows = [tuple(Fraction(max(n - m, 0), 2 * N - m) for n in range(N)) for m in range(N)]
    start = reference.noisy(S, rows[0], path)
    return reference.carried(S, reference.passes(rows), path, start=start)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_the_published_schedule_samples_the_law_of_explicit_matrices(path: str, k: int) -> None:
    found = covariance(AR1, k, path=path)
    steps = reference.passes(reference.anchors(4, k))
    np.testing.assert_allclose(found, reference.carried(S, steps, path), rtol=0, atol=1e-11)
    later = reference.passes(reference.anchors(4, k + 1))
    assert np.abs(found - reference.carried(S, later, path)).max() > 1e-3


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_the_published_schedule_does_not_converge(path: str) -> None:
    limit = published_limit(S, path)
    # Of order 1/T, and that by halves: twice the steps, half the distance from the limit.
    misses = [np.abs(covariance(AR1, k, path=path) - limit).max() for k in (32, 64, 128)]
    assert misses[0] / misses[1] == pytest.approx(2, rel=0.3)
    assert misses[1] / misses[2] == pytest.approx(2, rel=0.3)
    floor = reference.kl(S, limit)
    assert floor == pytest.approx({"cosine": 0.157, "linear": 0.0769}[path], rel=0.02)


def test_its_floor_per_token_falls_as_sequences_grow() -> None:
    # N - 1 passes for the second half of the noise: more tokens, more passes.
    floors = {}
    for N in (2, 4, 8, 16, 32):
        chain = autoregressive(N, 0.9).covariances[0]
        floors[N] = reference.kl(chain, published_limit(chain, "cosine")) / N
    values = list(floors.values())
    assert values == pytest.approx([0.065, 0.040, 0.013, 0.0038, 0.0010], rel=0.03)
    for N, floor in floors.items():  # the card: half of that on the linear path
        chain = autoregressive(N, 0.9).covariances[0]
        linear = reference.kl(chain, published_limit(chain, "linear")) / N
        assert linear == pytest.approx(floor / 2, rel=0.06)
    assert values == sorted(values, reverse=True)
    assert floors[2] > 0.06
    assert floors[8] > 0.01 > floors[16]  # nats per token; 0.01 is the default tolerance
    # The twin: independent tokens do not escape it either; only one token does.
    one = reference.kl(np.eye(4), published_limit(np.eye(4), "cosine"))
    assert one > 1e-3
    assert reference.kl(np.eye(1), published_limit(np.eye(1), "cosine")) == pytest.approx(0)


def test_the_sequential_schedule_converges() -> None:
    ks = [8, 16, 32]
    found = [covariance(AR1, k, schedule="sequential") for k in ks]
    gaps = [reference.kl(S, C) for C in found]
    assert -np.polyfit(np.log(ks), np.log(gaps), 1)[0] == pytest.approx(2, abs=0.2)
    rows = reference.pyramid(4, 8, lambda i: 8 * i)
    expected = reference.carried(S, reference.passes(rows))
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-11)
    assert gaps[-1] < 0.1 * reference.kl(S, covariance(AR1, 32))


def test_one_token_is_plain_ddim() -> None:
    target = from_spec("gaussian:tokens=1,std=2")  # of variance 1 in its own unit
    for k in (1, 3, 16):
        assert covariance(target, k)[0, 0] == pytest.approx(
            4 * ddim_variance(1.0, k, "cosine"), abs=1e-10
        )


@pytest.mark.parametrize("schedule", ["published", "sequential"])
@pytest.mark.parametrize("given", [(0,), (2,), (0, 3)])
def test_beside_given_tokens_the_schedule_is_that_of_the_others(
    schedule: str, given: tuple[int, ...]
) -> None:
    k, free = 4, 4 - len(given)
    rows = {
        "published": reference.anchors(free, k),
        "sequential": reference.pyramid(free, k, lambda i: k * i),
    }
    start = reference.start_beside(S, given)
    laws = {
        name: reference.carried(
            S, reference.beside(4, given, reference.passes(reference.moving(row))), start=start
        )
        for name, row in rows.items()
    }
    found = covariance(AR1, k, given, schedule=schedule)
    np.testing.assert_allclose(found, laws[schedule], rtol=0, atol=1e-10)
    others = [law for name, law in laws.items() if name != schedule]
    assert min(np.abs(found - law).max() for law in others) > 1e-3


def test_left_tokens_finish_first() -> None:
    target = from_spec("gaussian:tokens=8")
    made = states(target, 8, 16)
    _, *later = made
    written = torch.stack([state.written for state in later])
    assert traces_of(made).finish_first == 4
    last = [int(written[:, 0, i].nonzero().max()) for i in range(8)]
    assert last == sorted(set(last))
    assert len(later) == 16 + 8 - 1
    in_turn = states(target, 8, 16, schedule="sequential")
    assert len(in_turn) == 1 + 16 * 8
    assert traces_of(in_turn).finish_first == 4


@pytest.mark.parametrize("schedule", ["published", "sequential"])
def test_tokens_that_may_not_be_placed_are_never_shown(
    three: ProductMixture, schedule: str
) -> None:
    levels = []

    class Looking(Wrapper):
        def call(self, network: Any, *shown: torch.Tensor) -> Any:
            levels.append(shown[1])
            return network(*shown)

    procedure = Procedure.of(build_probe("ar_diffusion", {"schedule": schedule}), three)
    budget = Budget(length=2, steps=5)
    *_, last = procedure.wrapped(Looking()).run(budget, 3, CounterRandomness(0))
    shown = torch.stack(levels)
    assert bool((shown[..., 2] == 1).all())
    assert bool((shown[..., 1] < 1).any())
    assert last.placed.tolist() == [[True, True, False]] * 3


def test_its_floor_is_that_of_steps_whose_landing_the_network_is_not_told() -> None:
    found = check("ar_diffusion", AR1, lengths=[4], steps=[32], samples=200, divergences=["kl"])
    assert found.found.failure == "missing argument"
    assert build_probe("ar_diffusion", {"schedule": "sequential"}).suspects() == ()


def test_only_the_sequential_schedule_has_a_limit(three: ProductMixture) -> None:
    published, sequential = (
        Procedure.of(build_probe("ar_diffusion", {"schedule": name}), three, given=(1,))
        for name in ("published", "sequential")
    )
    assert published.limit(8, CounterRandomness(0)) is None
    limit = sequential.limit(4, CounterRandomness(0))
    assert limit is not None
    misses = []
    for k in (64, 256):
        last = sequential.sample(Budget(length=2, steps=k), 4, CounterRandomness(0))
        assert torch.equal(last[:, 1], limit[:, 1])
        misses.append(float((last - limit).abs().max()))
    assert misses[0] / misses[1] == pytest.approx(4, rel=0.3)  # of order 1


def test_digits_use_both_axes_and_the_length_is_outside(digits: ProductMixture) -> None:
    found = check("ar_diffusion", digits, samples=400, divergences=["wasserstein", "mmd"])
    assert (found.axes.length, found.axes.steps) == ("used", "used")
    assert found.found.loop_order == "length_outer"
