"""KL of next-scale prediction: determinants, quadrature and enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from networks import TablePredictor, law_of, law_of_run, table
from reference.control import steadied_mean
from reference.groups import covariance_of_groups, law_of_groups
from reference.information import Array, of_blocks, of_gaussian, of_table
from reference.scales import coefficients, sizes
from scipy import integrate, special, stats

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.laws.gaussian import GaussianLaw
from capcheck.probes.length.var import VAR
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.results.survey import CheckResult
from capcheck.targets import GaussianMixture, ProductMixture, Target, from_spec, from_table
from capcheck.targets.conditional import rest_of

ROOT = math.sqrt(0.5)
FOUR = np.array(  # the Haar pyramid of four numbers, by hand
    [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, -0.5, -0.5], [ROOT, -ROOT, 0, 0], [0, 0, ROOT, -ROOT]]
)
SCALES = [[0], [1], [2, 3]]


def blocks_at(length: int, scales: Sequence[Sequence[int]]) -> list[list[int]]:
    """The scales that fit into the length, and all other tokens together."""
    fit: list[list[int]] = []
    for scale in scales:
        if sum(map(len, fit)) + len(scale) > length:
            break
        fit.append(list(scale))
    rest = set(itertools.chain(*scales)) - set(itertools.chain(*fit))
    return [*fit, sorted(rest)]


def measured(target: Target, **options: str) -> CheckResult:
    return check(
        "var", target, options=options, lengths=range(target.spec.tokens + 1), steps=[1],
        samples=400, divergences=["kl"],
    )  # fmt: skip


def kl_at(found: CheckResult, length: int) -> Any:
    return found.cell(Budget(length=length, steps=1)).estimates["kl"].value


@pytest.mark.parametrize("rho", [0.9, -0.5])
@pytest.mark.parametrize("pyramid", ["haar", "interlaced"])
def test_on_an_autoregression_kl_is_that_of_determinants(rho: float, pyramid: str) -> None:
    target = from_spec(f"gaussian:ar1,tokens=4,std=2,rho={rho}")
    C = 4 * rho ** np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    C = FOUR @ C @ FOUR.T if pyramid == "haar" else C
    scales = SCALES if pyramid == "haar" else [[0], [2], [1, 3]]
    found = measured(target, pyramid=pyramid)
    for length in range(5):
        expected = of_blocks(of_gaussian(C), blocks_at(length, scales))
        assert kl_at(found, length) == pytest.approx(expected, abs=1e-9), length
    assert kl_at(found, 0) > 0.05
    # Two coefficients that differ in place only are still correlated given the coarser ones; the
    # tokens beside the middle one of a Markov chain are not.
    assert (kl_at(found, 4) > 1e-4) == (pyramid == "haar")


def test_the_pyramid_of_a_grid_has_square_scales() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    C = root @ root.T + np.eye(4)
    target = GaussianMixture(torch.zeros(1, 4, 1).double(), torch.tensor(C)[None], grid=(2, 2))
    H = 0.5 * np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    found = measured(target)
    for length in range(5):
        expected = of_blocks(of_gaussian(H @ C @ H.T), blocks_at(length, [[0], [1, 2, 3]]))
        assert kl_at(found, length) == pytest.approx(expected, abs=1e-9)
    as_a_row = of_blocks(of_gaussian(FOUR @ C @ FOUR.T), SCALES)
    assert abs(kl_at(found, 4) - as_a_row) > 0.01


def test_coordinates_of_a_token_are_transformed_each_by_itself() -> None:
    rng = np.random.default_rng(3)
    root = rng.normal(size=(8, 8))
    C = root @ root.T + np.eye(8)
    target = GaussianMixture(torch.zeros(1, 4, 2).double(), torch.tensor(C)[None])
    H = np.kron(FOUR, np.eye(2))
    entropy = of_gaussian(H @ C @ H.T)

    def of_tokens(tokens: Any) -> float:
        return entropy([2 * i + j for i in tokens for j in (0, 1)])

    found = measured(target)
    for length in range(5):
        expected = of_blocks(of_tokens, blocks_at(length, SCALES))
        assert kl_at(found, length) == pytest.approx(expected, abs=1e-9)


def uneven() -> ProductMixture:
    """Four tokens of unequal bandwidths."""
    means = np.random.default_rng(5).normal(size=(3, 4, 1)) * 2
    scales = torch.tensor([[0.3], [1.0], [0.6], [2.0]], dtype=torch.float64)
    return ProductMixture(
        torch.tensor(means), scales, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    )


def log_normals(c: Array, means: Array, weights: Array, tokens: Sequence[int]) -> Array:
    """Log-density of some coefficients (n, D) of sum_k w_k N(means_k, 1): (n,)."""
    at = list(tokens)
    square = (c[:, None, at] - means[None][..., at]) ** 2 + math.log(2 * math.pi)
    found: Array = special.logsumexp(-0.5 * square.sum(2), b=weights, axis=1)
    return found


@pytest.mark.parametrize("length", [0, 2, 4])
def test_tokens_of_unequal_bandwidths_are_divided_by_them_first(length: int) -> None:
    target = uneven()
    x = target.sample(400, CounterRandomness(0, name="target"))[..., 0].numpy()
    u = np.array([0.3, 1.0, 0.6, 2.0])
    c, means = x / u @ FOUR.T, target.means[..., 0].numpy() / u @ FOUR.T
    weights = np.array([0.5, 0.3, 0.2])
    log_p = log_normals(c, means, weights, range(4))
    known: list[int] = []
    log_q = np.zeros(400)
    for block in blocks_at(length, SCALES):
        past = log_normals(c, means, weights, known)
        log_q += sum((log_normals(c, means, weights, [*known, i]) - past for i in block), 0 * past)
        known += block
    found = kl_at(measured(target), length)
    centre = weights @ target.means[..., 0].numpy()
    residual = target.means[..., 0].numpy() - centre
    moments = centre, residual.T @ (weights[:, None] * residual) + np.diag(u**2)
    assert found == pytest.approx(steadied_mean(log_p - log_q, x, moments), abs=1e-9)
    assert found > 0.001


def test_unequal_bandwidths_by_quadrature() -> None:
    # KL(0) of two tokens is the mutual information of (y_1 + y_2, y_1 - y_2) / sqrt 2, y = x / u.
    mu, u, weights = (
        np.array([[1.0, -1.0], [-0.5, 3.0]]),
        np.array([0.5, 2.0]),
        np.array([0.4, 0.6]),
    )
    target = ProductMixture(
        torch.tensor(mu)[..., None], torch.tensor(u)[:, None], torch.tensor(weights)
    )
    H = ROOT * np.array([[1, 1], [1, -1]])
    found = check("var", target, lengths=[0, 1, 2], steps=[1], samples=4000, divergences=["kl"])
    exact = mutual_information(mu / u @ H.T, np.eye(2), weights)
    without = mutual_information(mu @ H.T, H @ np.diag(u**2) @ H.T, weights)
    estimate = found.cells[0].estimates["kl"]
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    width = estimate.high - estimate.low
    assert abs(estimate.value - exact) < 2 * width
    assert abs(without - exact) > 5 * width
    for cell in found.cells[1:]:
        assert cell.estimates["kl"].value == pytest.approx(0, abs=1e-12)


def mutual_information(means: Array, covariance: Array, weights: Array) -> float:
    """I(c_1; c_2) of sum_k w_k N(means_k, covariance), by Simpson's rule on a grid."""
    s = np.sqrt(np.diag(covariance))
    axes = [
        np.linspace(means[:, j].min() - 8 * s[j], means[:, j].max() + 8 * s[j], 801) for j in (0, 1)
    ]
    c = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    r = c[:, :, None] - means  # (801, 801, K, 2)
    square = np.einsum("abki,ij,abkj->abk", r, np.linalg.inv(covariance), r)
    p = np.exp(-0.5 * square) @ weights / (2 * math.pi * math.sqrt(np.linalg.det(covariance)))
    one = integrate.simpson(p, x=axes[1], axis=1)
    two = integrate.simpson(p, x=axes[0], axis=0)
    integrand = special.xlogy(p, p) - special.xlogy(p, one[:, None] * two)
    return float(integrate.simpson(integrate.simpson(integrand, x=axes[1]), x=axes[0]))


