"""Markov chains on an energy against closed forms, quadrature and kernels written out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from capcheck import Outcome, check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.exact.enumeration import Route, sampled_law
from capcheck.exact.replay import exact_law
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import EnergySignature, TokenPredictorSignature
from capcheck.probes.steps.ebm import EBM
from capcheck.procedures.registry import build_probe
from capcheck.targets import ProductMixture, Target, from_spec, from_table
from capcheck.targets.categorical.sequence_law import SequenceLaw

Array = NDArray[np.float64]
PAIR = np.array([[1.0, 0.6], [0.6, 1.0]])


def replayed(target: Target, k: int, h: float) -> GaussianLaw:
    probe = build_probe("ebm", {"step_size": h})
    law = exact_law(
        probe,
        probe.signature.oracle(target),
        completion=TokenPredictorSignature().oracle(target),
        spec=target.spec,
        budget=Budget(length=0, steps=k),
    )
    assert isinstance(law, GaussianLaw)
    return law


def last(target: Target, k: int, n: int, **options: str | float) -> Array:
    probe = build_probe("ebm", options)
    oracle, budget = probe.signature.oracle(target), Budget(length=0, steps=k)
    *_, state = probe.run(oracle, target.spec, budget, n, CounterRandomness(5))
    drawn: Array = state.tokens[:, 0, 0].numpy()
    return drawn


@pytest.mark.parametrize(("v", "h"), [(1.0, 1.0), (4.0, 2.0), (0.25, 0.5)])
def test_ula_goes_geometrically_to_a_wrong_variance(v: float, h: float) -> None:
    target = from_spec(f"gaussian:tokens=1,std={v**0.5}")
    limit = v / (1 - h / (4 * v))
    gaps = [float(replayed(target, k, h).covariance) - limit for k in (1, 2, 3)]
    # The initial law is N(0, v).
    assert gaps == pytest.approx([(1 - h / (2 * v)) ** (2 * k) * (v - limit) for k in (1, 2, 3)])
    late = float(replayed(target, 60, h).covariance)
    assert late == pytest.approx(limit, rel=1e-9)
    assert abs(late - v) > 0.1 * v


def test_ula_on_correlated_tokens_is_the_recursion_of_covariances() -> None:
    h, C = 0.3, np.eye(2)
    law = replayed(from_spec("gaussian:ar1,tokens=2,rho=0.6"), 5, h)
    A = np.eye(2) - h / 2 * np.linalg.inv(PAIR)
    for _ in range(5):
        C = A @ C @ A.T + h * np.eye(2)
    assert law.covariance.numpy() == pytest.approx(C, abs=1e-9)
    assert abs(law.covariance.numpy() - PAIR).max() > 0.05


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


def gibbs_by_hand(p: Array, sweeps: int) -> Array:
    """The law after some sweeps from the product of the marginals, state by state."""
    states = list(itertools.product(*map(range, p.shape)))
    marginal = [
        np.array([sum(p[x] for x in states if x[i] == v) for v in range(p.shape[i])])
        for i in range(p.ndim)
    ]
    q = {x: float(np.prod([marginal[i][v] for i, v in enumerate(x)])) for x in states}
    for _, i in itertools.product(range(sweeps), range(p.ndim)):
        after = dict.fromkeys(states, 0.0)
        for x, mass in q.items():
            options = [(*x[:i], v, *x[i + 1 :]) for v in range(p.shape[i])]
            weights = np.array([p[y] for y in options])
            weights = weights / weights.sum() if weights.sum() > 0 else marginal[i]
            for y, weight in zip(options, weights, strict=True):
                after[y] += mass * weight
        q = after
    return np.array([q[x] for x in states])


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
    target, probe = from_table(torch.tensor(table)), EBM()
    law = sampled_law(
        probe,
        probe.signature.oracle(target),
        completion=TokenPredictorSignature().oracle(target),
        spec=target.spec,
        budget=Budget(length=0, steps=sweeps),
        routes=(route,),
    )
    assert isinstance(law, SequenceLaw)
    found = law.probabilities.numpy()
    assert found == pytest.approx(gibbs_by_hand(table, sweeps), abs=1e-12)
    assert abs(found - gibbs_by_hand(table, sweeps - 1)).max() > 1e-6


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


def test_a_chain_must_suit_the_tokens() -> None:
    for target, sampler in ((from_spec("gaussian"), "gibbs"), (from_spec("parity:3"), "mala")):
        probe = build_probe("ebm", {"sampler": sampler})
        states = probe.run(
            probe.signature.oracle(target),
            target.spec,
            Budget(length=0, steps=1),
            2,
            CounterRandomness(0),
        )
        with pytest.raises(InputError, match=r"ebm\.sampler must be"):
            next(iter(states))


def test_the_step_that_is_never_rejected_is_suspected() -> None:
    (suspect,) = EBM().suspects()
    assert (suspect.failure, suspect.probe) == ("unadjusted step", EBM(sampler="mala"))
    assert EBM(sampler="mala").suspects() == ()


@pytest.mark.parametrize("divergences", [["kl"], ["kl", "wasserstein", "mmd"]])
def test_a_suspect_is_not_blamed_by_what_was_not_shown_without_it(divergences: list[str]) -> None:
    law = from_spec("gaussian:ar1,tokens=2,rho=0.5")
    how: dict[str, Any] = {"lengths": [2], "steps": [2], "divergences": divergences}
    few = check("ebm", law, samples=300, **how)  # Metropolis' rule has no KL, and its W2 is vague
    assert few.outcome is Outcome.NOT_REPRESENTABLE
    assert few.causes == ()


def test_a_suspect_is_blamed_by_what_falls_without_it() -> None:
    found = check("ebm", from_spec("gaussian:tokens=2,std=3"), samples=2000, lengths=[2], steps=[1])
    (cause,) = found.causes
    assert cause.failure == "unadjusted step"
