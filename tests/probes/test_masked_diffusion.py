"""Discrete diffusion against chains over masked sequences that are written out."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from networks import TablePredictor, law_of, law_of_run, table
from numpy.typing import NDArray
from reference.groups import law_of_groups
from reference.sequences import Sequences, Symbols, weighed
from scipy import stats

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.exact.enumeration import Route
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.probes.steps import masked_diffusion as module
from capcheck.probes.steps.masked_diffusion import MaskedDiffusion
from capcheck.procedures.gumbel import revealed_by_gumbel
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.trace import Recorder
from capcheck.targets import from_spec, from_table

Array = NDArray[np.float64]
MASK = -1


def at_steps(p: Array, k: int, route: Route, probe: MaskedDiffusion) -> Array:
    """The law after k steps with the oracle."""
    procedure = Procedure.of(probe, from_table(torch.tensor(p)))
    return law_of(procedure, Budget(length=0, steps=k), route)


def chain(p: Array, k: int, remask: bool, q: Array | None = None, given: Symbols = ()) -> Array:
    """The law after k steps, as a chain over the (V + 1)^N masked sequences.

    From level t to s: masked tokens are drawn from their marginals of q (p, if there is none) given
    the others; a token is unmasked at s with chance 1 - s whatever it was, or, without remasking,
    if it was unmasked at t, and with chance (t - s) / t if not. Given tokens follow p, and stay.
    """
    N, V = p.ndim, p.shape[0]
    q = p if q is None else q
    law: Sequences = weighed(lambda x: float(q[x]), N, V)
    others = tuple(i for i in range(N) if i not in given)
    reached: dict[Symbols, float] = {}
    for values, value in np.ndenumerate(p.sum(axis=others)):
        at = dict(zip(given, values, strict=True))
        reached[tuple(at.get(i, MASK) for i in range(N))] = float(value)
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
                    stays = 1.0 if i in given else stays
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
    assert np.abs(at_steps(p, k, "branching", probe) - expected).max() < 1e-9
    if not remask:
        assert np.abs(at_steps(p, k, "density", probe) - expected).max() < 1e-12
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
    assert np.abs(at_steps(p, k, "density", probe) - p).max() < 1e-12
    assert np.abs(at_steps(p, k, "branching", probe) - p).max() < 1e-9
    forgetful = Procedure.of(probe, from_table(torch.tensor(p))).with_network(TablePredictor(p))
    assert np.abs(law_of(forgetful, Budget(length=0, steps=k), "branching") - p).max() < 1e-9
    together = at_steps(p, k, "density", MaskedDiffusion(remask=False))
    assert np.abs(together - p).max() > 1e-3


def test_absorbing_diffusion_is_of_order_one() -> None:
    p, probe, steps = table(3, 3, seed=2), MaskedDiffusion(remask=False), [32, 64, 128]
    distances = [np.abs(at_steps(p, k, "density", probe) - p).sum() / 2 for k in steps]
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
    x = Procedure.of(probe, target).sample(Budget(length=0, steps=12), n, CounterRandomness(0))
    counts = np.zeros_like(p)
    np.add.at(counts, tuple(x.numpy().T), 1)
    assert stats.chisquare(counts.ravel(), n * law[True].ravel()).pvalue > 1e-3
    assert stats.chisquare(counts.ravel(), n * law[False].ravel()).pvalue < 1e-6


def test_where_sets_are_many_the_mean_over_orders_bounds_kl_from_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = from_table(torch.tensor(table(4, 2, seed=4)))
    x, budget = target.sample(2000, CounterRandomness(0)), Budget(length=0, steps=4)

    def log_q(probe: MaskedDiffusion) -> LogDensity:
        found = Procedure.of(probe, target).log_density(budget, x, CounterRandomness(1))
        assert isinstance(found, LogDensity)
        return found

    exact = log_q(MaskedDiffusion(remask=False))
    monkeypatch.setattr(module, "MAX_TOKENS", 3)
    bound = log_q(MaskedDiffusion(remask=False))
    assert (exact.bound, bound.bound) == (False, True)
    assert bound.values.mean() < exact.values.mean()
    one = log_q(MaskedDiffusion(reveal="one"))  # every order is exact, so the bound is too
    assert (one.values - target.log_prob(x)).abs().max() < 1e-9
    wide = from_spec("copy:tokens=4,symbols=20")  # 21^4 partly masked sequences
    remasked, x = Procedure.of(MaskedDiffusion(), wide), torch.zeros(1, 4, dtype=torch.int64)
    assert isinstance(remasked.log_density(budget, x, CounterRandomness(1)), Unavailable)


def recorded(probe: MaskedDiffusion, given: Symbols = ()) -> tuple[list[State], Recorder]:
    procedure = Procedure.of(probe, from_spec("copy:tokens=4,symbols=3"), given=given)
    rng = CounterRandomness(0)
    recorder = Recorder("masked_diffusion", procedure.start(30, rng))
    states = list(procedure.run(Budget(length=0, steps=6), 30, CounterRandomness(0)))
    for state in states:
        recorder.record(state)
    return states, recorder


def test_with_remasking_every_step_writes_the_whole_sequence() -> None:
    states, recorder = recorded(MaskedDiffusion())
    assert len(states) == 7
    assert recorder.writes.traces().highest == "sweep"
    changed = [(b.tokens != a.tokens).sum() for a, b in itertools.pairwise(states[1:])]
    assert all(int(moved) > 0 for moved in changed[:3])


@pytest.mark.parametrize("given", [(), (2,)])
@pytest.mark.parametrize(
    "probe", [MaskedDiffusion(remask=False), MaskedDiffusion(reveal="one")], ids=str
)
def test_without_remasking_a_token_is_written_once(probe: MaskedDiffusion, given: Symbols) -> None:
    states, recorder = recorded(probe, given)
    writes = torch.stack([state.written for state in states]).sum(0)  # (n, N)
    assert writes.tolist() == [[int(i not in given) for i in range(4)]] * 30
    assert recorder.writes.traces().highest == "in_turn"
    assert bool(states[-1].placed.all())


OPTIONS = [
    MaskedDiffusion(),
    MaskedDiffusion(remask=False),
    MaskedDiffusion(reveal="one"),
    MaskedDiffusion(draw="gumbel"),
    MaskedDiffusion(remask=False, draw="gumbel"),
]


@pytest.mark.parametrize("probe", OPTIONS, ids=str)
@pytest.mark.parametrize("given", [(), (1,)])
def test_of_known_tokens_a_network_may_say_anything(probe: MaskedDiffusion, given: Symbols) -> None:
    # `TablePredictor` says symbol 0 of every token that it is shown; the oracle repeats it.
    p = table(3, 2)
    exact = Procedure.of(probe, from_table(torch.tensor(p)), given=given)
    forgetful = exact.with_network(TablePredictor(p))
    told = Procedure.of(probe, from_table(torch.tensor(p)), given=given).with_network(
        TokenPredictorSignature().oracle(from_table(torch.tensor(table(3, 2, seed=1))))
    )
    budget = Budget(length=0, steps=3)
    draws = [each.sample(budget, 200, CounterRandomness(0)) for each in (exact, forgetful, told)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    x = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    of_exact, of_forgetful = (
        each.log_density(budget, x, CounterRandomness(0)) for each in (exact, forgetful)
    )
    if isinstance(of_exact, LogDensity):
        assert isinstance(of_forgetful, LogDensity)
        assert (of_exact.values - of_forgetful.values).abs().max() < 1e-12


@pytest.mark.parametrize("remask", [True, False])
@pytest.mark.parametrize("given", [(0,), (1, 2)])
def test_beside_given_tokens_a_wrong_network_makes_the_law_of_the_chain(
    remask: bool, given: Symbols
) -> None:
    p, q = table(3, 2), table(3, 2, seed=1)
    plain = Procedure.of(MaskedDiffusion(remask=remask), from_table(torch.tensor(p)), given=given)
    procedure, budget = plain.with_network(TablePredictor(q)), Budget(length=0, steps=2)
    expected = chain(p, 2, remask, q, given)
    assert expected.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(law_of_run(procedure, budget, p) - expected).max() < 1e-9
    if not remask:
        assert np.abs(law_of(procedure, budget, "density") - expected).max() < 1e-12
    assert np.abs(expected - chain(p, 2, remask, p, given)).max() > 1e-3


def test_one_by_one_beside_given_tokens_is_the_mixture_over_orders() -> None:
    p, q, given = table(4, 2), table(4, 2, seed=1), (2,)
    plain = Procedure.of(MaskedDiffusion(reveal="one"), from_table(torch.tensor(p)), given=given)
    procedure, budget = plain.with_network(TablePredictor(q)), Budget(length=0, steps=1)
    orders = list(itertools.permutations((0, 1, 3)))
    expected = np.mean(
        [
            law_of_groups(p, q, given, [([i], [2, *order[:j]]) for j, i in enumerate(order)])
            for order in orders
        ],
        0,
    )
    assert np.abs(law_of_run(procedure, budget, p) - expected).max() < 1e-12
    assert np.abs(law_of(procedure, budget, "density") - expected).max() < 1e-12
    assert np.abs(expected - p).max() > 1e-3


class Elsewhere(CounterRandomness):
    """Draws on a device without storage, where an operation with a CPU tensor raises."""

    def uniform(self, shape: tuple[int, ...]) -> torch.Tensor:
        return super().uniform(shape).to("meta")


def test_weights_of_a_draw_meet_its_numbers_on_their_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Beyond MAX_TOKENS the steps are drawn with weights that are made on the CPU.
    monkeypatch.setattr(module, "MAX_TOKENS", 1)
    when: list[torch.Tensor] = []

    def along(network: object, x: torch.Tensor, drawn: torch.Tensor, count: int) -> torch.Tensor:
        when.append(drawn)
        return x.double()

    monkeypatch.setattr(module, "_along", along)
    procedure = Procedure.of(MaskedDiffusion(remask=False), from_spec("copy:tokens=4,symbols=3"))
    x = procedure.target.sample(5, CounterRandomness(0))
    spec = dataclasses.replace(procedure.spec, mean=procedure.spec.mean.to("meta"))
    procedure.probe.log_density(
        procedure.network, procedure.completion, spec, Budget(length=0, steps=3), x, Elsewhere(0)
    )
    assert when[0].device.type == "meta"


def test_gumbel_noise_of_few_bits_hardly_draws_what_is_rare() -> None:
    e, n = 2.0**-10, 400_000  # bfloat16 has 8 bits, so that its noise is at most 8 ln 2
    log_p = torch.tensor([1 - e, e]).double().log().expand(n, 1, 2)
    drawn = {}
    for dtype in (torch.bfloat16, torch.float64):
        spec = from_table(torch.tensor([0.5, 0.5])).spec
        spec = dataclasses.replace(spec, mean=spec.mean.to(dtype))
        chance = torch.ones(n, 1).double()
        values, revealed = revealed_by_gumbel(log_p, chance, spec, CounterRandomness(0))
        assert bool(revealed.all())
        drawn[dtype] = int(values.sum())
    assert abs(drawn[torch.float64] - n * e) < 4 * math.sqrt(n * e)
    assert drawn[torch.bfloat16] < n * e / 2