@pytest.mark.parametrize(
    ("grid", "scales"), [(None, [[0], [2], [1, 3]]), ((2, 2), [[0], [1, 2, 3]])]
)
def test_ids_come_in_interlaced_subsets(
    grid: tuple[int, int] | None, scales: list[list[int]]
) -> None:
    p = np.random.default_rng(0).random((3, 3, 3, 3)) ** 3
    p /= p.sum()
    found = measured(from_table(torch.tensor(p), grid=grid))
    for length in range(5):
        expected = of_blocks(of_table(p), blocks_at(length, scales))
        assert kl_at(found, length) == pytest.approx(expected, abs=1e-9)
    left_to_right = of_blocks(of_table(p), blocks_at(2, [[0], [1], [2, 3]]))
    assert abs(kl_at(found, 2) - left_to_right) > 0.01


def placed(probe: AnyProbe, target: Target, length: int) -> list[int]:
    """Tokens placed in each state of a run."""
    budget = Budget(length=length, steps=1)
    states = Procedure.of(probe, target).run(budget, 3, CounterRandomness(0))
    return [int(state.placed[0].sum()) for state in states]


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, [0]), (1, [0, 1]), (3, [0, 1, 2]), (7, [0, 1, 2, 4]), (8, [0, 1, 2, 4, 8])],
)
def test_a_scale_that_does_not_fit_is_left_out(length: int, expected: list[int]) -> None:
    assert placed(VAR(), from_spec("gaussian:ar1,tokens=8"), length) == expected


