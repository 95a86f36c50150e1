from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import KernelDensity

from capcheck.core.errors import InputError
from capcheck.targets import ProductMixture, from_samples
from capcheck.targets.from_data import empirical


def test_the_density_is_that_of_scikit_learn(rows: np.ndarray) -> None:
    target = from_samples(rows, bandwidth=0.4)
    deviation = rows.std(0)
    kde = KernelDensity(bandwidth=0.4).fit(rows / deviation)
    x = np.random.default_rng(1).normal(size=(20, 4))
    expected = kde.score_samples(x / deviation) - np.log(deviation).sum()
    assert target.log_prob(torch.tensor(x)[..., None]).tolist() == pytest.approx(expected.tolist())


def test_copies_of_a_row_do_not_shrink_the_bandwidth(rows: np.ndarray) -> None:
    once = from_samples(rows)
    twice = from_samples(np.concatenate([rows, rows]))
    assert twice.provenance.bandwidth == pytest.approx(once.provenance.bandwidth)
    x = torch.tensor(rows[:5])[..., None]
    assert twice.log_prob(x).tolist() == pytest.approx(once.log_prob(x).tolist())


def test_weights_count_like_copies(rows: np.ndarray) -> None:
    weights = np.ones(60)
    weights[0], weights[1] = 3, 0
    copies = np.concatenate([rows[[0]], rows[[0]], rows[[0]], rows[2:]])
    a, b = from_samples(rows, weights=weights, bandwidth=0.5), from_samples(copies, bandwidth=0.5)
    x = torch.tensor(rows[:5])[..., None]
    assert a.log_prob(x).tolist() == pytest.approx(b.log_prob(x).tolist())


def test_a_target_that_memorises_is_seen(rows: np.ndarray) -> None:
    honest = from_samples(rows).provenance.held_out
    memorising = from_samples(rows, bandwidth=1e-2).provenance.held_out
    assert honest is not None
    assert memorising is not None
    assert memorising.memorises
    assert memorising.in_sample > honest.in_sample
    assert memorising.log_likelihood < memorising.baseline


def test_structure_that_a_gaussian_misses_is_not_called_memorising(rows: np.ndarray) -> None:
    modes = np.concatenate([rows * 0.1 - 2, rows * 0.1 + 2, rows * 0.1 + [2, -2, 2, -2]])
    held_out = from_samples(modes).provenance.held_out
    assert held_out is not None
    assert not held_out.memorises


