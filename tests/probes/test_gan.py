"""One call of a generator: what a bound on its slope costs, by closed forms and least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from scipy.special import logsumexp, ndtr

from capcheck import Outcome, check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.networks.oracles import bounded_slope as module
from capcheck.networks.oracles.bounded_slope import BoundedSlope, bounded_slope, steepest_slope
from capcheck.networks.oracles.rosenblatt import Rosenblatt
from capcheck.probes.neither.gan import GAN
from capcheck.procedures.procedure import Procedure
from capcheck.targets import DiagonalMixture, ProductMixture, Target, from_spec, from_table

Z = np.linspace(-9, 9, 200_001)
PHI = np.exp(-0.5 * Z**2) / np.sqrt(2 * np.pi) * (Z[1] - Z[0])


def pair(m: float, s: float, weight: float = 0.5) -> Target:
    """weight N(-m, s^2) + (1 - weight) N(m, s^2)."""
    return ProductMixture(
        torch.tensor([[[-m]], [[m]]], dtype=torch.float64),
        torch.tensor([[s]], dtype=torch.float64),
        torch.tensor([weight, 1 - weight], dtype=torch.float64),
    )


def values(g: BoundedSlope | Rosenblatt) -> np.ndarray:
    found: np.ndarray = g(torch.tensor(Z)[:, None, None])[:, 0, 0].numpy()
    return found


@pytest.mark.parametrize(
    ("m", "s"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.5), (2.0, 0.5), (3.0, 0.5), (10.0, 0.5)]
)
def test_two_modes_need_the_slope_of_the_closed_form(m: float, s: float) -> None:
    needed = s * np.exp(m**2 / (2 * s**2))  # of (2, 0.5) it is 1490.5
    assert steepest_slope(pair(m, s)) == pytest.approx(needed, rel=1e-9)
    assert isinstance(bounded_slope(pair(m, s), needed * 1.001), Rosenblatt)
    assert isinstance(bounded_slope(pair(m, s), needed * 0.99), BoundedSlope)


def test_the_steepest_place_of_any_mixture_is_found() -> None:
    # phi(Phi^-1(F)) / f on two million points, by scipy, in the lower tail where F < 1/2.
    for seed in range(4):
        rng = np.random.default_rng(seed)
        K = int(rng.integers(2, 9))
        m, s, w = 4 * rng.normal(size=K), rng.uniform(0.05, 1, K), rng.dirichlet(np.ones(K))
        x = np.linspace(m.min() - 6, m.max() + 6, 500_001)
        z = (x[:, None] - m) / s
        log_f = logsumexp(np.log(w) + stats.norm.logpdf(z) - np.log(s), axis=1)
        tail = np.minimum(ndtr(z) @ w, ndtr(-z) @ w)
        slope = np.exp(stats.norm.logpdf(stats.norm.ppf(tail)) - log_f).max()
        target = DiagonalMixture(
            torch.tensor(m)[:, None, None], torch.tensor(s)[:, None, None], torch.tensor(w)
        )
        found = steepest_slope(target)
        assert found >= slope * (1 - 1e-9)
        assert found == pytest.approx(slope, rel=1e-3)
        assert found > 1.01 * s.max()


def test_a_gaussian_is_no_steeper_than_its_deviation() -> None:
    assert steepest_slope(from_spec("gaussian:tokens=1,std=2")) == pytest.approx(2, rel=1e-9)
    # A single step of the map between far components of no weight to speak of counts, too.
    assert steepest_slope(pair(8.0, 1.0, weight=1e-14)) > 1e6


def test_the_bound_is_in_token_units() -> None:
    m, s = 2.0, 0.5
    needed = s * np.exp(m**2 / (2 * s**2))  # 1490.5
    how = {"lengths": [1], "steps": [1], "samples": 400}
    for unit in (1.0, 1000.0):
        target = pair(m * unit, s * unit)
        for share, exact in ((1.001, True), (0.999, False)):
            probe = GAN(lipschitz=float(needed * unit * share))
            assert isinstance(Procedure.of(probe, target).oracle, Rosenblatt) == exact
    free, loose, tight = (
        check("gan", pair(m, s), options=options, **how)  # type: ignore[arg-type]
        for options in ({}, {"lipschitz": needed * 1.001}, {"lipschitz": needed / 100})
    )
    assert loose.cells[0].estimates == free.cells[0].estimates
    assert tight.cells[0].estimates["wasserstein"] != free.cells[0].estimates["wasserstein"]


@pytest.mark.parametrize("L", [0.5, 1.0, 3.0])
def test_between_two_atoms_it_is_the_centred_clip(L: float) -> None:
    m, s = 1.0, 1e-4
    g = values(bounded_slope(pair(m, s), L))
    assert np.abs(g - np.clip(L * Z, -m, m)).max() < 3e-3 + 10 * s
    assert np.diff(g).max() <= L * (Z[1] - Z[0]) * (1 + 1e-6)
    T = m * np.sign(Z)
    w1 = m * (2 * ndtr(m / L) - 1) - 2 * L * (1 - np.exp(-0.5 * (m / L) ** 2)) / np.sqrt(2 * np.pi)
    assert float(PHI @ np.abs(g - T)) == pytest.approx(w1, abs=2e-3)
    # A ramp on one side has the least total variation, Phi(2m/L) - 1/2, and is further away.
    ramp = np.clip(L * Z - m, -m, m)
    assert float(PHI @ (ramp - T) ** 2) > float(PHI @ (g - T) ** 2) + 1e-3
    between = float(PHI[np.abs(g) < m - 10 * s].sum())
    assert between > ndtr(2 * m / L) - 0.5
    assert float(PHI[np.abs(ramp) < m].sum()) == pytest.approx(ndtr(2 * m / L) - 0.5, abs=1e-3)


def test_no_map_of_bounded_slope_is_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    # Least squares over increments in [0, L h], on the same 121 knots.
    monkeypatch.setattr(module, "KNOTS", 121)
    monkeypatch.setattr(module, "REACH", 4.0)
    target, L = pair(1.5, 0.4, weight=0.3), 1.2
    found = bounded_slope(target, L)
    assert isinstance(found, BoundedSlope)
    z = found.z.numpy()
    T = Rosenblatt(target=target)(found.z[:, None, None])[:, 0, 0].numpy()
    root = np.exp(-0.25 * z**2)
    steps = np.tril(np.ones((len(z), len(z))))
    low, high = np.r_[-np.inf, np.zeros(120)], np.r_[np.inf, np.full(120, L * (z[1] - z[0]))]
    best = optimize.lsq_linear(root[:, None] * steps, root * T, (low, high), tol=1e-14)
    loss = np.sum(root**2 * (found.g.numpy() - T) ** 2)
    assert loss == pytest.approx(2 * best.cost, rel=1e-6)
    clipped = T[60] + np.r_[0, np.minimum(np.diff(T), L * np.diff(z))].cumsum()
    clipped -= clipped[60] - T[60]  # twin: cutting the slope from the median is further away
    assert np.sum(root**2 * (clipped - T) ** 2) > 1.05 * loss


def test_a_bound_is_the_cause_of_its_floor() -> None:
    target = pair(3.0, 0.3)
    asked = {"lengths": [0, 1], "steps": [1, 4], "samples": 600}
    found = check("gan", target, options={"lipschitz": 1.0}, **asked)  # type: ignore[arg-type]
    assert found.outcome is Outcome.NOT_REPRESENTABLE
    assert found.found.failure == "limited emission"
    free = check("gan", target, **asked)  # type: ignore[arg-type]
    assert free.outcome is Outcome.REPRESENTABLE
    assert {cell.model_calls for cell in free.cells} == {1}
    assert (free.axes.length, free.axes.steps, free.found.loop_order) == ("flat", "flat", "none")
    # W2^2 of the bounded map, by quadrature: the squared distance of monotone maps.
    T = values(bounded_slope(target, 1e9))
    w2 = float(PHI @ (values(bounded_slope(target, 1.0)) - T) ** 2)
    estimate = found.cells[0].estimates["wasserstein"]
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < w2 < estimate.high


def test_a_bound_is_for_one_number() -> None:
    for target in (from_spec("modes:tokens=2"), from_spec("copy:tokens=1,symbols=3")):
        with pytest.raises(UnfitError, match="one number"):
            GAN(lipschitz=1.0).signature.oracle(target)
    with pytest.raises(UnfitError, match="one number"):
        check(
            "gan", from_spec("modes:tokens=2"), options={"lipschitz": 1.0}, given=[0], lengths=[1]
        )


def test_token_ids_follow_the_table() -> None:
    joint = torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.3, 0.05], [0.15, 0.0, 0.2]]).double()
    side = 400  # all pairs of uniforms on a grid: no number of a cell is off by more than 1/side
    u = (torch.arange(side).double() + 0.5) / side
    z = torch.special.ndtri(torch.cartesian_prod(u, u))[:, :, None]
    x = Rosenblatt(target=from_table(joint))(z)
    counts = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9).reshape(3, 3) / side**2
    assert (counts - joint).abs().max() < 2 / side
    assert (counts - joint.T).abs().max() > 0.1  # twin
    assert bool((counts[joint == 0] == 0).all())


def test_the_density_is_that_of_the_forward_map() -> None:
    target = from_spec("modes:tokens=2,modes=3,gap=4")
    procedure, g = Procedure.of(GAN(), target), Rosenblatt(target=target)
    x = target.sample(50, CounterRandomness(0))
    found = procedure.log_density(Budget(length=2, steps=1), x, CounterRandomness(0))
    assert isinstance(found, LogDensity)
    z, step = g.inverse(x), 1e-5
    columns = []
    for i in range(2):
        shift = torch.zeros_like(z)
        shift[:, i] = step
        columns.append((g(z + shift) - g(z - shift))[..., 0] / (2 * step))
    jacobian = torch.stack(columns, 2)
    normal = stats.norm.logpdf(z[..., 0].numpy()).sum(1)
    by_map = normal - np.linalg.slogdet(jacobian.numpy())[1]
    assert found.values.numpy() == pytest.approx(by_map, abs=1e-5)


def test_a_generator_that_states_no_density_has_none() -> None:
    target = pair(2.0, 0.5)
    x = target.sample(3, CounterRandomness(0))
    procedure = Procedure.of(GAN(lipschitz=2.0), target)
    found = procedure.log_density(Budget(length=1, steps=1), x, CounterRandomness(0))
    assert isinstance(found, Unavailable)
    with pytest.raises(InputError, match="sequence for every row"):
        GAN().signature.require(x[:, :0], x)


def test_modes_far_apart_are_made_exactly() -> None:
    target = from_spec("modes:tokens=1,modes=2,gap=80")
    how = {"lengths": [1], "steps": [1], "samples": 1000}
    assert check("gan", target, **how).outcome is Outcome.REPRESENTABLE  # type: ignore[arg-type]
    # Both modes at +-40 have a share of 1/2, and a deviation of 1.
    x = Procedure.of(GAN(), target).sample(Budget(length=1, steps=1), 10_000, CounterRandomness(5))
    flat = x.flatten().numpy()

    def law(at: np.ndarray) -> np.ndarray:
        both: np.ndarray = 0.5 * (ndtr(at + 40) + ndtr(at - 40))
        return both

    assert stats.kstest(flat, law).pvalue > 1e-3
    wrong = np.where(np.arange(10_000) % 15 == 0, flat + 5, flat)  # twin: 1 of 15 is off by 5
    assert stats.kstest(wrong, law).pvalue < 1e-3


@pytest.mark.parametrize("given", [(0,), (2,), (0, 2)])
def test_given_tokens_condition_the_others(given: tuple[int, ...]) -> None:
    # AR(1): the others given some are Gaussian, of mean C_rg C_gg^-1 x_g and covariance S.
    target = from_spec("gaussian:ar1,tokens=3,rho=0.8")
    C = 0.8 ** np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    rest, g = [i for i in range(3) if i not in given], list(given)
    gain = C[np.ix_(rest, g)] @ np.linalg.inv(C[np.ix_(g, g)])
    S = C[np.ix_(rest, rest)] - gain @ C[np.ix_(g, rest)]
    procedure = Procedure.of(GAN(), target, given=given)
    rng = CounterRandomness(2)
    start, *_, last = procedure.run(Budget(length=1, steps=1), 4000, rng)
    assert torch.equal(last.tokens[:, g], start.tokens[:, g])
    assert not bool(last.written[:, g].any())
    x = last.tokens[..., 0].numpy()
    standard = (x[:, rest] - x[:, g] @ gain.T) @ np.linalg.inv(np.linalg.cholesky(S)).T
    assert stats.kstest(standard.flatten(), ndtr).pvalue > 1e-3
    assert stats.kstest(x[:, rest[0]] / np.sqrt(S[0, 0]), ndtr).pvalue < 1e-3  # twin


def test_given_token_ids_condition_the_others() -> None:
    joint = torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.3, 0.05], [0.15, 0.0, 0.2]]).double()
    procedure = Procedure.of(GAN(), from_table(joint), given=(1,))
    x = procedure.sample(Budget(length=1, steps=1), 20_000, CounterRandomness(0))
    counts = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9).double() / len(x)
    assert (counts.reshape(3, 3) - joint).abs().max() < 0.015
    assert bool((counts[joint.flatten() == 0] == 0).all())


def test_nothing_depends_on_the_budget() -> None:
    assert GAN.reads == frozenset()
    procedure = Procedure.of(GAN(), from_spec("modes:tokens=3,modes=2,gap=3"))
    few, many = (
        procedure.sample(Budget(length=length, steps=steps), 20, CounterRandomness(3))
        for length, steps in ((0, 1), (3, 7))
    )
    assert torch.equal(few, many)
