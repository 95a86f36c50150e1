"""Weighted sums against einsum, whose loops are written for every axis."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from capcheck.core.weighted import weighted_mean, weighted_sums

RANDOM = np.random.default_rng(7)


def draw(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RANDOM.normal(size=shape))


@pytest.mark.parametrize("columns", [1, 3, 200])
@pytest.mark.parametrize("lead", [(), (4,)])
def test_sums_are_the_matrix_product(lead: tuple[int, ...], columns: int) -> None:
    weights, values = draw(*lead, 9, 50), draw(*lead, 50, columns)
    expected = np.einsum("...rk,...kd->...rd", weights.numpy(), values.numpy())
    assert weighted_sums(weights, values).numpy() == pytest.approx(expected, abs=1e-12)
    transposed = weights.mT.contiguous().mT  # another layout in memory
    assert weighted_sums(transposed, values).numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.parametrize("rows", [1, 6])
def test_means_broadcast_values_that_all_rows_share(rows: int, dim: int) -> None:
    share, values = draw(6, 3, 20), draw(rows, 3, 20, dim)
    found = weighted_mean(share, values)
    shared = np.broadcast_to(values.numpy(), (6, 3, 20, dim))
    expected = np.einsum("nik,nikd->nid", share.numpy(), shared)
    assert found.shape == (6, 3, dim)
    assert found.numpy() == pytest.approx(expected, abs=1e-12)
