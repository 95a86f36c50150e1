from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity

from capcheck.errors import InputError
from capcheck.targets import from_samples
from capcheck.targets.empirical import leave_one_out_bandwidth


def test_the_density_is_that_of_scikit_learn(rows: np.ndarray) -> None:
    target = from_samples(rows, bandwidth=0.4)
    deviation = rows.std(0)
    kde = KernelDensity(bandwidth=0.4).fit(rows / deviation)
    x = np.random.default_rng(1).normal(size=(20, 4))
    expected = kde.score_samples(x / deviation) - np.log(deviation).sum()
    assert target.log_prob(torch.tensor(x)[..., None]).tolist() == pytest.approx(expected.tolist())


def test_the_bandwidth_maximises_scikit_learns_leave_one_out_score(rows: np.ndarray) -> None:
    scaled = rows / rows.std(0)

    def score(h: float) -> float:
        left_out = [
            KernelDensity(bandwidth=h).fit(np.delete(scaled, r, 0)).score_samples(scaled[[r]])[0]
            for r in range(len(scaled))
        ]
        return float(np.mean(left_out))

    best = leave_one_out_bandwidth(rows[..., None], np.ones(len(rows)))
    assert score(best) > max(score(0.93 * best), score(1.07 * best))


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


def test_constant_columns_and_single_rows_stay_finite(rows: np.ndarray) -> None:
    constant = rows.copy()
    constant[:, 2] = 7.0
    target = from_samples(constant)
    assert bool(target.log_prob(torch.tensor(constant)[..., None]).isfinite().all())
    single = from_samples(rows[:1], bandwidth=0.5)
    assert single.provenance.held_out is None
    assert bool(single.log_prob(torch.tensor(rows)[..., None]).isfinite().all())


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
        (np.ones((4, 3)), "wide", "bandwidth must be positive.*got 'wide'"),
        (np.ones((4, 3)) * 1j, "auto", "must be real numbers, got complex128"),
        (np.array([["a"], ["b"]]), "auto", "must be real numbers"),
        (np.array([[1e120], [2.0]]), "auto", "rescale them"),
    ],
)
def test_bad_samples_are_refused(x: np.ndarray, bandwidth: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_samples(x, bandwidth=bandwidth)
