"""Uniform diffusion against D3PM by matrices, and against what is known of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from networks import law_of, law_of_run, table
from numpy.typing import NDArray
from reference import uniform_diffusion as reference
from reference.devices import TwoDevices
from scipy import stats
from torch import Tensor

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.laws import Categorical, TokenLaw, log_table
from capcheck.networks.signatures import Calls, NoisyPredictorSignature, Wrapper
from capcheck.probes.steps import uniform_diffusion as module
from capcheck.probes.steps.uniform_diffusion import UniformDiffusion
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.trace import Recorder
from capcheck.targets import MarkovChain, from_spec, from_table
from capcheck.testing import check_family

Array = NDArray[np.float64]
CASES = [
    # N, V, steps, corrector, given
    (2, 2, 1, 0, ()),
    (2, 3, 3, 0, ()),
    (3, 2, 4, 0, ()),
    (3, 2, 3, 2, ()),
    (4, 2, 2, 1, ()),
    (4, 3, 2, 0, ()),
    (3, 3, 3, 0, (1,)),
    (4, 2, 3, 1, (0, 3)),
]


def at_steps(p: Array, k: int, corrector: int = 0) -> Array:
    """The law after k steps with the oracle, by the law of all sequences."""
    procedure = Procedure.of(UniformDiffusion(corrector=corrector), from_table(torch.tensor(p)))
    return law_of(procedure, Budget(length=0, steps=k), "density")


def distance(p: Array, q: Array) -> float:
    return float(np.abs(p - q).sum() / 2)


def kl(p: Array, q: Array) -> float:
    return float((p * np.log(p / q)).sum())


@pytest.mark.parametrize(("N", "V", "k", "corrector", "given"), CASES)
def test_the_law_is_that_of_d3pm(
    N: int, V: int, k: int, corrector: int, given: tuple[int, ...]
) -> None:
    p, q = table(N, V), table(N, V, seed=1)
    probe, budget = UniformDiffusion(corrector=corrector), Budget(length=0, steps=k)
    exact = Procedure.of(probe, from_table(torch.tensor(p)), given=given)
    how: dict[str, Any] = {"corrector": corrector, "given": given}
    *_, expected = reference.laws_after_every_step(reference.predictor(p, k, given), p, k, **how)
    assert expected.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(law_of(exact, budget, "density") - expected).max() < 1e-10
    # The same with a network that knows another table.
    wrong = exact.with_network(NoisyPredictorSignature().oracle(from_table(torch.tensor(q))))
    *_, other = reference.laws_after_every_step(reference.predictor(q, k, given), p, k, **how)
    assert np.abs(law_of(wrong, budget, "density") - other).max() < 1e-10
    assert np.abs(expected - other).max() > 1e-3


@pytest.mark.parametrize(
    ("N", "V", "k", "corrector", "given"),
    [(2, 2, 2, 0, ()), (2, 3, 3, 0, ()), (3, 2, 3, 0, ()), (2, 2, 2, 1, ()), (3, 2, 2, 0, (1,))],
)
def test_what_runs_has_that_law(
    N: int, V: int, k: int, corrector: int, given: tuple[int, ...]
) -> None:
    p, budget = table(N, V), Budget(length=0, steps=k)
    probe = UniformDiffusion(corrector=corrector)
    procedure = Procedure.of(probe, from_table(torch.tensor(p)), given=given)
    found = law_of_run(procedure, budget, p)
    predict = reference.predictor(p, k, given)
    *_, expected = reference.laws_after_every_step(predict, p, k, corrector=corrector, given=given)
    assert np.abs(found - expected).max() < 1e-9
    *_, more = reference.laws_after_every_step(
        reference.predictor(p, k + 1, given), p, k + 1, corrector=corrector, given=given
    )
    assert np.abs(found - more).max() > 1e-6


@pytest.mark.parametrize(("j", "k"), [(4, 4), (2, 4), (1, 4), (1, 1)])
def test_a_step_is_the_published_one(j: int, k: int) -> None:
    p = table(3, 3)
    predict = reference.predictor(p, k)
    for z in [(0, 1, 2), (2, 2, 2), (1, 0, 0)]:
        ours = reference.step_laws(predict, z, j, k)
        assert np.abs(ours - reference.published_step(p, z, j, k)).max() < 1e-12
        mixed = reference.step_laws(lambda z, j: 0.9 * predict(z, j) + 0.1 / 3, z, j, k)
        assert np.abs(ours - mixed).max() > 1e-4


@pytest.mark.parametrize("corrector", [0, 2])
def test_one_step_is_the_product_of_the_marginals(corrector: int) -> None:
    target, probe = from_spec("copy:tokens=4,symbols=3"), UniformDiffusion(corrector=corrector)
    laws = [law_of(Procedure.of(probe, target), Budget(length=0, steps=k)) for k in (1, 2)]
    assert laws[0].ravel() == pytest.approx([1 / 81] * 81, abs=1e-12)
    copies = [float(sum(q[v, v, v, v] for v in range(3))) for q in laws]
    assert copies[1] > 2 * copies[0] == pytest.approx(2 / 27, abs=1e-12)


@pytest.mark.parametrize("corrector", [0, 1])
def test_it_is_of_order_one(corrector: int) -> None:
    p, steps = table(3, 2, seed=2), [16, 32, 64]
    laws = [at_steps(p, k, corrector) for k in steps]
    slopes = [
        -np.polyfit(np.log(steps), np.log([how(p, q) for q in laws]), 1)[0]
        for how in (distance, kl)
    ]
    assert slopes == pytest.approx([1, 2], abs=0.2)
    assert distance(p, laws[0]) > 1e-3


@pytest.mark.parametrize("corrector", [0, 3])
def test_a_single_token_is_exact(corrector: int) -> None:
    p = table(1, 3)
    assert np.abs(at_steps(p, 4, corrector) - p).max() < 1e-12
    assert np.abs(at_steps(table(2, 3), 4, corrector) - table(2, 3)).max() > 1e-3


def test_the_corrector_leaves_the_law_in_the_limit_and_mends_a_wrong_one() -> None:
    # An iteration at level 1/2, on the noisy tokens of a law: the right one hardly moves.
    p, q = table(3, 2, seed=2), table(3, 2, seed=5)

    def spread(law: Array, Q: Array) -> Array:
        for i in range(3):
            law = np.moveaxis(np.tensordot(law, Q, axes=(i, 0)), -1, i)
        return law

    def iterated(law: Array, k: int) -> Array:
        predict, j = reference.predictor(p, k), k // 2 + 1
        law = spread(law, reference.noise_of_step(j, k, 2))
        return reference.moved(law, lambda z: reference.step_laws(predict, z, j, k), ())

    right, wrong = (spread(law, reference.noise_up_to(2, 4, 2)) for law in (p, q))
    moves = [distance(iterated(right, k), right) for k in (16, 32)]
    assert moves[1] < 0.3 * moves[0]  # of second order in 1 / k
    assert distance(iterated(wrong, 32), wrong) > 5 * moves[1]
    assert distance(iterated(wrong, 32), right) < distance(wrong, right)


def chi_square(x: Tensor, law: Array) -> float:
    counts = np.zeros_like(law)
    np.add.at(counts, tuple(x.numpy().T), 1)
    return float(stats.chisquare(counts.ravel(), len(x) * law.ravel()).pvalue)


@pytest.mark.parametrize("corrector", [0, 1])
def test_draws_follow_the_law(corrector: int) -> None:
    p, k, n = table(4, 2, seed=4), 3, 20_000
    procedure = Procedure.of(UniformDiffusion(corrector=corrector), from_table(torch.tensor(p)))
    x = procedure.sample(Budget(length=0, steps=k), n, CounterRandomness(0))
    assert chi_square(x, at_steps(p, k, corrector)) > 1e-3
    assert chi_square(x, at_steps(p, k + 1, corrector)) < 1e-6


def test_where_sequences_are_many_paths_of_noise_bound_kl_from_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = from_table(torch.tensor(table(3, 2, seed=2)))
    x = target.sample(2000, CounterRandomness(0))

    def log_q(k: int, corrector: int = 0) -> LogDensity:
        procedure = Procedure.of(UniformDiffusion(corrector=corrector), target)
        found = procedure.log_density(Budget(length=0, steps=k), x, CounterRandomness(1))
        assert isinstance(found, LogDensity)
        return found

    exact, corrected = {k: log_q(k) for k in (2, 32)}, log_q(2, corrector=1)
    monkeypatch.setattr(module, "has_few_sequences", lambda spec: False)
    for k, known in exact.items():
        bound = log_q(k)
        assert (known.bound, bound.bound) == (False, True)
        assert bound.above is not None
        low, high = bound.values - known.values, bound.above - known.values
        error = 4 * float(torch.maximum(low.std(), high.std())) / math.sqrt(len(x))
        assert low.mean() < error
        assert high.mean() > -error
        assert high.mean() - low.mean() < 0.05
    beside = log_q(2, corrector=1)
    assert beside.above is None  # its proposals are no proof
    assert beside.values.mean() < corrected.values.mean() < 0


def test_one_path_of_noise_is_a_bound_that_many_steps_tighten() -> None:
    target, gaps = from_table(torch.tensor(table(3, 2, seed=2))), []
    procedure = Procedure.of(UniformDiffusion(), target)
    probe, network, spec = procedure.probe, procedure.network, procedure.spec
    assert isinstance(probe, UniformDiffusion)
    x = target.sample(4000, CounterRandomness(0))
    for k in (2, 32):
        budget = Budget(length=0, steps=k)
        exact = probe._mass(network, spec, budget).log_prob(x)
        gap = exact - probe._along_noise(network, spec, budget, x, CounterRandomness(1))
        gaps.append(float(gap.mean()))
        assert gaps[-1] > 3 * float(gap.std()) / math.sqrt(len(x))
    assert gaps[1] < 0.5 * gaps[0]


@pytest.mark.parametrize(("corrector", "given"), [(0, ()), (1, ()), (1, (0,))])
def test_weights_of_paths_have_the_density_as_their_mean(
    corrector: int, given: tuple[int, ...]
) -> None:
    # The mean of q(path, x) / r(path | x) over many paths, within four standard errors.
    target, n = from_table(torch.tensor(table(3, 2))), 20_000
    procedure = Procedure.of(UniformDiffusion(corrector=corrector), target, given=given)
    probe, network, spec = procedure.probe, procedure.network, procedure.spec
    assert isinstance(probe, UniformDiffusion)
    x = torch.tensor([[0, 1, 1]])
    exact, other = (
        float(probe._mass(network, spec, Budget(length=0, steps=k)).log_prob(x).exp())
        for k in (3, 2)
    )
    budget = Budget(length=0, steps=3)
    rng = CounterRandomness(0)
    w = probe._along_noise(network, spec, budget, x.expand(n, -1), rng).exp()
    error = 4 * float(w.std()) / math.sqrt(n)
    assert abs(float(w.mean()) - exact) < error < 0.5 * abs(exact - other)


def test_one_token_after_the_other_is_exact() -> None:
    p, probe = table(3, 2, seed=1), UniformDiffusion(move="one")
    for given in [(), (1,)]:
        procedure = Procedure.of(probe, from_table(torch.tensor(p)), given=given)
        assert np.abs(law_of_run(procedure, Budget(length=0, steps=2), p) - p).max() < 1e-9
        x = torch.tensor(list(itertools.product((0, 1), repeat=3)))
        found = procedure.log_density(Budget(length=0, steps=2), x, CounterRandomness(0))
        assert isinstance(found, LogDensity)
        assert np.abs(found.values.exp().numpy() - p.ravel()).max() < 1e-12
    (suspect,) = UniformDiffusion(corrector=1).suspects()
    assert suspect.probe == UniformDiffusion(corrector=1, move="one")
    assert distance(p, at_steps(p, 2)) > 1e-3


class Answering(Wrapper):
    """Changes what a network says of some tokens."""

    def __init__(self, where: Callable[[Tensor], Tensor]) -> None:
        self._where = where

    def call(self, network: Callable[..., Any], *shown: Tensor) -> TokenLaw:
        log_p = log_table(network(*shown))
        return Categorical(torch.where(self._where(shown[1])[..., None], log_p.roll(1, -1), log_p))


@pytest.mark.parametrize("given", [(1,), (0, 2)])
@pytest.mark.parametrize(
    "probe", [UniformDiffusion(), UniformDiffusion(corrector=1), UniformDiffusion(move="one")]
)
def test_of_clean_tokens_a_network_may_say_anything(
    probe: UniformDiffusion, given: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = Procedure.of(probe, from_table(torch.tensor(table(3, 2))), given=given)
    forgetful = exact.wrapped(Answering(lambda keep: keep == 1))
    wrong = exact.wrapped(Answering(lambda keep: keep < 1))
    budget = Budget(length=0, steps=3)
    draws = [each.sample(budget, 200, CounterRandomness(0)) for each in (exact, forgetful, wrong)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    x = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    for few in (True, False):
        monkeypatch.setattr(module, "has_few_sequences", lambda spec, few=few: few)
        found = [each.log_density(budget, x, CounterRandomness(0)) for each in (exact, forgetful)]
        values = [each.values for each in found if isinstance(each, LogDensity)]
        assert (values[0] - values[1]).abs().max() < 1e-12


@pytest.mark.parametrize(("corrector", "calls"), [(0, 6), (2, 16)])
def test_every_call_writes_the_whole_sequence(corrector: int, calls: int) -> None:
    probe, budget = UniformDiffusion(corrector=corrector), Budget(length=0, steps=6)
    procedure = Procedure.of(probe, from_spec("copy:tokens=4,symbols=3"), given=(2,))
    counted, rng = Calls(), CounterRandomness(0)
    recorder = Recorder("uniform_diffusion", procedure.start(30, rng))
    states = list(procedure.run(budget, 30, CounterRandomness(0), calls=counted))
    for state in states:
        recorder.record(state)
    assert (
        counted.sequential == len(states) - 1 == probe.iterations(procedure.spec, budget) == calls
    )
    assert recorder.writes.traces().highest == "sweep"
    assert all(int((b.tokens != a.tokens).sum()) for a, b in itertools.pairwise(states[1:3]))


@pytest.mark.parametrize("probe", [UniformDiffusion(corrector=1), UniformDiffusion(move="one")])
def test_its_options_conform(probe: UniformDiffusion) -> None:
    check_family(probe)


def test_long_sequences_are_bounded_and_one_token_at_a_time_is_the_cure() -> None:
    tables = torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    target = MarkovChain([t.double() for t in tables], tokens=24)
    found = check("uniform_diffusion", target, lengths=[24], steps=[2], samples=200)
    (cell,) = found.cells
    assert cell.estimates["kl"].value is not None
    (cause,) = found.found.causes
    assert (cause.failure, cause.removed) == ("wrong factorisation", True)
    assert cause.cell.estimates["kl"].value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("few", [True, False])
def test_no_tensor_is_made_on_the_wrong_device(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_few_sequences", lambda spec: few)
    for given in [(), (1,)]:
        target = from_spec("parity:3")
        procedure = Procedure.of(UniformDiffusion(corrector=1), target, given=given)
        x, rng = target.sample(4, CounterRandomness(0)), CounterRandomness(0)
        _ = procedure.oracle, procedure.completion
        with TwoDevices():
            procedure.sample(Budget(length=2, steps=3), 4, rng)
            procedure.log_density(Budget(length=1, steps=3), x, rng)
