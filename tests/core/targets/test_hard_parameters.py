"""Parameters at the edge of what a mixture may have: limits, types, gradients, levels, weights.

What is accepted is compared with scipy, or with the same law in ordinary units; what is refused
must say why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from reference.gaussians import Gaussians
from scipy import stats
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.noise.paths import PATHS
from capcheck.targets import (
    CategoricalMixture,
    ContinuousTarget,
    DiagonalMixture,
    GaussianMixture,
)
from capcheck.targets.continuous import gaussian_mixture

WIDE, NARROW = torch.float64, torch.float32
MEANS = torch.tensor([[[0.0], [1.0]], [[2.0], [-1.0]]], dtype=WIDE)  # (2, 2, 1)
SCALES = torch.tensor([[[1.0], [0.5]], [[2.0], [1.5]]], dtype=WIDE)
ROWS = torch.tensor([[0, 1], [1, 0], [2, 2]])
TABLE = torch.tensor([[[0.2, 0.8], [0.5, 0.5]], [[0.9, 0.1], [0.3, 0.7]]], dtype=WIDE)


def diagonal(means: Any = MEANS, scales: Any = SCALES, weights: Any = None) -> DiagonalMixture:
    return DiagonalMixture(means, scales, weights)


def full(means: Any = MEANS, scales: Any = SCALES, weights: Any = None) -> GaussianMixture:
    """Independent coordinates, as full covariances."""
    covariances = scales.square().flatten(1).diag_embed() if isinstance(scales, Tensor) else scales
    return GaussianMixture(means, covariances, weights)


Make = Callable[..., Any]
both = pytest.mark.parametrize("make", [diagonal, full])


def by_scipy(x: Tensor, scale: float, weights: Any = (0.5, 0.5)) -> list[float]:
    """Log-density of `diagonal()` in units of 1 / scale."""
    z = x.numpy()[:, None] / scale
    log_p = stats.norm(MEANS.numpy(), SCALES.numpy()).logpdf(z).sum((2, 3)) - 2 * np.log(scale)
    found: list[float] = np.logaddexp.reduce(log_p + np.log(weights), axis=1).tolist()
    return found


X = torch.tensor([[[0.3], [-0.2]], [[2.0], [1.0]], [[-9.0], [4.0]]], dtype=WIDE)


@both
@pytest.mark.parametrize("scale", [1e-99, 1e-30, 1.0, 1e30, 1e99])
def test_scales_up_to_the_limits_are_the_same_law_in_other_units(make: Make, scale: float) -> None:
    law = make(scale * MEANS, scale * SCALES)
    assert law.log_prob(scale * X).tolist() == pytest.approx(by_scipy(scale * X, scale), rel=1e-12)
    levels = torch.tensor([[0.0, 1.0]], dtype=WIDE).expand(3, 2)
    unit = make().marginals(X, levels)
    found = law.marginals(scale * X, levels)
    assert (found.mean() / scale).numpy() == pytest.approx(unit.mean().numpy(), rel=1e-12)
    spread = found.variance().sqrt() / scale
    assert spread.numpy() == pytest.approx(unit.variance().sqrt().numpy(), rel=1e-12)
    # The twin: the same numbers read in another unit are another law.
    assert make().log_prob(X).tolist() != pytest.approx(by_scipy(X, 1.001), rel=1e-6)


@both
@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1e-155, WIDE), (1e-101, WIDE), (1e101, WIDE), (1e-16, NARROW), (1e16, NARROW)],
)
def test_scales_beyond_the_limits_are_refused(make: Make, scale: float, dtype: torch.dtype) -> None:
    scales = (scale * torch.ones(2, 2, 1, dtype=WIDE)).to(dtype)
    with pytest.raises(InputError, match=r"must be from 1e-\d+ to .* got .*; rescale"):
        make(torch.zeros(2, 2, 1, dtype=dtype), scales)
    make(torch.zeros(2, 2, 1, dtype=dtype), (scales.double() ** 0.5).to(dtype))  # the cure works


@both
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scales_whose_squares_are_0_or_infinite_are_refused(make: Make, scale: float) -> None:
    with pytest.raises(InputError, match="rescale"):
        make(torch.zeros(2, 2, 1, dtype=WIDE), scale * torch.ones(2, 2, 1, dtype=WIDE))


@both
def test_a_law_that_float32_cannot_hold_is_refused_there(make: Make) -> None:
    law = make(1e-20 * MEANS, 1e-20 * SCALES)
    with pytest.raises(InputError, match=r"in torch.float32, got .*; rescale the tokens"):
        law.to(device="cpu", dtype=NARROW)


@both
@pytest.mark.parametrize("size", [1e101, 1e200])
def test_means_whose_squares_overflow_are_refused(make: Make, size: float) -> None:
    with pytest.raises(InputError, match=r"means must be at most 1e\+100 in size"):
        make(size * MEANS)


@both
@pytest.mark.parametrize(
    ("means", "scales", "message"),
    [
        (MEANS.long(), SCALES, "means must be floating-point numbers .* got torch.int64"),
        (MEANS.bool(), SCALES, "means must be floating-point numbers .* got torch.bool"),
        (MEANS.half(), SCALES, "float32 or float64.* got torch.float16"),
        (MEANS.to(torch.complex64), SCALES, "means must be real numbers"),
        (MEANS.tolist(), SCALES, "means must be a tensor, got list"),
        (MEANS[0], SCALES, "shape"),
        (MEANS, SCALES[:1], "shape"),
        (MEANS, SCALES.long(), "must be floating-point numbers .* got torch.int64"),
        (MEANS, SCALES * torch.nan, "must be finite"),
        (MEANS * torch.inf, SCALES, "must be finite"),
        (MEANS, SCALES * 0, "positive"),
    ],
)
def test_parameters_that_are_no_law_are_refused(
    make: Make, means: Any, scales: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(means, scales)


def test_negative_scales_are_refused() -> None:
    with pytest.raises(InputError, match=r"scales must be finite and positive, got -1"):
        diagonal(scales=-SCALES)


WEIGHTED: dict[str, Callable[[Any], Any]] = {
    "diagonal": lambda w: diagonal(weights=w),
    "full": lambda w: full(weights=w),
    "products": lambda w: CategoricalMixture(TABLE, w),
    "rows": lambda w: CategoricalMixture.of_rows(ROWS[:2], weights=w),
}
weighted = pytest.mark.parametrize("make", WEIGHTED.values(), ids=WEIGHTED)


@weighted
@pytest.mark.parametrize(
    "weights",
    [
        torch.tensor([1, 3]),
        torch.tensor([1e-320, 3e-320], dtype=WIDE),
        torch.tensor([5e307, 1.5e308], dtype=WIDE),
        torch.tensor([0.25, 0.75], dtype=WIDE, requires_grad=True),
        torch.tensor([1.0, 3.0]).half(),
    ],
    ids=["integers", "tiny", "huge", "with gradient", "half"],
)
def test_weights_of_any_size_and_type_are_shares(make: Make, weights: Tensor) -> None:
    found = make(weights).weights
    assert found.tolist() == pytest.approx([0.25, 0.75], rel=1e-3)
    assert not found.requires_grad
    assert found.dtype == WIDE


@weighted
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.5], "weights must be a tensor, got list"),
        (torch.tensor([True, False]), "weights must be real numbers, got torch.bool"),
        (torch.tensor([1.0, 1j]), "weights must be real numbers"),
        (torch.tensor([1.0]), r"weights must have shape \(2,\)"),
        (torch.zeros(2), "not all zero"),
        (torch.tensor([2.0, -1.0]), "non-negative"),
        (torch.tensor([1.0, math.nan]), "finite"),
        (torch.tensor([1.0, math.inf]), "finite"),
    ],
)
def test_weights_that_are_no_shares_are_refused(make: Make, weights: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(weights)


@both
def test_parameters_with_gradients_make_the_same_law_without(make: Make) -> None:
    law = make(MEANS.clone().requires_grad_(), SCALES.clone().requires_grad_())
    assert law.fingerprint == make().fingerprint
    assert not law.log_prob(X).requires_grad
    table = CategoricalMixture(TABLE.clone().requires_grad_())
    assert table.fingerprint == CategoricalMixture(TABLE).fingerprint
    assert not table.log_prob(ROWS[:2]).requires_grad


@both
def test_the_precision_of_the_means_is_kept(make: Make) -> None:
    law = make(MEANS.float(), SCALES)  # the scales are in float64
    levels = torch.tensor([0.2, 0.7], dtype=WIDE)
    noisy = law.with_noise(levels, PATHS["cosine"])
    turned = law.transformed(torch.eye(2, dtype=WIDE).flip(0))
    for one in (law, noisy, turned, noisy.with_noise(levels)):
        assert one.dtype == one.spec.mean.dtype == one.spec.variance.dtype == NARROW
        assert one.weights.dtype == NARROW
        assert one.sample(2, CounterRandomness(0)).dtype == NARROW
        assert one.log_prob(X).dtype == one.marginals(X, levels.expand(3, 2)).mean().dtype == NARROW
        assert one.denoise(X, levels.expand(3, 2), PATHS["linear"]).dtype == NARROW
    assert law.to(device="cpu", dtype=WIDE).dtype == WIDE
    wide = make().with_noise(levels, PATHS["cosine"])
    assert noisy.log_prob(X).tolist() == pytest.approx(wide.log_prob(X).tolist(), rel=1e-5)


@both
@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (torch.zeros(1), r"levels must have shape \(2,\), one for each token, got \(1,\)"),
        (torch.zeros(3), "shape"),
        (torch.tensor(0.5), "shape"),
        (torch.zeros(1, 2), "shape"),
        (torch.tensor([-0.1, 0.0]), r"levels must be in \[0, 1\], got -0.1"),
        (torch.tensor([0.0, 1.5]), r"in \[0, 1\], got 1.5"),
        (torch.tensor([0.0, math.nan]), r"in \[0, 1\], got nan"),
        ([0.0, 0.5], "levels must be a tensor, got list"),
        (torch.tensor([0.0, 1j]), "levels must be real numbers"),
    ],
)
def test_levels_that_cannot_be_are_refused(make: Make, levels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make().with_noise(levels)


# Turned laws.


def spread(seed: int, K: int, N: int, d: int) -> tuple[DiagonalMixture, Gaussians]:
    rng = np.random.default_rng(seed)
    means, scales = rng.normal(size=(K, N, d)), rng.uniform(0.3, 2, size=(K, N, d))
    w = rng.dirichlet(np.ones(K))
    target = DiagonalMixture(torch.tensor(means), torch.tensor(scales), torch.tensor(w))
    return target, Gaussians.product(means, scales, w)


def check_turned(target: ContinuousTarget, reference: Gaussians, seed: int) -> None:
    x = reference.draw(20, np.random.default_rng(seed))
    expected = [reference.log_prob(row) for row in x]
    assert target.log_prob(torch.tensor(x)).tolist() == pytest.approx(expected, rel=1e-10)
    assert target.spec.mean.numpy() == pytest.approx(reference.mean())
    assert target.spec.variance.numpy() == pytest.approx(reference.variance())


@pytest.mark.parametrize("seed", range(3))
def test_a_diagonal_mixture_under_a_signed_permutation_is_exact(seed: int) -> None:
    rng, (target, reference) = np.random.default_rng(seed), spread(seed, 3, 2, 2)
    P = np.roll(np.eye(4)[rng.permutation(4)], 1 + seed, 0) * rng.choice([-1.0, 1.0], size=(4, 1))
    turned = target.transformed(torch.tensor(P))
    check_turned(turned, reference.transformed(P), seed)
    # Its scales move with the coordinates: left where they were, it is another law.
    unmoved = DiagonalMixture(turned.means, target.scales, target.weights)
    with pytest.raises(AssertionError):
        check_turned(unmoved, reference.transformed(P), seed)


def test_coordinates_of_one_scale_may_be_turned_into_each_other() -> None:
    # Coordinates 1 and 3 have one scale in every component, 2 and 4 have others.
    rng = np.random.default_rng(0)
    means, scales = rng.normal(size=(3, 4, 1)), rng.uniform(0.3, 2, size=(3, 4, 1))
    scales[:, 2] = scales[:, 0]
    target = DiagonalMixture(torch.tensor(means), torch.tensor(scales))
    c, s = math.cos(0.7), math.sin(0.7)
    M = np.array([[c, 0, -s, 0], [0, 0, 0, 1], [s, 0, c, 0], [0, -1, 0, 0.0]])
    reference = Gaussians.product(means, scales).transformed(M)
    check_turned(target.transformed(torch.tensor(M)), reference, 1)
    with pytest.raises(InputError, match="matrix must be a tensor, got list"):
        target.transformed(M.tolist())


def test_coordinates_of_different_scales_that_are_mixed_have_covariances() -> None:
    target, reference = spread(5, 2, 3, 1)
    Q = stats.ortho_group.rvs(3, random_state=0)
    turned = target.transformed(torch.tensor(Q))
    assert isinstance(turned, GaussianMixture)
    check_turned(turned, reference.transformed(Q), 6)


# Covariances that are nearly singular.


def nearly_singular(seed: int, dtype: torch.dtype) -> Tensor:
    rng = np.random.default_rng(seed)
    D = int(rng.integers(3, 9))
    Q = np.linalg.qr(rng.normal(size=(D, D)))[0]
    C = (Q * 10.0 ** -rng.uniform(0, 10 if dtype == NARROW else 20, size=D)) @ Q.T
    s = 10.0 ** rng.uniform(-3, 3, size=D)
    return torch.tensor(0.5 * (C + C.T) * np.outer(s, s), dtype=dtype)[None]


def used(covariance: Tensor, seed: int) -> bool:
    """Whether such a law is accepted; if so, everything that factorises it works."""
    D, dtype = covariance.shape[1], covariance.dtype
    try:
        law = GaussianMixture(torch.zeros(1, D, 1, dtype=dtype), covariance)
    except InputError:
        return False
    rng = np.random.default_rng(seed)
    x = law.sample(4, CounterRandomness(seed))
    assert bool(law.log_prob(x).isfinite().all())
    t = torch.tensor(10.0 ** rng.uniform(-12, 0, size=(4, D)), dtype=dtype)
    t[0], t[1] = 0, t[1, 0]
    for causal in (False, True):
        variance = law.marginals(x, t, PATHS["cosine"], causal).variance()
        assert bool((variance.isfinite() & (variance >= 0)).all())
        assert bool(law.denoise(x, t, PATHS["cosine"], causal=causal).isfinite().all())
    return True


@pytest.mark.parametrize("dtype", [WIDE, NARROW])
def test_a_covariance_that_is_accepted_never_fails_later(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accepted() -> int:
        return sum(used(nearly_singular(seed, dtype), seed) for seed in range(250))

    assert 50 < accepted() < 200  # both kinds are there
    # Without a margin some are accepted that rounding takes away.
    monkeypatch.setattr(gaussian_mixture, "ROUNDINGS", 0)
    with pytest.raises((RuntimeError, AssertionError)):
        accepted()


# Categorical parameters.


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64],
)
def test_rows_of_any_integer_type_are_the_same_law(dtype: torch.dtype) -> None:
    expected = CategoricalMixture.of_rows(ROWS, smoothing=0.2)
    found = CategoricalMixture.of_rows(ROWS.to(dtype), smoothing=0.2)
    assert found.fingerprint == expected.fingerprint
    assert found.log_prob(ROWS).tolist() == expected.log_prob(ROWS).tolist()


def test_narrow_integers_are_looked_up_like_wide_ones() -> None:
    target = CategoricalMixture.of_rows(ROWS, smoothing=0.2)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        x, t = ROWS.to(dtype), torch.tensor([[0.0, 1.0]]).expand(3, 2)
        assert torch.equal(target.log_prob(x), target.log_prob(ROWS))
        assert torch.equal(target.kernel_mean(x, 1.0), target.kernel_mean(ROWS, 1.0))
        assert torch.equal(target.marginals(x, t).mean(), target.marginals(ROWS, t).mean())


def test_marginals_are_normalised_laws() -> None:
    # p(x) = 1/3 sum_c prod_i (0.7 [x_i = c_i] + 0.3 m_i(x_i)); the given m sum to 1.00005.
    m = np.array([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2]])
    target = CategoricalMixture.of_rows(ROWS, smoothing=0.3, marginals=torch.tensor(1.00005 * m))
    every = np.array([[a, b] for a in range(3) for b in range(3)])
    expected = np.mean(
        [(0.7 * (every == row) + 0.3 * m[[0, 1], every]).prod(1) for row in ROWS.numpy()], 0
    )
    found = target.log_prob(torch.tensor(every)).exp()
    assert found.numpy() == pytest.approx(expected, rel=1e-12)
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)


THIRD = torch.full((2, 3), 1 / 3, dtype=WIDE)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"marginals": torch.ones(2, 3)}, "marginals must sum to 1 .* off by 2; normalise them"),
        ({"marginals": torch.tensor([[2.0, -1, 0]] * 2)}, "not negative, got -1"),
        ({"marginals": THIRD * math.nan}, "marginals must be finite .* got nan"),
        ({"marginals": THIRD[0]}, r"marginals must have shape \(2, 3\)"),
        ({"marginals": THIRD.tolist()}, "marginals must be a tensor, got list"),
        ({"vocabulary": 0}, "vocabulary must be a whole number of at least 1, got 0"),
        ({"vocabulary": 2}, "below the vocabulary 2, got 2; give a larger vocabulary"),
        ({"vocabulary": 4.0}, "vocabulary must be a whole number of at least 1, got 4.0"),
        ({"vocabulary": True}, "vocabulary must be a whole number"),
        ({"vocabulary": 10**12}, "symbols x tokens must be at most 1048576, got 1000000000000 x 2"),
        ({"smoothing": True}, "smoothing must be at least 0 and below 1, got True"),
        ({"smoothing": False}, "got False"),
        ({"smoothing": "some"}, "got 'some'"),
        ({"smoothing": math.nan}, "got nan"),
        ({"dtype": torch.float16}, "dtype must be float32 or float64, got torch.float16"),
        ({"dtype": torch.int64}, "dtype must be float32 or float64, got torch.int64"),
    ],
)
def test_facts_about_rows_that_cannot_be_are_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CategoricalMixture.of_rows(ROWS, **facts)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.bool(), "rows must be integers .* got torch.bool .* convert token ids to int64"),
        (ROWS.double(), "rows must be integers"),
        (ROWS - 1, "at least 0, got -1; shift them"),
        (ROWS[:0], "none of them 0"),
        (ROWS.tolist(), "rows must be a tensor, got list"),
    ],
)
def test_rows_that_are_no_ids_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CategoricalMixture.of_rows(rows)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE[..., :0], "none of them 0"),
        (TABLE.half(), "float32 or float64"),
        (TABLE.long(), "floating-point"),
        (2 * TABLE, "probabilities must sum to 1 .* off by 1; normalise them"),
        (TABLE - 0.3, "not negative, got -0.1"),
        (TABLE * math.nan, "got nan"),
        (TABLE.tolist(), "probabilities must be a tensor"),
    ],
)
def test_probabilities_that_are_no_laws_are_refused(table: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CategoricalMixture(table)
