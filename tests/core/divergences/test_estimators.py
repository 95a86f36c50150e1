"""Estimators against scikit-learn, scipy and closed forms; their intervals by repetition."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel

from capcheck.core.errors import CapcheckError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.divergences import kernels as kernels_module
from capcheck.divergences.estimate import Estimate, Term
from capcheck.divergences.evidence import ModelEvidence
from capcheck.divergences.kl import is_same_law, kl_term
from capcheck.divergences.mmd import (
    kernel_row_means,
    median_distance,
    mmd_squared,
    mmd_squared_to_known,
)
from capcheck.divergences.reference import Reference
from capcheck.divergences.wasserstein import corrected_transport, transport
from capcheck.laws.gaussian import GaussianLaw
from capcheck.targets import GaussianMixture, from_spec

RUNS = 400


def normal(run: int, shape: tuple[int, ...], name: str = "") -> torch.Tensor:
    return CounterRandomness(run, name=name).normal(shape)


def covered(terms: list[Term], estimand: float) -> float:
    inside = [low <= estimand <= high for low, high in (t.interval(0.95) for t in terms)]
    return float(np.mean(inside))


def test_mmd_is_the_u_statistic_of_scikit_learns_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_module, "TILE", 16)
    x, y = normal(0, (50, 3)), 1.3 * normal(1, (37, 3))
    gamma = 1 / (2 * 0.9**2)
    xx, yy, xy = (rbf_kernel(a, b, gamma) for a, b in ((x, x), (y, y), (x, y)))
    off_diagonal = [k[~np.eye(len(k), dtype=bool)].mean() for k in (xx, yy)]
    expected = sum(off_diagonal) - 2 * xy.mean()
    assert mmd_squared(x, y, 0.9).value == pytest.approx(expected, abs=1e-12)
    (means,) = kernel_row_means(x, y, (0.9,))
    assert means.tolist() == pytest.approx(xy.mean(1).tolist(), abs=1e-12)


def gaussian_mmd(scale: float, h: float, dim: int) -> float:
    """MMD^2 of N(0, scale^2 I) and N(0, I): E k over N(0, v) differences is (h2/(h2+v))^(D/2)."""

    def mean(v: float) -> float:
        return float((h**2 / (h**2 + v)) ** (dim / 2))

    return mean(2 * scale**2) + mean(2.0) - 2 * mean(1 + scale**2)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "dim"), [(1.0, 2), (1.1, 2), (0.5, 2), (1.0, 16), (0.8, 16)])
def test_the_mmd_interval_covers_the_closed_form(scale: float, dim: int) -> None:
    target = from_spec(f"gaussian:tokens={dim}")
    h = math.sqrt(2 * dim)
    own = target.kernel_self_mean(h)
    assert own is not None
    terms = []
    for run in range(RUNS):
        x = scale * normal(run, (200, dim))
        means = [target.kernel_mean(x[..., None], h)]
        terms += mmd_squared_to_known(x, (h,), means, (own,))
    estimand = gaussian_mmd(scale, h, dim)
    assert covered(terms, estimand) >= 0.91
    mean, error = np.mean([t.value for t in terms]), np.std([t.value for t in terms])
    assert abs(mean - estimand) < 4 * error / math.sqrt(RUNS)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.5])
def test_the_kl_interval_covers_the_closed_form(factor: float) -> None:
    # log N(x; 0, 1) - log N(x; 0, s^2) = log s - x^2/2 (1 - 1/s^2); KL = log s - (1 - 1/s^2)/2.
    estimand = math.log(factor) - 0.5 * (1 - factor**-2)
    terms = []
    for run in range(RUNS):
        x = normal(run, (500,))
        terms.append(kl_term(math.log(factor) - 0.5 * x.square() * (1 - factor**-2)))
    assert covered(terms, estimand) >= 0.91


def test_the_kl_interval_includes_draws_that_all_rows_share() -> None:
    # log q(x) is x^2 times the mean of M squares, an estimate that all rows share.
    terms = []
    for run in range(RUNS):
        x, z = normal(run, (500,)), normal(RUNS + run, (200,))
        terms.append(kl_term(x.square() * z.square().mean(), [x.square().mean() * z.square()]))
    assert covered(terms, 1.0) >= 0.91
    alone = [term.model_copy(update={"standard_error": 0.06}) for term in terms]  # of the rows
    assert covered(alone, 1.0) < 0.85


def test_transport_is_optimal_and_its_potentials_are_dual() -> None:
    x, y = normal(0, (60, 3)).numpy(), normal(1, (60, 3)).numpy() + 1
    costs = cdist(x, y, "sqeuclidean")
    row, column = linear_sum_assignment(costs)
    plan = transport(x, y)
    assert plan.cost == pytest.approx(costs[row, column].mean())
    assert plan.cost == pytest.approx(plan.of_x.mean() + plan.of_y.mean())
    assert (costs - plan.of_x[:, None] - plan.of_y).min() > -1e-9


def corrected(run: int, scale: float, m: int, dim: int) -> Term:
    p, other, q, q_other = (normal(run, (m, dim), name).numpy() for name in ("p", "p'", "q", "q'"))
    return corrected_transport(p, transport(p, other), scale * q, scale * q_other)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "dim"), [(1.0, 2), (1.0, 8), (0.7, 2), (0.7, 8), (1.5, 8)])
def test_the_transport_interval_covers_its_estimand(scale: float, dim: int) -> None:
    # The estimand is E[T] at this m, which 400 independent runs give to a small error.
    expected = np.mean([corrected(10_000 + run, scale, 60, dim).value for run in range(400)])
    terms = [corrected(run, scale, 60, dim) for run in range(150)]
    assert covered(terms, float(expected)) >= 0.91
    if scale == 1.0:
        assert abs(expected) < 4 * np.std([t.value for t in terms]) / math.sqrt(400)


def test_a_collapsed_sampler_is_farther_than_a_perfect_one_where_raw_transport_is_not() -> None:
    perfect = [corrected(run, 1.0, 60, 16).value for run in range(20)]
    collapsed = [corrected(run, math.sqrt(0.5), 60, 16).value for run in range(20)]
    assert all(c > p for c, p in zip(collapsed, perfect, strict=True))
    p, q = normal(0, (60, 16)).numpy(), normal(1, (60, 16)).numpy()
    assert ot.emd2([], [], ot.dist(p, math.sqrt(0.5) * q)) < ot.emd2([], [], ot.dist(p, q))


def test_median_distance_is_that_of_the_target() -> None:
    x = normal(0, (300, 4))
    upper = cdist(x, x)[np.triu_indices(300, 1)]
    assert median_distance(x) == pytest.approx(np.median(upper), rel=1e-3)


def test_an_infinite_log_ratio_is_an_infinite_divergence() -> None:
    term = kl_term(torch.tensor([0.1, torch.inf, 0.2]))
    assert term.value == math.inf
    assert term.interval(0.95) == (math.inf, math.inf)


def test_equal_laws_are_those_whose_log_ratios_all_vanish() -> None:
    zeros = torch.zeros(2, dtype=torch.float64)
    assert is_same_law(zeros, torch.tensor([0.0, 5e-10], dtype=torch.float64))
    assert not is_same_law(zeros, torch.tensor([0.0, 2e-9], dtype=torch.float64))
    single = torch.full((2,), -10.0)  # float32 resolves 1e-6 here
    assert is_same_law(single, single + 2e-6)
    assert not is_same_law(single, single + 1e-3)


def test_identical_rows_do_not_make_an_interval_of_width_zero() -> None:
    target = from_spec("gaussian:tokens=2")
    x = torch.zeros(500, 2, dtype=torch.float64)
    own = target.kernel_self_mean(1.0)
    assert own is not None
    (term,) = mmd_squared_to_known(x, (1.0,), [target.kernel_mean(x[..., None], 1.0)], [own])
    low, high = term.interval(0.95)
    assert low < term.value < high


def test_an_estimate_is_its_largest_term_with_a_joint_interval() -> None:
    terms = [
        Term(label=str(v), value=v, standard_error=0.1, degrees=10**6, groups=()) for v in (1, 2)
    ]
    estimate = Estimate.of(
        terms, level=0.95, kind="estimate", method="", unit="", samples=1, null=0.0
    )
    assert estimate.value == 2
    assert estimate.high == pytest.approx(2 + 2.2414 * 0.1, abs=1e-4)  # z at 1 - 0.05 / 4
    assert estimate.low == pytest.approx(2 - 2.2414 * 0.1, abs=1e-4)
    single = Estimate.of(
        terms[:1], level=0.95, kind="estimate", method="", unit="", samples=1, null=0.0
    )
    assert single.high == pytest.approx(1 + 1.96 * 0.1, abs=1e-4)


def test_a_collapsed_sampler_is_never_nearer_than_the_perfect_one() -> None:
    # In 64 dimensions raw transport is: its cost falls with the model's spread.
    raw = 0
    for run in range(40):
        p, p2, z, z2 = (normal(run, (200, 64), name).numpy() for name in ("p", "p2", "q", "q2"))
        floor = transport(p, p2)
        perfect = corrected_transport(p, floor, z, z2)
        collapsed = corrected_transport(p, floor, math.sqrt(0.5) * z, math.sqrt(0.5) * z2)
        assert collapsed.value > perfect.value
        raw += transport(p, math.sqrt(0.5) * z).cost < transport(p, z).cost
    assert raw == 40


def test_sampled_estimates_agree_with_exact_laws() -> None:
    """Where a replay gives a law, the estimates from draws and densities hold its divergences."""
    target = from_spec("gaussian:ar1,tokens=4,rho=0.9")
    assert isinstance(target, GaussianMixture)
    held = total = 0
    for seed in range(4):
        reference = Reference(
            target, divergences=("kl", "wasserstein", "mmd"), samples=600, seed=seed
        )
        for scale in (0.5, 0.8, 0.95, 1.2):
            for shift in (0.0, 0.2):
                mean, covariance = (part for part in target.gaussian() or ())
                law = GaussianLaw(mean=mean + shift, covariance=scale**2 * covariance)
                rng = CounterRandomness(seed, name="model")
                x = shift + scale * target.sample(600, rng)
                density = LogDensity(values=law.log_prob(reference.draws), method="the law")
                sampled = reference.estimates(ModelEvidence(samples=x, log_density=density))
                exact = reference.estimates(ModelEvidence(samples=x, law=law))
                for name, estimate in exact.items():
                    assert estimate.kind == "exact"
                    low, high, value = sampled[name].low, sampled[name].high, estimate.value
                    assert low is not None
                    assert high is not None
                    assert value is not None
                    rounding = 1e-12  # a log-ratio that is a control variate has no error
                    held += low - rounding <= value <= high + rounding
                    total += 1
    assert held / total >= 0.93


# What is made only where it is asked for.


def test_kernel_means_are_not_made_for_kl_and_a_claim_is_checked_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = from_spec("shuffle:4")

    def never(*_: object) -> float:
        raise AssertionError("closed-form kernel means are made")

    monkeypatch.setattr(type(target), "kernel_self_mean", never)
    monkeypatch.setattr(type(target), "kernel_mean", never)
    x = target.sample(400, CounterRandomness(0, name="model"))
    reference = Reference(target, divergences=("kl",), samples=400, seed=0)
    claim = LogDensity(values=reference.log_prob, method="the target's own")
    found = reference.estimates(ModelEvidence(samples=x, log_density=claim))
    assert (found["kl"].value, found["kl"].kind) == (0, "exact")
    copied = torch.zeros_like(x)
    with pytest.raises(CapcheckError, match="and the samples are not"):
        reference.estimates(ModelEvidence(samples=copied, log_density=claim))
    reference.require_target_draws(x, "sound")
    with pytest.raises(CapcheckError, match="are not draws of the target"):
        reference.require_target_draws(copied, "broken")
    with pytest.raises(AssertionError, match="kernel means are made"):
        Reference(target, divergences=("kl", "mmd"), samples=400, seed=0)
