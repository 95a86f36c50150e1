"""The permutation test against enumeration of all relabellings, and its level by repetition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics import permutation as permutation_module
from capcheck.diagnostics.permutation import permutation_test
from capcheck.divergences import kernels as kernels_module


def normal(seed: int, shape: tuple[int, ...], name: str = "") -> Tensor:
    return CounterRandomness(seed, name=name).normal(shape)


def u_statistic(z: np.ndarray, first: np.ndarray, bandwidths: tuple[float, ...]) -> float:
    """Mean over the bandwidths of MMD^2 between z[first] and the rest, by scikit-learn."""
    x, y = z[first], z[~first]
    n, m, values = len(x), len(y), []
    for h in bandwidths:
        xx, yy, xy = (rbf_kernel(a, b, gamma=0.5 / h**2) for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m) / (m * (m - 1))
        values.append(within - 2 * xy.mean())
    return float(np.mean(values))


@pytest.mark.parametrize("bandwidths", [(1.0,), (0.7, 2.0)])
def test_relabellings_are_uniform_over_all_of_them(bandwidths: tuple[float, ...]) -> None:
    x, y = normal(0, (3, 2)), normal(1, (4, 2))
    z = torch.cat([x, y]).numpy()
    every = []
    for rows in itertools.combinations(range(7), 3):
        first = np.isin(np.arange(7), rows)
        every.append(u_statistic(z, first, bandwidths))
    found = permutation_test(
        x, y, bandwidths=bandwidths, rng=CounterRandomness(2), permutations=3500
    )
    assert found.statistic == pytest.approx(every[0], abs=1e-13)  # rows 0, 1, 2 come first
    distance = np.abs(found.permuted[:, None] - np.array(every))  # (B, 35)
    assert distance.min(1).max() < 1e-13
    counts = np.bincount(distance.argmin(1), minlength=35)
    assert stats.chisquare(counts).pvalue > 1e-3
    exact = np.mean(np.array(every) >= every[0] - 1e-12)
    assert found.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact / 3500))


@pytest.mark.parametrize(("n", "m"), [(20, 33), (40, 8)])
def test_every_relabelling_is_measured_by_brute_force(
    n: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels_module, "TILE", 16)
    monkeypatch.setattr(permutation_module, "TILE", 16)
    x, y = normal(0, (n, 3)), 1.2 * normal(1, (m, 3))
    rng = CounterRandomness(3)
    found = permutation_test(x, y, bandwidths=(1.5,), rng=rng, permutations=70)
    labels = permutation_module._labels(n, m, 70, CounterRandomness(3).stream("permutations"))
    z = torch.cat([x, y]).numpy()
    expected = [u_statistic(z, column.numpy() == 1, (1.5,)) for column in labels.T]
    assert np.allclose([found.statistic, *found.permuted], expected, rtol=0, atol=1e-13)
    assert len(np.unique(found.permuted)) == 70
    k = int((np.array(expected[1:]) >= expected[0]).sum())
    assert found.p_value == (1 + k) / 71


def p_values(runs: int, shift: float) -> np.ndarray:
    found = []
    for run in range(runs):
        x, y = normal(run, (12, 2), "x"), normal(run, (9, 2), "y") + shift
        rng = CounterRandomness(run)
        found.append(permutation_test(x, y, bandwidths=(1.0,), rng=rng, permutations=99).p_value)
    return np.array(found)


def test_p_values_are_uniform_under_equal_laws_and_small_otherwise() -> None:
    # Under equal laws 100 p is uniform on 1..100; the uniform draw makes it continuous.
    spread = np.random.default_rng(0).random(400) / 100
    assert stats.kstest(p_values(400, 0.0) - spread, "uniform").pvalue > 0.01
    shifted = p_values(50, 2.0)
    assert np.median(shifted) <= 0.02
    assert stats.kstest(shifted - spread[:50], "uniform").pvalue < 1e-6


def test_float32_tiles_measure_many_rows_well_enough() -> None:
    x, y = normal(0, (1100, 4)), normal(1, (1000, 4))
    found = permutation_test(x, y, bandwidths=(2.0,), rng=CounterRandomness(2), permutations=5)
    first = np.arange(2100) < 1100
    expected = u_statistic(torch.cat([x, y]).numpy(), first, (2.0,))
    assert found.statistic == pytest.approx(expected, abs=1e-7)


def test_token_ids_are_tested_too() -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (60, 4)))
    y = torch.from_numpy(np.random.default_rng(1).integers(0, 5, (60, 4)))
    other = y.clone()
    other[:, 1] = other[:, 0]
    same, copied = (
        permutation_test(x, z, bandwidths=(1.0,), rng=CounterRandomness(0)).p_value
        for z in (y, other)
    )
    assert same > 0.05 > copied


@pytest.mark.parametrize("n", [2, 30, 1500])
def test_identical_points_are_ties_and_no_evidence(n: int) -> None:
    x = torch.full((n, 2), 0.1, dtype=torch.float64)
    rng = CounterRandomness(0)
    found = permutation_test(x, x.clone(), bandwidths=(1.0, 0.5), rng=rng, permutations=20)
    assert found.p_value == 1
    assert found.statistic == pytest.approx(0, abs=1e-9)


GOOD = normal(0, (5, 2))


@pytest.mark.parametrize(
    ("x", "y", "permutations", "message"),
    [
        (GOOD[:1], GOOD, 9, "at least 2 rows"),
        (GOOD, GOOD[:, :1], 9, "one D"),
        (GOOD, GOOD.long(), 9, "numbers or ids"),
        (GOOD, GOOD, 0, "permutations must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_error(
    x: Tensor, y: Tensor, permutations: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        permutation_test(
            x, y, bandwidths=(1.0,), rng=CounterRandomness(0), permutations=permutations
        )