@pytest.mark.parametrize(
    ("target", "pyramid", "expected"),
    [
        ("modes:tokens=6", "haar", [0, 1, 2, 3, 6]),  # 6 is no power of two: 0, 4, 2, then odd
        ("copy:tokens=8", "haar", [0, 1, 2, 4, 8]),
        ("modes:tokens=1", "haar", [0, 1]),
        ("modes:tokens=8", "interlaced", [0, 1, 2, 4, 8]),
    ],
)
def test_what_has_no_pyramid_takes_subsets(target: str, pyramid: str, expected: list[int]) -> None:
    law = from_spec(target)
    probe = build_probe("var", {"pyramid": pyramid})
    assert placed(probe, law, law.spec.tokens) == expected
    assert (probe.basis(law.spec) is None) == (target != "modes:tokens=1")


def test_the_suspect_is_exact() -> None:
    (suspect,) = VAR().suspects()
    assert suspect.failure == "wrong factorisation"
    target = from_spec("gaussian:ar1,tokens=4")
    for given in ((), (3,)):
        length = 4 - len(given)
        found = check(suspect.probe, target, given=given, lengths=[length], steps=[1], samples=200)
        assert found.cells[0].estimates["kl"].value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        ((0,), [([2], [0]), ([1, 3], [0, 2])]),
        ((3,), [([0], [3]), ([2], [0, 3]), ([1], [0, 2, 3])]),
        ((0, 2), [([1, 3], [0, 2])]),
    ],
)
def test_beside_given_tokens_a_wrong_network_makes_the_law_written_out(
    given: tuple[int, ...], groups: list[tuple[list[int], list[int]]]
) -> None:
    p, q = table(4, 3), table(4, 3, seed=1)
    procedure = Procedure.of(VAR(), from_table(torch.tensor(p)), given=given).with_network(
        TablePredictor(q)
    )
    for length in range(5 - len(given)):
        ends = itertools.accumulate(len(tokens) for tokens, _ in groups)
        fit = [group for group, end in zip(groups, ends, strict=True) if end <= length]
        expected, budget = law_of_groups(p, q, given, fit), Budget(length=length, steps=1)
        assert np.abs(law_of(procedure, budget, "density") - expected).max() < 1e-12
        assert np.abs(law_of_run(procedure, budget, p) - expected).max() < 1e-12
    assert np.abs(expected - law_of_groups(p, p, given, groups)).max() > 1e-3


def test_numbers_beside_given_ones_come_in_interlaced_subsets() -> None:
    C, Q = (r ** np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0))) for r in (0.8, -0.5))
    target, other = (
        GaussianMixture(torch.zeros(1, 4, 1).double(), torch.tensor(S)[None]) for S in (C, Q)
    )
    plain = Procedure.of(VAR(), target, given=(1,))
    procedure = plain.with_network(plain.probe.signature.oracle(other))
    law = procedure.exact_law(Budget(length=2, steps=1))
    assert isinstance(law, GaussianLaw)
    expected = covariance_of_groups(C, Q, (1,), [([0], [1]), ([2], [0, 1])])
    assert np.allclose(law.covariance, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - C).max() > 1e-2


PUBLISHED = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # for 16 x 16 tokens


def consecutive(counts: Sequence[int]) -> list[list[int]]:
    """Scales of such sizes, in the order of their coefficients."""
    ends = np.cumsum([0, *counts]).tolist()
    return [list(range(a, b)) for a, b in itertools.pairwise(ends)]


def written(scales: Sequence[int]) -> str:
    return "/".join(map(str, scales))


def covariance(procedure: Procedure[Any], length: int) -> Array:
    """The covariance of what a procedure makes of a Gaussian."""
    law = procedure.exact_law(Budget(length=length, steps=1))
    assert isinstance(law, GaussianLaw)
    found: Array = law.covariance.numpy()
    return found


def kl_of_gaussians(C: Array, Q: Array) -> float:
    """KL of N(0, C) from N(0, Q)."""
    ratio = np.linalg.solve(Q, C)
    return float(0.5 * (np.trace(ratio) - len(C) - np.linalg.slogdet(ratio)[1]))


