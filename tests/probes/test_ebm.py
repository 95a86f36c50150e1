"""Markov chains on an energy against closed forms, quadrature and kernels written out."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.gaussians import autoregressive
from reference.levels import start_beside
from scipy import stats

from capcheck import Outcome, check
from capcheck.core.budget import Budget
from capcheck.core.errors import UnfitError
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.exact.enumeration import Route, enumerated_law
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import Calls, EnergySignature, Wrapper
from capcheck.probes.steps.ebm import EBM
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import ProductMixture, Target, from_spec, from_table
from capcheck.targets.categorical.markov_chain import MarkovChain
from capcheck.targets.categorical.sequence_law import SequenceLaw

Array = NDArray[np.float64]


def replayed(target: Target, k: int, given: Sequence[int] = (), **options: Any) -> GaussianLaw:
    procedure = Procedure.of(build_probe("ebm", options), target, given=given)
    law = procedure.exact_law(Budget(length=0, steps=k))
    assert isinstance(law, GaussianLaw)
    return law


def last(target: Target, k: int, n: int, **options: str | float) -> Array:
    procedure = Procedure.of(build_probe("ebm", options), target)
    drawn: Array = procedure.sample(Budget(length=0, steps=k), n, CounterRandomness(5))[
        :, 0, 0
    ].numpy()
    return drawn


@pytest.mark.parametrize(("v", "h"), [(1.0, 1.0), (4.0, 2.0), (0.25, 0.5)])
@pytest.mark.parametrize("noise", [None, 0.4])
def test_ula_goes_geometrically_to_a_wrong_variance(
    v: float, h: float, noise: float | None
) -> None:
    target = from_spec(f"gaussian:tokens=1,std={v**0.5}")
    options: dict[str, Any] = {"step_size": h} | ({} if noise is None else {"noise_scale": noise})
    temperature = 1.0 if noise is None else noise**2 / h
    limit = temperature * v / (1 - h / (4 * v))
    gaps = [float(replayed(target, k, **options).covariance) - limit for k in (1, 2, 3)]
    # The initial law is N(0, v).
    assert gaps == pytest.approx([(1 - h / (2 * v)) ** (2 * k) * (v - limit) for k in (1, 2, 3)])
    late = float(replayed(target, 60, **options).covariance)
    assert late == pytest.approx(limit, rel=1e-9)
    assert abs(late - v) > 0.1 * v


@pytest.mark.parametrize("given", [(), (1,), (0, 2)])
def test_ula_on_correlated_tokens_is_the_recursion_of_covariances(given: tuple[int, ...]) -> None:
    # Given tokens stay; the others start alone and feel the slope of the whole energy.
    h, S = 0.3, autoregressive(3, 0.6).covariances[0]
    law = replayed(from_spec("gaussian:ar1,tokens=3,rho=0.6"), 5, given, step_size=h)
    moves = np.diag([float(i not in given) for i in range(3)])
    C, A = start_beside(S, given), np.eye(3) - h / 2 * moves @ np.linalg.inv(S)
    for _ in range(5):
        C = A @ C @ A.T + h * moves
    assert law.covariance.numpy() == pytest.approx(C, abs=1e-9)
    assert abs(law.covariance.numpy() - S).max() > 0.03


def test_mala_stays_where_ula_moves_away() -> None:
    # From N(0, 1), the initial law and the target; h = 1 would move ULA to variance 4/3.
    target, n = from_spec("gaussian:tokens=1"), 8000
    mala = last(target, 12, n, sampler="mala", step_size=1.0)
    ula = last(target, 12, n, step_size=1.0)
    assert stats.kstest(mala, "norm").pvalue > 1e-3
    assert stats.kstest(ula, "norm").pvalue < 1e-6
    assert stats.kstest(ula, "norm", (0, (4 / 3) ** 0.5)).pvalue > 1e-3


def mixture_energy(x: Array) -> tuple[Array, Array]:
    """Energy and slope of 0.3 N(-1.5, 0.7^2) + 0.7 N(1.5, 0.7^2), up to nothing."""
    parts = [w * stats.norm.pdf(x, m, 0.7) for w, m in ((0.3, -1.5), (0.7, 1.5))]
    pulls = [(x - m) / 0.49 * part for part, m in zip(parts, (-1.5, 1.5), strict=True)]
    return -np.log(sum(parts)), sum(pulls) / sum(parts)


def test_mala_has_the_law_that_quadrature_of_its_kernel_gives() -> None:
    target = ProductMixture(
        torch.tensor([[[-1.5]], [[1.5]]], dtype=torch.float64),
        torch.tensor([[0.7]], dtype=torch.float64),
        torch.tensor([0.3, 0.7], dtype=torch.float64),
    )
    h, k = 1.2, 3
    x = np.linspace(-9, 9, 1201)
    energy, slope = mixture_energy(x)
    there = stats.norm.pdf(x[None], (x - h / 2 * slope)[:, None], h**0.5)  # q(x' | x), [x, x']
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratio = np.exp(energy[:, None] - energy[None]) * there.T / there
    accepted = there * np.minimum(1, np.nan_to_num(ratio, nan=0, posinf=1))
    mean, variance = 0.4 * 1.5, 0.49 + 1.5**2 - 0.6**2
    law = {True: stats.norm.pdf(x, mean, variance**0.5)}
    law[False] = law[True]
    for _, adjusted in itertools.product(range(k), (True, False)):
        q, dx = law[adjusted], x[1] - x[0]
        moved = accepted if adjusted else there
        stay = 1 - moved.sum(1) * dx if adjusted else 0
        law[adjusted] = (q @ moved) * dx + q * stay
    cdf = {a: np.cumsum(q) * (x[1] - x[0]) for a, q in law.items()}
    drawn = last(target, k, 8000, sampler="mala", step_size=h)
    assert stats.kstest(drawn, lambda v: np.interp(v, x, cdf[True])).pvalue > 1e-3
    assert stats.kstest(drawn, lambda v: np.interp(v, x, cdf[False])).pvalue < 1e-6
    # A long chain has no floor.
    p = np.exp(-energy)
    long = last(target, 60, 4000, sampler="mala", step_size=h)
    exact = np.cumsum(p) * (x[1] - x[0])
    assert stats.kstest(long, lambda v: np.interp(v, x, exact)).pvalue > 1e-3


def spectral_gap(m: float, h: float) -> float:
    """1 less the second eigenvalue of ULA's kernel on N(-m, 1) and N(m, 1), by quadrature."""
    x = np.linspace(-m - 7, m + 7, 301)
    parts = [stats.norm.pdf(x, mode) for mode in (-m, m)]
    slope = ((x + m) * parts[0] + (x - m) * parts[1]) / sum(parts)
    kernel = stats.norm.pdf(x[None], (x - h / 2 * slope)[:, None], h**0.5) * (x[1] - x[0])
    return float(1 - np.sort(np.abs(np.linalg.eigvals(kernel)))[-2])


