"""Kernel sums in tiles against scikit-learn and scipy: precision, chains, symbols, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.divergences import kernels as kernels_module
from capcheck.divergences import mmd as mmd_module
from capcheck.divergences.mmd import (
    kernel_means,
    kernel_row_means,
    mmd_squared,
    mmd_squared_terms,
    mmd_squared_to_known,
)


def normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return CounterRandomness(seed).normal(shape)


def u_statistic(x: np.ndarray, y: np.ndarray, h: float) -> float:
    """From scikit-learn's kernel matrices."""
    xx, yy, xy = (rbf_kernel(a, b, gamma=0.5 / h**2) for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    return float(
        (xx.sum() - np.trace(xx)) / (n * (n - 1))
        + (yy.sum() - np.trace(yy)) / (m * (m - 1))
        - 2 * xy.mean()
    )


# Several kernels in one pass


@pytest.mark.parametrize(
    "bandwidths",
    [
        (1.0, 0.5),
        (0.5, 4.0, 1.0, 2.0, 0.25),  # one chain, in no order
        (2.0, math.sqrt(2), 1.0),
        (1.0, 0.9, 0.45, 0.5),  # two chains
        (1.0, 0.5 + 1e-7),  # nearly a multiple, which it must not be taken for
        (1.0, 1.0),
    ],
)
def test_kernels_of_one_pass_are_those_of_scikit_learn(
    bandwidths: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels_module, "TILE", 16)
    x, y = normal(0, (50, 3)), 1.3 * normal(1, (37, 3))
    rows, columns = kernel_means(x, y, bandwidths=bandwidths)
    within = kernel_row_means(x, x, bandwidths, same=True)
    terms = mmd_squared_terms(x, y, bandwidths=bandwidths)
    for k, h in enumerate(bandwidths):
        across = rbf_kernel(x, y, gamma=0.5 / h**2)
        own = rbf_kernel(x, x, gamma=0.5 / h**2)
        assert np.allclose(rows[k], across.mean(1), rtol=0, atol=1e-13)
        assert np.allclose(columns[k], across.mean(0), rtol=0, atol=1e-13)
        assert np.allclose(within[k], (own.sum(1) - 1) / 49, rtol=0, atol=1e-13)
        assert terms[k].value == pytest.approx(u_statistic(x.numpy(), y.numpy(), h), abs=1e-13)


def test_a_bandwidth_that_is_a_little_off_is_another_kernel() -> None:
    x, y = normal(0, (50, 3)), 1.3 * normal(1, (37, 3))
    half, off = mmd_squared_terms(x, y, bandwidths=(0.5, 0.5 + 1e-7))
    assert abs(half.value - off.value) > 1e-10


# Float32 tiles


def test_float32_tiles_move_the_statistic_by_far_less_than_its_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = normal(0, (2100, 8)), normal(1, (2100, 8))
    expected = u_statistic(x.numpy(), y.numpy(), 4.0)
    single = mmd_squared(x, y, 4.0)
    assert 0 < abs(single.value - expected) < 1e-8  # not 0: the tiles are float32 indeed
    assert abs(single.value - expected) < 1e-3 * single.standard_error
    narrow = mmd_squared_terms(x, y, bandwidths=(4.0, 1.0))[1]  # by four squarings
    assert narrow.value == pytest.approx(u_statistic(x.numpy(), y.numpy(), 1.0), abs=1e-8)
    monkeypatch.setattr(kernels_module, "DOUBLE", len(x) ** 2)
    assert mmd_squared(x, y, 4.0).value == pytest.approx(expected, abs=1e-13)


def test_rows_too_far_out_for_float32_are_met_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(0, (2100, 2))
    x[:700] += 1e5  # three thousand times as far as they are apart in float32 roundings
    (means,) = kernel_row_means(x, x, (1.0,), same=True)
    some = rbf_kernel(x[:50], x, gamma=0.5)
    expected = (some.sum(1) - 1) / 2099
    assert np.allclose(means[:50], expected, rtol=1e-5)
    monkeypatch.setattr(kernels_module, "FARTHEST", math.inf)
    (single,) = kernel_row_means(x, x, (1.0,), same=True)
    assert not np.allclose(single[:50], expected, rtol=1e-2)


def test_samples_in_float32_are_measured_as_well_as_in_float64() -> None:
    x, y = normal(0, (200, 3)).float(), normal(1, (150, 3)).float()
    expected = u_statistic(x.double().numpy(), y.double().numpy(), 1.0)
    assert mmd_squared(x, y, 1.0).value == pytest.approx(expected, abs=1e-13)


# Token ids


@pytest.mark.parametrize(
    ("symbols", "tokens"),
    [(1, 3), (2, 5), (4, 300), (5, 5), (40, 300), (300, 6), (70_000, 4)],
)
def test_the_kernel_of_token_ids_counts_those_that_differ(symbols: int, tokens: int) -> None:
    rng = np.random.default_rng(symbols)
    x = rng.integers(0, symbols, (90, tokens)) - 3
    y = np.where(rng.random((70, tokens)) < 0.7, x[:70], x[20:])
    h = math.sqrt(tokens)
    expected = np.exp(-cdist(x, y, "hamming") * tokens / h**2)
    rows, columns = kernel_means(torch.tensor(x), torch.tensor(y), bandwidths=(h, h / 2))
    assert np.allclose(rows[0], expected.mean(1), rtol=0, atol=1e-13)
    assert np.allclose(columns[1], (expected**4).mean(0), rtol=0, atol=1e-13)
    if symbols > 1:
        other = torch.tensor(np.where(y == y.max(), y - 1, y))
        assert not np.allclose(
            kernel_means(torch.tensor(x), other, bandwidths=(h,))[0][0], expected.mean(1)
        )


@pytest.mark.parametrize("symbols", [3, 9])
def test_many_rows_of_token_ids_go_by_float32_tiles(symbols: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, symbols, (2100, 6))
    expected = np.exp(-cdist(x[:40], x, "hamming") * 6 / 4).mean(1)
    (means,) = kernel_row_means(torch.tensor(x), torch.tensor(x), (2.0,))
    assert np.allclose(means[:40], expected, rtol=0, atol=1e-7)


# Degenerate input


def test_identical_points_are_at_distance_zero_and_no_proof_of_it() -> None:
    same = torch.full((30, 2), 0.1, dtype=torch.float64)
    term = mmd_squared(same, same.clone(), 1.0)
    assert term.value == pytest.approx(0, abs=1e-14)
    low, high = term.interval(0.95)
    assert low < 0 < high
    apart = mmd_squared(same, same + 1, 1.0)
    assert apart.value == pytest.approx(2 - 2 * math.exp(-1))


GOOD = normal(0, (5, 2))


@pytest.mark.parametrize(
    ("x", "y", "bandwidth", "message"),
    [
        (GOOD[:1], GOOD, 1.0, "at least 2 rows"),
        (GOOD, GOOD[:1], 1.0, "at least 2 rows"),
        (GOOD, GOOD[:0], 1.0, "at least 2 rows"),
        (GOOD, GOOD[:, :1], 1.0, "one D"),
        (GOOD, GOOD[..., None], 1.0, "one D"),
        (GOOD, GOOD.long(), 1.0, "numbers or ids"),
        (GOOD, GOOD, 0.0, "positive and finite"),
        (GOOD, GOOD, -1.0, "positive and finite"),
        (GOOD, GOOD, math.nan, "positive and finite"),
        (GOOD, GOOD, math.inf, "positive and finite"),
    ],
)
def test_bad_input_is_one_clear_error(x: Tensor, y: Tensor, bandwidth: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mmd_squared(x, y, bandwidth)


def test_no_bandwidth_and_one_row_against_a_known_law_are_errors_too() -> None:
    with pytest.raises(InputError, match="positive and finite"):
        mmd_squared_terms(GOOD, GOOD, bandwidths=())
    with pytest.raises(InputError, match="at least 2 rows"):
        mmd_squared_to_known(GOOD[:1], (1.0,), [torch.ones(1)], [0.5])
    assert mmd_squared_to_known(GOOD[:2], (1.0,), [torch.ones(2)], [0.5])[0].degrees == 1


@pytest.mark.parametrize("h", [0.3, 2.0, 20.0])
def test_the_variance_of_the_second_order_is_that_of_the_doubly_centred_kernel(h: float) -> None:
    x = normal(0, (40, 3))
    kernel = rbf_kernel(x, x, gamma=0.5 / h**2)
    np.fill_diagonal(kernel, 0)
    of_rows = kernel.sum(1) / 39
    centred = kernel - of_rows[:, None] - of_rows + of_rows.mean()
    np.fill_diagonal(centred, 0)
    expected = np.square(centred).sum() / (40 * 39)
    assert mmd_module._centred_variances(x, (h, 1.0))[0] == pytest.approx(expected, rel=1e-9)
    assert mmd_module._centred_variances(x, (h + 0.01, 1.0))[0] != pytest.approx(expected, rel=1e-9)
    assert mmd_module._centred_variances(x[:3], (h,)) == [1.0]
