"""Certificates for W2 squared against closed forms, quadrature and scipy, and by repetition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, linalg, special, stats

from capcheck.core.errors import InputError
from capcheck.divergences import certificates
from capcheck.divergences.certificates import (
    lower_certificates,
    mean_and_spread_squared,
    sliced_squared,
)
from capcheck.divergences.coupling import coupling_squared, effective_draws
from capcheck.divergences.estimate import Term

Array = NDArray[np.float64]
TOLERANCE = 0.01  # of W2^2, as a share of tr Cov: W2 is a tenth of the spread


def normal(*key: int, shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(key).normal(size=shape)


def low(term: Term) -> float:
    return term.interval(0.95)[0]


def high(term: Term) -> float:
    return term.interval(0.95)[1]


def at_most(runs: int, level: float = 0.025) -> int:
    """Most misses in some runs that 999 of 1,000 correct intervals would show."""
    return int(stats.binom.ppf(0.999, runs, level))


def standard(D: int) -> dict[str, Array]:
    return {"mean": np.zeros(D), "variance": np.ones(D)}


def gaussian_w2_squared(P: Array, Q: Array) -> float:
    root = np.real(linalg.sqrtm(P))
    return float(np.trace(P + Q - 2 * np.real(linalg.sqrtm(root @ Q @ root))))


# Estimands.


def test_mean_and_spread_is_a_sum_over_pairs_of_different_rows() -> None:
    x = 1.5 * normal(0, shape=(20, 3)) + 1
    n, mean, variance = len(x), np.array([0.5, 1, 1.5]), np.array([1.0, 2.0, 3.0])
    pairs = [(x[i] - mean) @ (x[j] - mean) for i in range(n) for j in range(n) if i != j]
    s = math.sqrt(np.trace(np.cov(x.T)))
    # Var sqrt(v) = Var v / (4 v) to first order, v being a mean of |x - x_bar|^2 n / (n - 1).
    of_v = np.var(((x - x.mean(0)) ** 2).sum(1) * n / (n - 1), ddof=1) / n
    expected = np.mean(pairs) + (s - math.sqrt(6)) ** 2 - of_v / (4 * s**2)
    term = mean_and_spread_squared(x, mean=mean, variance=variance)
    assert term.value == pytest.approx(expected, rel=1e-12)


def expected_order_statistics(b: int) -> Array:
    """E of the order statistics of b standard normals, by quadrature."""

    def mean(k: int) -> float:
        beta = stats.beta(k, b - k + 1)
        return float(integrate.quad(lambda u: special.ndtri(u) * beta.pdf(u), 0, 1)[0])

    return np.array([mean(k) for k in range(1, b + 1)])


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.2), (0.5, 0.6), (-1.0, 2.0)])
def test_sliced_has_the_estimand_of_order_statistics(shift: float, scale: float) -> None:
    # Two halves of four blocks of b = 10 rows: a deviation counts by sum_k E[Z_(k)]^2 / b < 1.
    runs, blur = 500, float(np.mean(expected_order_statistics(10) ** 2))
    estimand = shift**2 + (scale - 1) ** 2 * blur
    assert estimand <= shift**2 + (scale - 1) ** 2  # W2^2 of the two normals
    terms = [
        sliced_squared(
            scale * normal(run, 1, shape=(80, 1)) + shift,
            normal(run, 2, shape=(160, 1)),
            mean=np.zeros(1),
        )
        for run in range(runs)
    ]
    values = np.array([term.value for term in terms])
    error = values.std() / math.sqrt(runs)
    assert abs(values.mean() - estimand) < 4 * error
    inside = [t.interval(0.95)[0] <= estimand <= t.interval(0.95)[1] for t in terms]
    assert np.mean(inside) >= 0.91
    if scale == 1.0:  # the twin: sorted rows that stand for both factors are far above 0
        plug_in = [
            np.mean((np.sort(normal(r, 1, shape=(80,))) - np.sort(normal(r, 2, shape=(80,)))) ** 2)
            for r in range(runs)
        ]
        assert np.mean(plug_in) > 10 * error


# Level at equal laws.


@dataclass(frozen=True, kw_only=True)
class Law:
    """A law of independent coordinates of mean 0: one draw of a shape, and its variance."""

    draw: Callable[[np.random.Generator, tuple[int, int]], Array]
    variance: float


LAWS = {
    "normal": Law(draw=lambda g, shape: g.normal(size=shape), variance=1.0),
    "heavy": Law(draw=lambda g, shape: g.standard_t(5, size=shape), variance=5 / 3),
    "skewed": Law(draw=lambda g, shape: g.exponential(size=shape) - 1, variance=1.0),
    "near atoms": Law(
        draw=lambda g, shape: (g.random(shape) < 0.2) - 0.2 + 1e-3 * g.normal(size=shape),
        variance=0.2 * 0.8 + 1e-6,
    ),
}


def misses_at_equal_laws(law: Law, n: int, D: int, runs: int) -> list[int]:
    count = np.zeros(2, int)
    for run in range(runs):
        rng = np.random.default_rng((run, n, D))
        x, y = law.draw(rng, (n, D)), law.draw(rng, (n, D))
        moments = {"mean": np.zeros(D), "variance": np.full(D, law.variance)}
        count += [low(term) > 0 for term in lower_certificates(x, y, **moments)]
    return count.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize(("n", "D"), [(200, 2), (200, 64), (2000, 64)])
def test_no_certificate_from_below_exceeds_its_level(name: str, n: int, D: int) -> None:
    runs = 200 if n == 200 else 80  # at a level of 0.15 more than 7 of 80 miss in 93% of cases
    assert max(misses_at_equal_laws(LAWS[name], n, D, runs)) <= at_most(runs)


@pytest.mark.slow
def test_equal_laws_in_768_dimensions() -> None:
    assert max(misses_at_equal_laws(LAWS["normal"], 2000, 768, 5)) <= at_most(5)


def test_the_plug_in_gelbrich_bound_exceeds_its_level() -> None:
    for n, D in ((2000, 64), (200, 64)):  # the twin of the two tests above
        plug_in = []
        for run in range(10):
            x = normal(run, n, D, shape=(n, D))
            covariance = gaussian_w2_squared(np.eye(D), np.cov(x.T))
            plug_in.append(float((x.mean(0) ** 2).sum()) + covariance)
        assert min(plug_in) - 1.96 * np.std(plug_in, ddof=1) > 0
    assert min(plug_in) > TOLERANCE * D  # with 200 draws it would refuse the target itself


def test_directions_tested_on_the_rows_that_chose_them_exceed_their_level() -> None:
    n, D = 400, 64
    below = 0
    for run in range(10):
        x, y = normal(run, 1, shape=(n, D)), normal(run, 2, shape=(n, D))
        basis = np.linalg.eigh(np.cov(x.T) - np.cov(y.T)).eigenvectors
        value, of_x, of_y = certificates._along(basis.T, x, y)
        below += low(Term.from_influence("twin", value, [of_x, of_y])) > 0
    assert below == 10


# Verdicts at half and at twice the tolerance.


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a model does to a standard normal target of D coordinates, and its W2^2."""

    model: Callable[[Array], Array]
    w2_squared: float