def test_modes_far_apart_mix_in_exponential_time() -> None:
    # The energy's barrier is about m^2 / 2: the log of the gap falls faster than by m.
    gaps = np.log([spectral_gap(m, 0.5) for m in (2.0, 3.0, 4.0)])
    assert gaps[0] - gaps[1] > 1.5
    assert gaps[1] - gaps[2] > gaps[0] - gaps[1] + 0.5
    # The code: modes of 0.3 and 0.7, from a start that is symmetric about their mean.
    found = {}
    for m in (1.0, 4.0):
        means = torch.tensor([[[-m]], [[m]]], dtype=torch.float64)
        target = ProductMixture(means, torch.ones(1, 1).double(), torch.tensor([0.3, 0.7]).double())
        x = last(target, 40, 8000, step_size=0.5)
        exact = float(0.3 * stats.norm.cdf(m) + 0.7 * stats.norm.cdf(-m))
        found[m] = abs(float((x < 0).mean()) - exact)
    assert found[1.0] < 0.02
    assert found[4.0] > 0.02


def gibbs_by_hand(p: Array, sweeps: int, given: Sequence[int] = ()) -> Array:
    """The law after some sweeps from the product of the marginals, state by state.

    Given tokens are drawn together from the target, and stay.
    """
    states = list(itertools.product(*map(range, p.shape)))
    free = [i for i in range(p.ndim) if i not in given]
    marginal = [
        np.array([sum(p[x] for x in states if x[i] == v) for v in range(p.shape[i])])
        for i in range(p.ndim)
    ]
    of_given = p.sum(tuple(free), keepdims=True) if given else np.ones([1] * p.ndim)
    q = {
        x: float(
            of_given[tuple(v if i in given else 0 for i, v in enumerate(x))]
            * np.prod([marginal[i][x[i]] for i in free])
        )
        for x in states
    }
    for _, i in itertools.product(range(sweeps), free):
        after = dict.fromkeys(states, 0.0)
        for x, mass in q.items():
            options = [(*x[:i], v, *x[i + 1 :]) for v in range(p.shape[i])]
            weights = np.array([p[y] for y in options])
            weights = weights / weights.sum() if weights.sum() > 0 else marginal[i]
            for y, weight in zip(options, weights, strict=True):
                after[y] += mass * weight
        q = after
    return np.array([q[x] for x in states])