@pytest.mark.parametrize("scales", [(1, 2, 3, 6), (1, 4, 6), (6,)])
def test_on_an_autoregression_kl_of_listed_scales_is_that_of_determinants(
    scales: tuple[int, ...],
) -> None:
    C = 4 * 0.8 ** np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    H, blocks = coefficients(1, 6, scales), consecutive(sizes(1, 6, scales))
    target = from_spec("gaussian:ar1,tokens=6,std=2,rho=0.8")
    procedure = Procedure.of(VAR(scales=scales), target)
    for length in range(7):
        expected = of_blocks(of_gaussian(H @ C @ H.T), blocks_at(length, blocks))
        found = kl_of_gaussians(C, covariance(procedure, length))
        assert found == pytest.approx(expected, abs=1e-9), length
    assert found > 0.001


def test_listed_scales_of_a_grid_of_vectors() -> None:
    root = np.random.default_rng(1).normal(size=(12, 12))
    C = root @ root.T + np.eye(12)
    target = GaussianMixture(torch.zeros(1, 6, 2).double(), torch.tensor(C)[None], grid=(2, 3))
    H = np.kron(coefficients(2, 3, (1, 2, 3)), np.eye(2))
    entropy = of_gaussian(H @ C @ H.T)

    def of_tokens(tokens: Any) -> float:
        return entropy([2 * i + j for i in tokens for j in (0, 1)])

    found = measured(target, scales="1/2/3")  # 1 x 1, 1 x 2 and 2 x 3 cells
    for length in range(7):
        expected = of_blocks(of_tokens, blocks_at(length, [[0], [1], [2, 3, 4, 5]]))
        assert kl_at(found, length) == pytest.approx(expected, abs=1e-9)


def test_the_published_scales_run_on_16_by_16_numbers() -> None:
    places = np.array(list(itertools.product(range(16), range(16))))
    C = 0.9 ** np.abs(places[:, None] - places).sum(2)
    target = GaussianMixture(torch.zeros(1, 256, 1).double(), torch.tensor(C)[None], grid=(16, 16))
    procedure = Procedure.of(build_probe("var", {"scales": written(PUBLISHED)}), target)
    budget = Budget(length=256, steps=1)
    counts = [count for count in sizes(16, 16, PUBLISHED) if count > 0]
    placed = [int(s.placed[0].sum()) for s in procedure.run(budget, 3, CounterRandomness(0))]
    assert np.diff(placed).tolist() == counts
    # The law of the result: coefficients c of a scale keep their variances given the coarser ones.
    basis = procedure.coordinates.basis
    assert basis is not None
    S = basis.numpy() @ C @ basis.numpy().T
    expected = 0.0
    for block in consecutive(counts):
        past = range(block[0])
        cross = S[np.ix_(past, block)]
        explained = cross.T @ np.linalg.solve(S[np.ix_(past, past)], cross)
        rest = S[np.ix_(block, block)] - explained
        expected += 0.5 * (np.log(np.diag(rest)).sum() - np.linalg.slogdet(rest)[1])
    Q = covariance(procedure, 256)
    assert kl_of_gaussians(C, Q) == pytest.approx(expected, rel=1e-9)
    x = target.sample(50, CounterRandomness(1))
    found = procedure.log_density(budget, x, CounterRandomness(2))
    assert isinstance(found, LogDensity)
    exact = stats.multivariate_normal(np.zeros(256), Q).logpdf(x[..., 0].numpy())
    assert np.allclose(found.values, exact, rtol=1e-9)


@pytest.mark.parametrize(("grid", "scales"), [(None, (1, 2, 4)), ((2, 2), (1, 2))])
def test_powers_of_two_as_a_list_are_the_default_of_numbers(
    grid: tuple[int, int] | None, scales: tuple[int, ...]
) -> None:
    root = np.random.default_rng(0).normal(size=(4, 4))
    C = root @ root.T + np.eye(4)
    target = GaussianMixture(torch.zeros(1, 4, 1).double(), torch.tensor(C)[None], grid=grid)
    listed, default = (Procedure.of(probe, target) for probe in (VAR(scales=scales), VAR()))
    for length in range(5):
        found = covariance(listed, length)
        assert np.allclose(found, covariance(default, length), rtol=0, atol=1e-12)
    assert kl_of_gaussians(C, found) > 0.01


