"""Parallel fixed-point iterations against sequential sampling and laws written out."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from networks import TablePredictor, law_of, table
from reference.groups import covariance_of_groups, law_of_groups, probability, sequences
from scipy import stats

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import PrefixPredictorSignature, TokenPredictorSignature
from capcheck.probes.steps.parallel_solve import ParallelSolve
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.trace import Recorder
from capcheck.targets import GaussianMixture, Target, from_spec, from_table

TARGETS: dict[str, Target] = {
    "modes": from_spec("modes:tokens=5,modes=3,gap=3"),
    "correlated": from_spec("gaussian:ar1,tokens=5,rho=0.8"),
    "brackets": from_spec("brackets:6"),
}


def run(target: Target, k: int, n: int, block: int = 1) -> list[State]:
    procedure = Procedure.of(ParallelSolve(block=block), target)
    states = procedure.run(Budget(length=0, steps=k), n, CounterRandomness(4))
    tokens = procedure.coordinates.tokens
    return [dataclasses.replace(state, tokens=tokens(state.tokens)) for state in states]


def in_turn(target: Target, n: int, given: tuple[int, ...] = ()) -> torch.Tensor:
    """Token after token from the bidirectional predictor, which is shown the past only."""
    procedure = Procedure.of(ParallelSolve(), target, given=given)
    predict = TokenPredictorSignature().oracle(procedure.coordinates.target)
    state, place = procedure.start(n, CounterRandomness(4)), torch.arange(target.spec.tokens)
    for i in procedure.spec.free:
        past = (place < i).expand(n, -1)
        draws = predict(state.tokens, past).sample(CounterRandomness(4).stream("noise"))
        state = state.write(draws, (place == i).expand(n, -1))
    return procedure.coordinates.tokens(state.tokens)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("block", [1, 2, 3])
def test_the_first_tokens_are_the_autoregressive_ones(name: str, block: int) -> None:
    target = TARGETS[name]
    N, expected = target.spec.tokens, in_turn(TARGETS[name], 200)
    states = run(target, N, 200, block)
    for k, state in enumerate(states):
        miss = (state.tokens - expected).abs().double().reshape(200, N, -1).amax((0, 2))
        assert float(miss[: k * block].max() if k else 0) < 1e-9
        if k == 1:
            assert bool((miss[block:] > 0.1).any())  # what follows has not settled
    limit = Procedure.of(ParallelSolve(block=block), target).limit(200, CounterRandomness(4))
    assert limit is not None
    assert (limit - expected).abs().max() < 1e-9


def test_a_binary_chain_needs_one_iteration_more_than_its_longest_run_of_copies() -> None:
    # P(x_i differs from x_{i-1}) = e. With inverse CDFs, u < e gives 0, u > 1 - e gives 1, whatever
    # came before; in between x_i copies x_{i-1}.
    N, e, n = 8, 0.2, 300
    table = torch.zeros([2] * N, dtype=torch.float64)
    for x in itertools.product((0, 1), repeat=N):
        changes = sum(a != b for a, b in itertools.pairwise(x))
        table[x] = 0.5 * e**changes * (1 - e) ** (N - 1 - changes)
    states = run(from_table(table), N, n)
    tokens = torch.stack([state.tokens for state in states]).numpy()  # (N + 1, n, N)
    settled = (tokens == tokens[-1]).all(2)  # (N + 1, n)
    needed = settled.argmax(0)
    u = CounterRandomness(4).stream("noise").uniform((n, N, 1))[..., 0].numpy()
    copies = (u > e) & (u < 1 - e)
    copies[:, 0] = False  # the first token has nothing to copy
    runs = [
        max((len(list(g)) for copied, g in itertools.groupby(row) if copied), default=0)
        for row in copies.tolist()
    ]
    assert bool((needed <= 1 + np.array(runs)).all())
    assert bool((needed == 1 + np.array(runs)).any())  # with one iteration less it is wrong
    assert needed.mean() < N / 2


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_on_a_gaussian_chain_the_past_reaches_k_tokens_back(k: int) -> None:
    # From x = 0, x_i = sum_{j < min(k, i)} rho^j s_{i-j} u_{i-j}; s_1 = 1, s_i^2 = 1 - rho^2.
    rho, N = 0.8, 5
    A = np.zeros((N, N))
    for i, j in itertools.product(range(N), range(k)):
        if i >= j:
            A[i, i - j] = rho**j * (1 if i == j else (1 - rho**2) ** 0.5)
    procedure = Procedure.of(ParallelSolve(), TARGETS["correlated"])
    law = procedure.exact_law(Budget(length=0, steps=k))
    assert isinstance(law, GaussianLaw)
    assert law.covariance.numpy() == pytest.approx(A @ A.T, abs=1e-9)
    exact = rho ** np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    assert (np.abs(law.covariance.numpy() - exact).max() < 1e-9) == (k == N)


def density(target: Target, k: int, block: int, x: torch.Tensor) -> LogDensity | Unavailable:
    procedure = Procedure.of(ParallelSolve(block=block), target)
    return procedure.log_density(Budget(length=0, steps=k), x, CounterRandomness(0))


def test_after_one_iteration_every_token_is_drawn_given_the_start() -> None:
    p = np.array([0.3, 0.1, 0.05, 0.2, 0.02, 0.13, 0.15, 0.05]).reshape(2, 2, 2)
    start = (0, 0, 0)  # P(x_1 = 0) = 0.65, P(x_2 = 0) = 0.55, P(x_3 = 0) = 0.52
    states = list(itertools.product((0, 1), repeat=3))
    first, second = p.sum((1, 2)), p.sum(2)
    given = np.array(
        [
            first[a] * second[start[0], b] / first[start[0]] * p[0, 0, c] / second[0, 0]
            for a, b, c in states
        ]
    )
    target = from_table(torch.tensor(p))
    found = density(target, 1, 1, torch.tensor(states))
    assert isinstance(found, LogDensity)
    assert found.values.exp().numpy() == pytest.approx(given, abs=1e-12)
    n = 8000
    drawn = run(target, 1, n)[-1].tokens.numpy()
    counts = np.bincount(drawn @ [4, 2, 1], minlength=8)
    assert stats.chisquare(counts, n * given).pvalue > 1e-3
    assert stats.chisquare(counts, n * p.ravel()).pvalue < 1e-6


def test_the_density_is_the_targets_once_all_have_settled() -> None:
    target = TARGETS["modes"]
    x = target.sample(40, CounterRandomness(1))
    for k, block in ((5, 1), (9, 1), (2, 3)):
        found = density(target, k, block, x)
        assert isinstance(found, LogDensity)
        assert (found.values - target.log_prob(x)).abs().max() < 1e-9
    assert isinstance(density(target, 4, 1, x), Unavailable)
    once = density(target, 1, 3, x)
    assert isinstance(once, LogDensity)
    assert (once.values - target.log_prob(x)).abs().max() > 0.1


def test_it_sweeps() -> None:
    states = run(TARGETS["modes"], 4, 20)
    recorder = Recorder("parallel_solve", states[0])
    for state in states:
        recorder.record(state)
    assert recorder.writes.traces().highest == "sweep"


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("block", [1, 2])
def test_the_first_free_tokens_are_the_autoregressive_ones(name: str, block: int) -> None:
    target, given, n = TARGETS[name], (0, 2), 100
    procedure = Procedure.of(ParallelSolve(block=block), target, given=given)
    free, expected = list(procedure.spec.free), in_turn(target, n, given)
    states = list(procedure.run(Budget(length=0, steps=len(free)), n, CounterRandomness(4)))
    for k, state in enumerate(states):
        tokens = procedure.coordinates.tokens(state.tokens)
        miss = (tokens - expected).abs().double().reshape(n, target.spec.tokens, -1).amax((0, 2))
        assert float(miss[list(given)].max()) < 1e-12
        assert float(miss[free[: k * block]].max() if k else 0) < 1e-9
        if k == 1:
            assert float(miss[free[block:]].max()) > 0.1
    # Token 1 is drawn without sight of token 2, so the iterations do not end at the target.
    assert procedure.limit(n, CounterRandomness(4)) is None
    prefix = (0, 1)
    limit = Procedure.of(procedure.probe, target, given=prefix).limit(n, CounterRandomness(4))
    assert limit is not None
    assert (limit - in_turn(target, n, prefix)).abs().max() < 1e-9


@pytest.mark.parametrize("given", [(0,), (2,), (1, 3)])
@pytest.mark.parametrize("block", [1, 2])
def test_beside_given_tokens_a_wrong_network_makes_the_law_written_out(
    given: tuple[int, ...], block: int
) -> None:
    p, q = table(4, 2), table(4, 2, seed=1)
    plain = Procedure.of(ParallelSolve(block=block), from_table(torch.tensor(p)), given=given)
    procedure = plain.with_network(TablePredictor(q, causal=True))
    free = [i for i in range(4) if i not in given]
    settled = Budget(length=0, steps=len(free))
    expected = law_of_groups(p, q, given, [([i], range(i)) for i in free])
    assert np.abs(law_of(procedure, settled, "density") - expected).max() < 1e-12
    # One iteration: the tokens of other blocks, and later ones, still have their likeliest values.
    guess = [int(p.sum(tuple(j for j in range(4) if j != i)).argmax()) for i in range(4)]
    once = np.zeros_like(p)
    for x in sequences(p):
        once[x] = probability(p, x, given)
        for number, i in enumerate(free):
            held = [*given, *(j for m, j in enumerate(free) if m % block < number % block)]
            seen = [x[j] if j in held or j == i else guess[j] for j in range(4)]
            once[x] *= probability(q, seen, [i], range(i))
    found = law_of(procedure, Budget(length=0, steps=1), "density")
    assert np.abs(found - once).max() < 1e-12
    assert (np.abs(once - expected).max() > 1e-3) == (block == 1 or len(free) > 2)
    n = 8000
    drawn = procedure.sample(Budget(length=0, steps=1), n, CounterRandomness(2)).numpy()
    counts = np.bincount(drawn @ [8, 4, 2, 1], minlength=16)
    assert stats.chisquare(counts, n * once.ravel()).pvalue > 1e-3


def test_beside_given_numbers_the_law_is_that_of_regressions() -> None:
    C, Q = (r ** np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0))) for r in (0.8, -0.5))
    target, other = (
        GaussianMixture(torch.zeros(1, 5, 1).double(), torch.tensor(S)[None]) for S in (C, Q)
    )
    plain = Procedure.of(ParallelSolve(), target, given=(1, 4))
    procedure = plain.with_network(plain.probe.signature.oracle(other))
    law = procedure.exact_law(Budget(length=0, steps=3))
    assert isinstance(law, GaussianLaw)
    groups = [([i], list(range(i))) for i in (0, 2, 3)]
    expected = covariance_of_groups(C, Q, (1, 4), groups)
    assert np.allclose(law.covariance, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - C).max() > 1e-2


@pytest.mark.parametrize("name", TARGETS)
def test_a_causal_predictor_is_told_nothing_of_what_follows(name: str) -> None:
    target = TARGETS[name]
    predict = PrefixPredictorSignature().oracle(target)
    x = target.sample(40, CounterRandomness(0))
    changed = x.clone()
    changed[:, 2] = x[:, 2].roll(1, 0)
    known = torch.ones(x.shape[:2], dtype=torch.bool)
    before, after = predict(x, known).mean(), predict(changed, known).mean()
    assert (before - after)[:, :3].abs().max() < 1e-12
    assert (before - after)[:, 3:].abs().max() > 1e-3


def test_beside_a_token_that_it_cannot_see_it_has_no_limit() -> None:
    target = from_spec("modes:tokens=3,modes=2,gap=3")
    for given, known in (((1,), False), ((2,), False), ((0,), True)):
        limit = Procedure.of(ParallelSolve(), target, given=given).limit(5, CounterRandomness(0))
        assert (limit is not None) is known
    found = check("parallel_solve", target, given=[1], lengths=[2], steps=[2], samples=200)
    assert found.cells  # it is measured, by its draws and its density