class Sizes(Wrapper):
    """Notes how many rows each call of a network has."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def call(self, network: Any, *shown: torch.Tensor) -> Any:
        self.found.append(len(shown[0]))
        return network(*shown)


@pytest.mark.parametrize(("numbers", "tiles"), [(1 << 21, [50]), (60, [20, 20, 10])])
def test_a_gibbs_sweep_waits_once_for_each_token(
    monkeypatch: pytest.MonkeyPatch, numbers: int, tiles: list[int]
) -> None:
    # 10 rows of 3 tokens: a tile of 60 tokens holds 2 of the 5 values.
    target, budget = from_spec("copy:tokens=3,symbols=5"), Budget(length=0, steps=2)
    whole = Procedure.of(EBM(), target).sample(budget, 10, CounterRandomness(0))
    monkeypatch.setattr("capcheck.probes.steps.ebm.NUMBERS", numbers)
    calls, sizes = Calls(), Sizes()
    procedure = Procedure.of(EBM(), target).wrapped(sizes)
    *_, state = procedure.run(budget, 10, CounterRandomness(0), calls=calls)
    assert sizes.found == tiles * (2 * 3)
    assert calls.sequential == 2 * 3  # not 2 * 3 * 5: energies of 5 values do not wait
    assert calls.tokens == 2 * 3 * 5 * 10 * 3
    assert torch.equal(state.tokens, whole)


def test_langevin_steps_wait_for_each_other() -> None:
    for sampler, count in (("ula", 4), ("mala", 5)):
        probe, calls = build_probe("ebm", {"sampler": sampler}), Calls()
        procedure, budget = (
            Procedure.of(probe, from_spec("gaussian:tokens=2")),
            Budget(length=0, steps=4),
        )
        assert len(list(procedure.run(budget, 3, CounterRandomness(0), calls=calls))) == 5
        assert calls.sequential == count


TABLE = np.array([0.3, 0.1, 0.05, 0.2, 0.02, 0.13, 0.15, 0.05]).reshape(2, 2, 2)
COPY = np.zeros((3, 3))
np.fill_diagonal(COPY, 1 / 3)  # most starts are impossible: every conditional of them is 0/0


@pytest.mark.parametrize(
    ("table", "sweeps", "route"),
    [
        (TABLE, 1, "branching"),
        (TABLE, 2, "branching"),
        (TABLE, 1, "density"),
        (TABLE, 7, "density"),
        (COPY, 1, "branching"),
        (COPY, 1, "density"),
    ],
)
def test_gibbs_has_the_law_of_its_kernel(table: Array, sweeps: int, route: Route) -> None:
    procedure = Procedure.of(EBM(), from_table(torch.tensor(table)))
    budget = Budget(length=0, steps=sweeps)
    law = enumerated_law(
        functools.partial(procedure.sample, budget),
        functools.partial(procedure.log_density, budget),
        procedure.spec,
        name="ebm",
        routes=(route,),
    )
    assert isinstance(law, SequenceLaw)
    found = law.probabilities.numpy()
    assert found == pytest.approx(gibbs_by_hand(table, sweeps), abs=1e-12)
    assert abs(found - gibbs_by_hand(table, sweeps - 1)).max() > 1e-6


@pytest.mark.parametrize(
    ("table", "sweeps", "given"),
    [(TABLE, 1, (0,)), (TABLE, 2, (1,)), (TABLE, 1, (0, 2)), (COPY, 1, (0,)), (COPY, 1, (1,))],
)
def test_gibbs_beside_given_tokens_is_its_kernel_on_the_others(
    table: Array, sweeps: int, given: tuple[int, ...]
) -> None:
    target = from_table(torch.tensor(table))
    procedure = Procedure.of(EBM(), target, given=given)
    budget, spec = Budget(length=0, steps=sweeps), procedure.spec
    expected = gibbs_by_hand(table, sweeps, given)
    density = functools.partial(procedure.log_density, budget)
    law = enumerated_law(
        functools.partial(procedure.sample, budget), density, spec, name="ebm", routes=("density",)
    )
    assert isinstance(law, SequenceLaw), law
    assert law.probabilities.numpy() == pytest.approx(expected, abs=1e-12)
    assert abs(expected - gibbs_by_hand(table, sweeps - 1, given)).max() > 1e-3
    # What is run, for each value of the given tokens in turn.
    mass, states = np.zeros(len(expected)), list(itertools.product(*map(range, table.shape)))
    for values in itertools.product(*(range(table.shape[i]) for i in given)):

        def sample(n: int, rng: Randomness, values: tuple[int, ...] = values) -> torch.Tensor:
            tokens = torch.zeros(n, spec.tokens, dtype=torch.int64)
            tokens[:, list(given)] = torch.tensor(values)
            start = State.blank(spec, n).giving(tokens, given)
            *_, state = procedure.probe.run(procedure.oracle, spec, budget, start, rng)
            return state.tokens

        beside = enumerated_law(sample, density, spec, name="ebm", routes=("branching",))
        assert isinstance(beside, SequenceLaw), beside
        chosen = [all(x[i] == v for i, v in zip(given, values, strict=True)) for x in states]
        mass += sum(table[x] for x, one in zip(states, chosen, strict=True) if one) * (
            beside.probabilities.numpy()
        )
    assert mass == pytest.approx(expected, abs=1e-12)


def test_gibbs_has_no_floor() -> None:
    distances = [abs(gibbs_by_hand(TABLE, k) - TABLE.ravel()).sum() for k in (1, 4, 16)]
    assert distances[0] > 1e-3
    assert distances[-1] < 1e-6


def test_the_energys_gradient_is_that_of_its_values(three: ProductMixture) -> None:
    energy = EnergySignature().oracle(three)
    x = three.sample(5, CounterRandomness(1)).requires_grad_()
    assert torch.autograd.gradcheck(energy, (x,), eps=1e-6, atol=1e-6)
    at_twice = lambda y: energy(y) + energy(y).detach()  # noqa: E731 - half of a gradient is missing
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(at_twice, (x,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("gaussian", {"sampler": "gibbs"}, r"ebm\.sampler must be"),
        ("parity:3", {"sampler": "mala"}, r"ebm\.sampler must be"),
        ("parity:3", {"noise_scale": 0.1}, "are for numbers"),
    ],
)
def test_a_chain_must_suit_the_tokens(spec: str, options: dict[str, Any], words: str) -> None:
    procedure = Procedure.of(build_probe("ebm", options), from_spec(spec))
    with pytest.raises(UnfitError, match=words):
        procedure.sample(Budget(length=0, steps=1), 2, CounterRandomness(0))


def test_mala_with_noise_of_its_own_scale_leaves_the_target_in_place() -> None:
    # Metropolis' rule knows the proposal's scale: half of sqrt(h), or twice that.
    target, n = from_spec("gaussian:tokens=1"), 8000
    for scale in (0.5, 2.0):
        mala = last(target, 12, n, sampler="mala", step_size=1.0, noise_scale=scale)
        assert stats.kstest(mala, "norm").pvalue > 1e-3
        ula = last(target, 12, n, step_size=1.0, noise_scale=scale)
        assert stats.kstest(ula, "norm").pvalue < 1e-6


def test_mala_beside_a_given_token_has_the_conditional_law() -> None:
    target, n = from_spec("gaussian:ar1,tokens=2,rho=0.9"), 6000
    procedure = Procedure.of(EBM(sampler="mala", step_size=0.2), target, given=(0,))
    x = procedure.sample(Budget(length=0, steps=60), n, CounterRandomness(5))[..., 0].numpy()
    whitened = (x[:, 1] - 0.9 * x[:, 0]) / (1 - 0.81) ** 0.5
    assert stats.kstest(whitened, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(whitened, x[:, 0])[0, 1]) < 4 / n**0.5
    few = procedure.sample(Budget(length=0, steps=1), n, CounterRandomness(5))[..., 0].numpy()
    assert stats.kstest((few[:, 1] - 0.9 * few[:, 0]) / (1 - 0.81) ** 0.5, "norm").pvalue < 1e-6


def test_an_energy_that_is_not_the_oracle_sees_given_tokens() -> None:
    # E = (x_1 - x_0 - 3)^2 / 2: with h = 2 and no noise to speak of, one step lands on x_0 + 3.
    def energy(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x[:, 1] - x[:, 0] - 3).square().sum(1)

    probe = EBM(step_size=2.0, noise_scale=1e-9)
    procedure = Procedure.of(probe, from_spec("gaussian:ar1,tokens=2,rho=0.9"), given=(0,))
    x = procedure.with_network(energy).sample(Budget(length=0, steps=1), 5, CounterRandomness(0))
    assert (x[:, 1] - x[:, 0] - 3).abs().max() < 1e-7


def test_the_step_that_is_never_rejected_is_suspected() -> None:
    (suspect,) = EBM().suspects()
    assert (suspect.failure, suspect.probe) == ("unadjusted step", EBM(sampler="mala"))
    assert EBM(sampler="mala").suspects() == ()


@pytest.mark.parametrize("divergences", [["kl"], ["kl", "wasserstein", "mmd"]])
def test_a_suspect_is_not_blamed_by_what_was_not_shown_without_it(divergences: list[str]) -> None:
    law = from_spec("gaussian:ar1,tokens=3,rho=0.5")
    how: dict[str, Any] = {"lengths": [2], "steps": [2], "given": [0], "divergences": divergences}
    # Beside a given token Metropolis' rule has no KL from above, and its W2 is vague.
    few = check("ebm", law, samples=300, **how)
    assert few.outcome is Outcome.NOT_REPRESENTABLE
    assert few.found.causes == ()


def test_a_suspect_is_blamed_by_what_falls_without_it() -> None:
    found = check("ebm", from_spec("gaussian:tokens=2,std=3"), samples=2000, lengths=[2], steps=[1])
    (cause,) = found.found.causes
    assert cause.failure == "unadjusted step"


def test_a_shortcut_to_the_energies_of_a_token_changes_neither_draws_nor_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = CounterRandomness(4).uniform((5, 4)) + 0.1
    target = MarkovChain(
        [tables[0] / tables[0].sum(), tables[1:] / tables[1:].sum(1, keepdim=True)], tokens=6
    )
    procedure = Procedure.of(build_probe("ebm"), target)
    budget, found = Budget(length=6, steps=3), []
    for shortcut in (True, False):
        if not shortcut:
            monkeypatch.setattr(type(target), "log_prob_of_values", lambda *_: None)
        calls = Calls()
        *_, state = procedure.run(budget, 50, CounterRandomness(3), calls=calls)
        found.append((state.tokens, calls.sequential, calls.tokens))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]