@pytest.mark.parametrize(
    ("grid", "scales", "groups"),
    [
        (None, "1/3/4", [[2], [0, 3], [1]]),  # centres in 2; 0, 2, 3; all
        ((2, 2), "1/2", [[3], [0, 1, 2]]),
        (None, "2/4", [[1, 3], [0, 2]]),
    ],
)
def test_ids_come_at_the_centres_of_listed_scales(
    grid: tuple[int, int] | None, scales: str, groups: list[list[int]]
) -> None:
    p = np.random.default_rng(0).random((3, 3, 3, 3)) ** 3
    p /= p.sum()
    target = from_table(torch.tensor(p), grid=grid)
    listed, default = (
        Procedure.of(build_probe("var", options), target) for options in ({"scales": scales}, {})
    )
    for length in range(5):
        q = law_of(listed, Budget(length=length, steps=1), "density")
        expected = of_blocks(of_table(p), blocks_at(length, groups))
        assert (p * np.log(p / q)).sum() == pytest.approx(expected, abs=1e-9)
    assert np.abs(q - law_of(default, Budget(length=4, steps=1), "density")).max() > 1e-3


def test_numbers_come_at_the_centres_of_listed_scales_where_subsets_are_asked_for() -> None:
    C = 0.8 ** np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    target = from_spec("gaussian:ar1,tokens=6,rho=0.8")
    procedure = Procedure.of(VAR(scales=(1, 3, 6), pyramid="interlaced"), target)
    for length in range(7):
        expected = of_blocks(of_gaussian(C), blocks_at(length, [[3], [1, 5], [0, 2, 4]]))
        found = kl_of_gaussians(C, covariance(procedure, length))
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("given", "groups"),
    [((2,), [([0, 3], [2]), ([1], [0, 2, 3])]), ((0, 1), [([2], [0, 1]), ([3], [0, 1, 2])])],
)
def test_beside_given_tokens_listed_scales_place_the_others(
    given: tuple[int, ...], groups: list[tuple[list[int], list[int]]]
) -> None:
    p = table(4, 3)
    probe, budget = VAR(scales=(1, 3, 4)), Budget(length=4 - len(given), steps=1)
    ids = Procedure.of(probe, from_table(torch.tensor(p)), given=given)
    expected = law_of_groups(p, p, given, groups)
    assert np.abs(law_of(ids, budget, "density") - expected).max() < 1e-12
    C = 0.8 ** np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    numbers = Procedure.of(probe, from_spec("gaussian:ar1,tokens=4,rho=0.8"), given=given)
    expected = covariance_of_groups(C, C, given, groups)
    assert np.allclose(covariance(numbers, budget.length), expected, rtol=0, atol=1e-9)


def test_parts_of_a_grid_take_the_centres_of_the_smallest_grid_that_holds_them() -> None:
    whole = from_table(torch.tensor(table(6, 2)), grid=(2, 3))
    spec = rest_of(whole.spec, (0, 3))  # a column is given: places (r, 1) and (r, 2)
    probe = VAR(scales=(1, 2, 3))
    assert probe.basis(spec) is None
    assert probe.subsets(spec) == [[2], [3], [0, 1]]  # 1 x 1, 1 x 2 and 2 x 3 cells of 2 x 3


def test_one_token_after_another_removes_the_floor_of_listed_scales() -> None:
    target = from_spec("gaussian:ar1,tokens=6")
    probe = VAR(scales=(1, 2, 3, 6))
    found = check(probe, target, lengths=[6], steps=[1], samples=200, divergences=["kl"])
    assert found.cells[0].estimates["kl"].value > 0.01  # type: ignore[operator]
    (suspect,) = probe.suspects()
    cured = check(suspect.probe, target, lengths=[6], steps=[1], samples=200, divergences=["kl"])
    assert cured.cells[0].estimates["kl"].value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("scales", ["1/3/2", "1/1/2", "0/2", "1/2.5", "1/a", "", ()])
def test_scales_that_do_not_rise_are_refused(scales: str | tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"^var\.scales: .*, got .*; see `capcheck families var`"):
        build_probe("var", {"scales": scales})


@pytest.mark.parametrize("target", ["gaussian:ar1,tokens=6", "copy:tokens=6"])
@pytest.mark.parametrize("scales", ["1/2/4", "1/8"])
def test_a_list_must_end_with_the_longer_side(target: str, scales: str) -> None:
    probe = build_probe("var", {"scales": scales})
    with pytest.raises(UnfitError, match=f"end with 6, .* 1 x 6 tokens, got {scales}; change"):
        Procedure.of(probe, from_spec(target))


def test_none_are_the_powers_of_two() -> None:
    assert build_probe("var", {"scales": "none"}) == VAR()
    assert build_probe("var", {"scales": "1/2/3"}) == VAR(scales=(1, 2, 3))