def rotated(D: int, angle: float) -> tuple[Array, Array, Array]:
    """Deviations 1 and 1/2 in turn (D,), rotated pair by pair (D, D); the covariance then."""
    s, (c, si) = np.tile([1.0, 0.5], D // 2), (math.cos(angle), math.sin(angle))
    R: Array = np.kron(np.eye(D // 2), np.array([[c, -si], [si, c]]))
    return s, R, np.asarray(R @ np.diag(s**2) @ R.T)


def differences(D: int, w2: float) -> dict[str, Difference]:
    """Those of a W2 of that share of the spread sqrt(D)."""
    length = w2 * math.sqrt(D)
    step = normal(3, D, shape=(D,))
    step *= length / np.linalg.norm(step)
    axis = np.ones(D)
    axis[0] += length
    scale = {"up": 1 + w2, "down": 1 - w2}
    return {
        "shift": Difference(model=lambda z: z + step, w2_squared=length**2),
        "up": Difference(model=lambda z: z * scale["up"], w2_squared=length**2),
        "down": Difference(model=lambda z: z * scale["down"], w2_squared=length**2),
        "axis": Difference(model=lambda z: z * axis, w2_squared=length**2),
    }


def verdict(model: Array, target: Array, exact: Array, mean: Array, variance: Array) -> str:
    bound = TOLERANCE * variance.sum()
    below = lower_certificates(model, target, mean=mean, variance=variance)
    if max(term.interval(0.975)[0] for term in below) > bound:  # two of them share the level
        return "refused"
    return "passed" if high(coupling_squared(model, exact)) <= bound else "inconclusive"


@pytest.mark.slow
@pytest.mark.parametrize(("D", "runs"), [(64, 10), (768, 1)])
@pytest.mark.parametrize("name", ["shift", "up", "down", "axis"])
def test_differences_at_half_and_twice_the_tolerance_are_decided(
    D: int, runs: int, name: str
) -> None:
    for w2, right in ((0.05, "passed"), (0.2, "refused")):
        difference = differences(D, w2)[name]
        assert difference.w2_squared == pytest.approx(w2**2 * D)
        for run in range(runs):
            z, y = normal(run, 4, D, shape=(2000, D)), normal(run, 5, D, shape=(2000, D))
            found = verdict(difference.model(z), y, z, **standard(D))
            assert found == right or (name == "axis" and found == "inconclusive")


@pytest.mark.slow
@pytest.mark.parametrize(("angle", "seen"), [(0.15, False), (0.6, True)])
def test_a_rotation_is_refused_or_left_open(angle: float, seen: bool) -> None:
    D = 64
    s, R, Q = rotated(D, angle)
    w2_squared = gaussian_w2_squared(np.diag(s**2), Q)
    for run in range(10):
        x = (normal(run, 6, shape=(2000, D)) * s) @ R.T
        y = normal(run, 7, shape=(2000, D)) * s
        below = lower_certificates(x, y, mean=np.zeros(D), variance=s**2)
        assert max(low(term) for term in below) <= w2_squared
        refused = low(below[1]) > TOLERANCE * (s**2).sum()
        assert refused == seen == (w2_squared > 2 * TOLERANCE * (s**2).sum())
        assert low(below[0]) <= 0  # mean and spread do not move


@pytest.mark.slow
def test_a_dropped_mode_is_refused_and_its_distance_not_exceeded() -> None:
    D, gap, narrow = 64, 12.0, 0.5
    grid = np.linspace(-20, 20, 400_001)

    def quantiles(centres: list[float], u: Array) -> Array:
        cdf = np.mean([stats.norm.cdf(grid, c, narrow) for c in centres], 0)
        return np.interp(u, cdf, grid)

    # Laws that differ in one independent coordinate: W2^2 is that of the coordinate.
    u = (np.arange(200_000) + 0.5) / 200_000
    of_all, of_two = [-gap, 0.0, gap], [-gap, gap]
    w2_squared = float(np.mean((quantiles(of_all, u) - quantiles(of_two, u)) ** 2))
    variance = np.r_[narrow**2 + gap**2 * 2 / 3, np.ones(D - 1)]
    assert w2_squared > 4 * TOLERANCE * variance.sum()
    for run in range(10):
        rng = np.random.default_rng(run)
        x, y = rng.normal(size=(2000, D)), rng.normal(size=(2000, D))
        x[:, 0] = narrow * x[:, 0] + rng.choice(of_two, 2000)
        y[:, 0] = narrow * y[:, 0] + rng.choice(of_all, 2000)
        below = lower_certificates(x, y, mean=np.zeros(D), variance=variance)
        assert TOLERANCE * variance.sum() < low(below[1]) <= w2_squared


def test_lower_ends_exceed_the_distance_no_more_often_than_their_level() -> None:
    misses = np.zeros(2, int)
    for run in range(400):
        x = 1.1 * normal(run, 8, shape=(200, 2)) + 0.1
        y = normal(run, 9, shape=(200, 2))
        w2_squared = 2 * (0.1**2 + 0.1**2)
        misses += [low(term) > w2_squared for term in lower_certificates(x, y, **standard(2))]
    assert max(misses) <= at_most(400)


# More dimensions than a complete basis has.


def test_beyond_a_complete_basis_the_rest_counts_by_mean_and_spread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certificates, "COMPLETE", 8)
    monkeypatch.setattr(certificates, "LEADING", 4)
    D, n = 40, 1000
    axis = np.ones(D)
    axis[7] = 4
    step = np.full(D, 0.3)
    misses, terms = 0, []
    for run in range(50):
        x, y = normal(run, 10, shape=(n, D)), normal(run, 11, shape=(2 * n, D))
        misses += low(sliced_squared(x, y, mean=np.zeros(D))) > 0
        terms.append(
            [sliced_squared(q, y, mean=np.zeros(D)) for q in (x * axis, x + step, 1.3 * x)]
        )
    assert misses <= at_most(50)
    w2_squared = np.array([9.0, 3.6, 3.6])  # (4 - 1)^2, 0.3^2 D, and 0.3^2 D: mostly in the rest
    means = np.mean([[term.value for term in of_run] for of_run in terms], 0)
    assert (means > 0.9 * w2_squared).all()
    assert (means < 1.02 * w2_squared).all()
    assert {term.label for of_run in terms for term in of_run} == {"sliced along 4 directions"}


def test_a_basis_is_orthonormal_and_leads_with_what_differs_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = normal(0, shape=(300, 40)), normal(1, shape=(300, 40))
    x[:, 5] += 3
    x[:, 9] *= 3
    for complete, rows in ((64, 40), (8, 4)):
        monkeypatch.setattr(certificates, "COMPLETE", complete)
        monkeypatch.setattr(certificates, "LEADING", 4)
        basis = certificates._basis(x, y)
        assert basis.shape == (rows, 40)
        assert basis @ basis.T == pytest.approx(np.eye(rows), abs=1e-10)
        assert (basis[:, [5, 9]] ** 2).max(0) == pytest.approx([1, 1], abs=0.2)


# The coupling.


@pytest.mark.parametrize("w2", [0.05, 0.2])
def test_the_coupling_of_a_scaled_normal_holds_from_above(w2: float) -> None:
    # E|(1 + w2) z - z|^2 = w2^2 D, which is also W2^2: the coupling is optimal.
    misses = 0
    for run in range(500):
        z = normal(run, 12, shape=(200, 1))
        misses += high(coupling_squared((1 + w2) * z, z)) < w2**2
    assert misses <= at_most(500)


def heavy_costs(rng: np.random.Generator) -> tuple[Array, float]:
    return np.asarray(np.exp(1.5 * rng.normal(size=2000))), math.exp(1.5**2 / 2)


def rare_costs(rng: np.random.Generator) -> tuple[Array, float]:
    hit = rng.random(2000) < 20 / 2000
    return np.asarray(1e-4 + hit * rng.chisquare(4, 2000)), 1e-4 + 4 * 20 / 2000


@pytest.mark.parametrize("costs_of", [heavy_costs, rare_costs])
def test_the_upper_end_holds_for_costs_whose_t_interval_ends_too_low(
    costs_of: Callable[[np.random.Generator], tuple[Array, float]],
) -> None:
    misses, of_t = 0, 0
    for run in range(500):
        costs, expected = costs_of(np.random.default_rng(run))
        exact = np.zeros((len(costs), 1))
        misses += high(coupling_squared(np.sqrt(costs)[:, None], exact)) < expected
        of_t += high(Term.from_influence("twin", costs.mean(), [costs])) < expected
    assert misses <= at_most(500)
    assert of_t > at_most(500)


def test_a_mean_that_few_draws_carry_certifies_nothing() -> None:
    costs = np.full(1000, 1e-6)
    costs[:3] = 1.0
    assert effective_draws(costs) == pytest.approx(3, rel=1e-2)
    term = coupling_squared(np.sqrt(costs)[:, None], np.zeros((1000, 1)))
    assert high(term) == math.inf
    assert term.value == pytest.approx(0.003, rel=1e-2)
    assert "3 effective of 1000 draws" in term.label
    assert effective_draws(np.full(10, 1e200)) == pytest.approx(10)


def test_equal_costs_are_exact() -> None:
    z = np.arange(12.0).reshape(6, 2)
    assert coupling_squared(z + 1, z).interval(0.95) == (2, 2)
    assert coupling_squared(z, z).interval(0.95) == (0, 0)


# Degenerate input.


def test_a_collapsed_model_and_a_constant_coordinate_have_finite_bounds() -> None:
    y = normal(0, shape=(100, 3)) * [1, 1, 0]
    moments = {"mean": np.zeros(3), "variance": np.array([1.0, 1.0, 0.0])}
    for x in (np.zeros((100, 3)), normal(1, shape=(100, 3)) * [1, 1, 0]):
        collapsed = not x.any()
        for term in lower_certificates(x, y, **moments):
            assert math.isfinite(term.value)
            assert math.isfinite(term.standard_error)
            assert (term.value > 1.5) == collapsed  # W2^2 of a point from it is its variance, 2


def test_single_precision_is_summed_in_double() -> None:
    x, y = (normal(run, shape=(64, 3)).astype(np.float32) for run in (0, 1))
    of_single = lower_certificates(x, y, **standard(3))
    wide = lower_certificates(x.astype(float), y.astype(float), **standard(3))
    assert [t.value for t in of_single] == [t.value for t in wide]


def test_input_that_has_no_answer_is_one_error() -> None:
    x, y = normal(0, shape=(40, 3)), normal(1, shape=(40, 3))
    nan = np.where(np.arange(40)[:, None] < 2, math.nan, x)
    with pytest.raises(InputError, match="got 2 of 40 draws that are not"):
        lower_certificates(nan, y, **standard(3))
    with pytest.raises(InputError, match=r"model must be draws of the target's 2 coordinates"):
        lower_certificates(x, y, **standard(2))
    with pytest.raises(InputError, match="variance must have the shape of mean"):
        mean_and_spread_squared(x, mean=np.zeros(3), variance=np.ones(2))
    with pytest.raises(InputError, match="model must have at least 16 draws, got 1"):
        mean_and_spread_squared(x[:1], **standard(3))
    with pytest.raises(InputError, match="target must have at least 40 draws, got 39"):
        sliced_squared(x, y[:39], mean=np.zeros(3))
    with pytest.raises(InputError, match="model must have the shape of exact"):
        coupling_squared(x, y[:, :2])
    with pytest.raises(InputError, match="exact must be finite"):
        coupling_squared(x, nan)
    with pytest.raises(InputError, match="model must have at least 2 draws"):
        coupling_squared(x[:1], y[:1])


def test_errors_of_an_integrator_do_not_pass_for_a_heavy_tail() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(2000, 8))
    errors = 1e-5 * rng.standard_t(1, size=(2000, 8)).clip(-1e5, 1e5)  # of Cauchy's law
    assert math.isinf(high(coupling_squared(exact + errors, exact)))
    bound = high(coupling_squared(exact + errors, exact, resolution=8e-5))
    assert 8e-5 <= bound < 2e-4
    far = exact + errors
    far[:20] += 1.0  # a hundredth of the draws is elsewhere, by a W2^2 of 8 there
    assert high(coupling_squared(far, exact, resolution=8e-5)) > 0.08
