"""Discrete diffusion against chains over masked sequences that are written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.sequences import Sequences, Symbols, weighed
from scipy import stats

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.exact.enumeration import Route, sampled_law
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.probes.steps import masked_diffusion as module
from capcheck.probes.steps.masked_diffusion import MaskedDiffusion
from capcheck.procedures.trace import Recorder
from capcheck.targets import from_spec, from_table
from capcheck.targets.categorical.sequence_law import SequenceLaw

Array = NDArray[np.float64]
MASK = -1


def table(N: int, V: int, seed: int = 0) -> Array:
    weights = np.random.default_rng(seed).exponential(size=(V,) * N) ** 2
    p: Array = weights / weights.sum()
    return p


def law_of(p: Array, k: int, route: Route, probe: MaskedDiffusion) -> Array:
    target = from_table(torch.tensor(p))
    oracle = TokenPredictorSignature().oracle(target)
    budget = Budget(length=0, steps=k)
    law = sampled_law(
        probe, oracle, completion=oracle, spec=target.spec, budget=budget, routes=(route,)
    )
    assert isinstance(law, SequenceLaw), law
    found: Array = law.probabilities.numpy().reshape(p.shape)
    return found


def chain(p: Array, k: int, remask: bool) -> Array:
    """The law after k steps, as a chain over the (V + 1)^N masked sequences.

    From level t to s: masked tokens are drawn from their marginals given the others; a token is
    unmasked at s with chance 1 - s whatever it was, or, without remasking, if it was unmasked at t,
    and with chance (t - s) / t if not.
    """
    N, V = p.ndim, p.shape[0]
    law: Sequences = weighed(lambda x: float(p[x]), N, V)
    reached: dict[Symbols, float] = {(MASK,) * N: 1.0}
    for j in range(k):
        t, s = 1 - j / k, 1 - (j + 1) / k
        after: dict[Symbols, float] = {}
        for z, chance in reached.items():
            known = [i for i in range(N) if z[i] != MASK]
            laws = [law.given(np.array(z), known, i) for i in range(N)]
            for y in itertools.product([MASK, *range(V)], repeat=N):
                step = 1.0
                for i in range(N):
                    stays = 1 - s if remask else 1.0 if i in known else (t - s) / t
                    if y[i] == MASK:
                        step *= 1 - stays
                    elif i in known:
                        step *= stays * (y[i] == z[i])
                    else:
                        step *= stays * laws[i][y[i]]
                if step > 0:
                    after[y] = after.get(y, 0) + chance * step
        reached = after
    found = np.zeros_like(p)
    for x, chance in reached.items():
        if MASK in x:
            assert chance < 1e-12
        else:
            found[x] = chance
    return found


@pytest.mark.parametrize(("N", "V", "k"), [(2, 2, 1), (2, 2, 2), (2, 3, 2), (3, 2, 2), (2, 2, 3)])
@pytest.mark.parametrize("remask", [True, False])
def test_the_sampled_law_is_that_of_the_chain(N: int, V: int, k: int, remask: bool) -> None:
    p = table(N, V)
    expected = chain(p, k, remask)
    assert expected.sum() == pytest.approx(1, abs=1e-12)
    probe = MaskedDiffusion(remask=remask)
    assert np.abs(law_of(p, k, "branching", probe) - expected).max() < 1e-9
    if not remask:
        assert np.abs(law_of(p, k, "density", probe) - expected).max() < 1e-12
    assert np.abs(chain(p, k + 1, remask) - expected).max() > 1e-5


@pytest.mark.parametrize("remask", [True, False])
def test_one_step_is_the_product_of_the_marginals(remask: bool) -> None:
    options = {"remask": remask}
    target = from_spec("copy:tokens=4,symbols=3")
    result = check("masked_diffusion", target, options=options, steps=[1], samples=200)
    assert result.cells[-1].estimates["kl"].value == pytest.approx(3 * math.log(3), abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_one_token_at_a_time_is_exact(k: int) -> None:
    p, probe = table(3, 2, seed=1), MaskedDiffusion(reveal="one")
    assert np.abs(law_of(p, k, "density", probe) - p).max() < 1e-12
    assert np.abs(law_of(p, k, "branching", probe) - p).max() < 1e-9
    together = law_of(p, k, "density", MaskedDiffusion(remask=False))
    assert np.abs(together - p).max() > 1e-3


def test_absorbing_diffusion_is_of_order_one() -> None:
    p, probe, steps = table(3, 3, seed=2), MaskedDiffusion(remask=False), [32, 64, 128]
    distances = [np.abs(law_of(p, k, "density", probe) - p).sum() / 2 for k in steps]
    slope = -np.polyfit(np.log(steps), np.log(distances), 1)[0]
    assert slope == pytest.approx(1, abs=0.2)
    assert distances[0] > 1e-3


def test_with_exact_marginals_remasking_is_slower_than_absorbing_diffusion() -> None:
    p = np.full((2, 2, 2), 0.02)  # three copies of a bit, with errors
    p[0, 0, 0], p[1, 1, 1] = 0.5, 0.38

    def left(k: int, remask: bool) -> float:
        return float(np.abs(chain(p, k, remask) - p).sum() / 2)

    assert left(24, True) < 0.7 * left(12, True)  # it converges,
    assert left(24, True) > 1.4 * left(24, False)  # and not as fast
    # The same by running it: how often every sequence comes.
    probe, n, law = MaskedDiffusion(), 20_000, {r: chain(p, 12, r) for r in (True, False)}
    target = from_table(torch.tensor(p))
    network, budget = probe.signature.oracle(target), Budget(length=0, steps=12)
    *_, last = probe.run(network, target.spec, budget, n, CounterRandomness(0))
    counts = np.zeros_like(p)
    np.add.at(counts, tuple(last.tokens.numpy().T), 1)
    assert stats.chisquare(counts.ravel(), n * law[True].ravel()).pvalue > 1e-3
    assert stats.chisquare(counts.ravel(), n * law[False].ravel()).pvalue < 1e-6


def test_where_sets_are_many_the_mean_over_orders_bounds_kl_from_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = from_table(torch.tensor(table(4, 2, seed=4)))
    oracle = TokenPredictorSignature().oracle(target)
    x = target.sample(2000, CounterRandomness(0))

    def log_q(probe: MaskedDiffusion) -> LogDensity:
        budget = Budget(length=0, steps=4)
        found = probe.log_density(oracle, oracle, target.spec, budget, x, CounterRandomness(1))
        assert isinstance(found, LogDensity)
        return found

    exact = log_q(MaskedDiffusion(remask=False))
    monkeypatch.setattr(module, "MOST_TOKENS", 3)
    bound = log_q(MaskedDiffusion(remask=False))
    assert (exact.bound, bound.bound) == (False, True)
    assert bound.values.mean() < exact.values.mean()
    one = log_q(MaskedDiffusion(reveal="one"))  # every order is exact, so the bound is too
    assert (one.values - target.log_prob(x)).abs().max() < 1e-9
    remasked = MaskedDiffusion().log_density(
        oracle, oracle, target.spec, Budget(length=0, steps=4), x, CounterRandomness(1)
    )
    assert isinstance(remasked, Unavailable)


def test_every_step_writes_the_whole_sequence() -> None:
    probe, target = MaskedDiffusion(), from_spec("copy:tokens=4,symbols=3")
    recorder = Recorder("masked_diffusion")
    network, budget = probe.signature.oracle(target), Budget(length=0, steps=6)
    states = list(probe.run(network, target.spec, budget, 30, CounterRandomness(0)))
    for state in states:
        recorder.record(state)
    assert len(states) == 7
    assert recorder.traces(6).highest == "sweep"
    assert recorder.traces(1).highest == "once"
    changed = [(b.tokens != a.tokens).sum() for a, b in itertools.pairwise(states[1:])]
    assert all(int(moved) > 0 for moved in changed[:3])


def test_the_cure_is_one_token_at_a_time() -> None:
    (suspect,) = MaskedDiffusion().suspects()
    assert suspect.probe == MaskedDiffusion(reveal="one")
    assert suspect.probe.suspects() == ()