def test_constant_columns_and_single_rows_are_smoothed_like_others(rows: np.ndarray) -> None:
    constant = rows.copy()
    constant[:, 2] = 7.0
    target = from_samples(constant)
    assert isinstance(target, ProductMixture)
    scales = target.scales.flatten().numpy()
    deviations = constant.std(0)
    h = scales[0] / deviations[0]
    assert scales[[1, 3]].tolist() == pytest.approx((h * deviations[[1, 3]]).tolist())
    assert scales[2] == min(scales[[0, 1, 3]])  # as narrow as the narrowest that varies
    kernels = stats.norm(constant, scales).logpdf(constant[:, None]).sum(2)
    expected = np.logaddexp.reduce(kernels, axis=1) - math.log(len(constant))
    found = target.log_prob(torch.tensor(constant)[..., None])
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    single = from_samples(rows[:1], bandwidth=0.5)
    assert single.provenance.held_out is None
    expected = stats.norm(rows[0], 0.5).logpdf(rows).sum(1)
    found = single.log_prob(torch.tensor(rows)[..., None])
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_the_held_out_score_says_how_many_rows_it_is_from(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(empirical, "queries", lambda _: 5)
    held_out = from_samples(rows, bandwidth=0.5).provenance.held_out
    assert held_out is not None
    assert held_out.rows == 5  # of the 12 that a fifth of 60 is
    order = np.random.default_rng(0).permutation(60)
    train, deviation = rows[order[12:]], rows[order[12:]].std(0)
    kde = KernelDensity(bandwidth=0.5).fit(train / deviation)

    def score(x: np.ndarray) -> float:
        return float((kde.score_samples(x / deviation) - np.log(deviation).sum()).mean())

    assert held_out.log_likelihood == pytest.approx(score(rows[order[:5]]))
    assert held_out.log_likelihood != pytest.approx(score(rows[order[:12]]))
    assert held_out.in_sample == pytest.approx(score(train[:5]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distinct_rows_are_those_that_sorting_finds(dtype: type) -> None:
    rng = np.random.default_rng(0)
    rows: np.ndarray = rng.choice([-1.5, -0.0, 0.0, 1e-30], size=(500, 2, 2)).astype(dtype)
    weights = rng.choice([0.0, 1.0, 2.5], 500)
    found, summed = empirical._distinct(rows, weights)
    kept = weights > 0
    expected, inverse = np.unique(rows[kept].reshape(-1, 4), axis=0, return_inverse=True)
    order = np.lexsort((found.reshape(-1, 4) + 0.0).T[::-1])
    assert np.array_equal(found.reshape(-1, 4)[order], expected)
    assert summed[order] == pytest.approx(np.bincount(inverse.ravel(), weights=weights[kept]))
    assert len({row.tobytes() for row in rows[kept]}) > len(found)  # zeros have two signs


def test_float32_rows_are_kept_and_computed_with_in_float64(rows: np.ndarray) -> None:
    narrow = (100 + rows).astype(np.float32)
    target = from_samples(narrow, bandwidth=0.4)
    assert isinstance(target, ProductMixture)
    assert (target.means.dtype, target.dtype) == (torch.float32, torch.float64)
    deviation = narrow.astype(np.float64).std(0)
    kde = KernelDensity(bandwidth=0.4).fit(narrow / deviation)
    x = 100 + np.random.default_rng(1).normal(size=(20, 4))
    expected = kde.score_samples(x / deviation) - np.log(deviation).sum()
    shown = torch.tensor(x)[..., None]
    assert target.log_prob(shown).tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    single = target.to(device="cpu", dtype=torch.float32).log_prob(shown.float())
    assert single.tolist() != pytest.approx(expected.tolist(), rel=1e-9)


def test_the_target_does_not_change_with_the_array_it_was_made_of(rows: np.ndarray) -> None:
    mine = rows.copy()
    target = from_samples(mine, bandwidth=0.5)
    before = target.fingerprint
    mine[:] = 0
    assert from_samples(rows, bandwidth=0.5).fingerprint == before == target.fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_samples_are_taken(rows: np.ndarray, dtype: torch.dtype) -> None:
    half = torch.tensor(rows).to(dtype)
    target = from_samples(half, bandwidth=0.5)
    assert target.fingerprint == from_samples(half.double(), bandwidth=0.5).fingerprint


@pytest.mark.filterwarnings("ignore:.*prototype stage:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "dense tensor.*got a torch.sparse_coo one"),
        (lambda: torch.ones(3, 2, device="meta"), "dense tensor.*got a meta one"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "got a nested one"),
    ],
)
def test_tensors_without_rows_of_numbers_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_samples(make())


def test_a_smoothing_whose_square_vanishes_is_refused(rows: np.ndarray) -> None:
    tiny = 1e-80 * rows
    found = from_samples(tiny, bandwidth=1e-5).log_prob(torch.tensor(tiny)[..., None])
    # Each row is alone: the peak of its own component, of deviations 1e-85 times those of rows.
    scales = 1e-5 * tiny.std(0)
    expected = -math.log(len(rows)) - np.log(scales).sum() - 2 * math.log(2 * math.pi)
    assert found.tolist() == pytest.approx([expected] * len(rows), abs=1e-3)
    with pytest.raises(InputError, match="bandwidth must be positive, between 1e-05 and"):
        from_samples(tiny, bandwidth=1e-6)  # of which float64 keeps no digit that tells rows apart
    for factor, bandwidth in ((1e-146, 1e-5), (1e80, 1e80)):
        with pytest.raises(InputError, match=r"deviations must be between 1e-150 and 1e\+150"):
            from_samples(factor * rows, bandwidth=bandwidth)


@pytest.mark.parametrize("weights", [np.zeros(60), -np.ones(60), np.full(60, np.nan)])
def test_bad_weights_are_refused(rows: np.ndarray, weights: np.ndarray) -> None:
    with pytest.raises(InputError, match="non-negative and not all 0"):
        from_samples(rows, weights=weights)


@pytest.mark.parametrize(
    ("x", "bandwidth", "message"),
    [
        (np.zeros(5), "auto", "shape"),
        (np.zeros((0, 3)), "auto", "none of them 0"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), "auto", "NaN or infinity in 1 of 2 rows"),
        (np.array([[0.0, np.inf], [1.0, 2.0]]), "auto", "NaN or infinity in 1 of 2 rows"),
        (np.zeros((4, 3)), "auto", "at least 2 distinct rows, got 1"),
        (np.ones((4, 3)), 0.0, "bandwidth must be positive"),
        (np.ones((4, 3)), float("nan"), "bandwidth must be positive"),
        (np.ones((4, 3)), True, "bandwidth must be positive.*got True"),
        (np.ones((4, 3)), 1e-300, r"between 1e-05 and 1e\+100 .*got 1e-300"),
        (np.ones((4, 3)), 1e300, r"between 1e-05 and 1e\+100 .*got 1e\+300"),
        (np.ones((4, 3)), "wide", "bandwidth must be positive.*got 'wide'"),
        (np.ones((4, 3)) * 1j, "auto", "must be real numbers, got complex128"),
        (np.array([["a"], ["b"]]), "auto", "must be real numbers"),
        (np.array([[1e120], [2.0]]), "auto", "rescale them"),
    ],
)
def test_bad_samples_are_refused(x: np.ndarray, bandwidth: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_samples(x, bandwidth=bandwidth)
