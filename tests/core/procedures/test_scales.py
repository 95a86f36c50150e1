"""Scales against Kronecker formulas and the powers of two that divide a place."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from capcheck.core.sequences import SequenceSpec
from capcheck.procedures.scales import haar, interlaced, is_dyadic

Array = NDArray[np.float64]


def halves(side: int) -> tuple[Array, Array]:
    """Sums and differences of neighbours, (side / 2, side)."""
    if side == 1:
        return np.eye(1), np.zeros((0, 1))
    eye = math.sqrt(0.5) * np.eye(side // 2)
    sums, differences = np.kron(eye, [1, 1]), np.kron(eye, [1, -1])
    return sums.astype(np.float64), differences.astype(np.float64)


def pyramid(rows: int, columns: int) -> Array:
    """H(r, c) = [H(r/2, c/2) (S_r x S_c); S_r x D_c; D_r x S_c; D_r x D_c], x for Kronecker."""
    if rows * columns == 1:
        return np.eye(1)
    (S_r, D_r), (S_c, D_c) = halves(rows), halves(columns)
    coarser = pyramid(len(S_r), len(S_c)) @ np.kron(S_r, S_c)
    return np.concatenate([coarser, np.kron(S_r, D_c), np.kron(D_r, S_c), np.kron(D_r, D_c)])


@pytest.mark.parametrize(
    ("rows", "columns", "sizes"),
    [
        (1, 1, (1,)),
        (1, 2, (1, 1)),
        (1, 8, (1, 1, 2, 4)),
        (8, 1, (1, 1, 2, 4)),
        (2, 4, (1, 1, 6)),
        (4, 4, (1, 3, 12)),
        (8, 2, (1, 1, 2, 12)),
    ],
)
def test_the_pyramid_is_that_of_kronecker_products(
    rows: int, columns: int, sizes: tuple[int, ...]
) -> None:
    found, scales = haar(rows, columns)
    assert scales == sizes
    assert np.allclose(found @ found.T, np.eye(rows * columns), rtol=0, atol=1e-14)
    assert np.allclose(found, pyramid(rows, columns), rtol=0, atol=1e-14)


def test_a_square_pyramid_is_no_product_of_two_pyramids() -> None:
    apart = np.kron(pyramid(1, 4), pyramid(1, 4))
    assert np.allclose(apart @ apart.T, np.eye(16), rtol=0, atol=1e-14)
    assert not np.allclose(np.abs(haar(4, 4)[0].numpy() @ apart.T).max(1), 1, rtol=0, atol=1e-3)


def test_the_coarsest_coefficient_is_the_scaled_mean() -> None:
    x = torch.arange(16, dtype=torch.float64)
    assert float((haar(4, 4)[0] @ x)[0]) == pytest.approx(4 * 7.5)  # sqrt(16) times the mean
    assert (haar(1, 4)[0] @ torch.ones(4, dtype=torch.float64))[1:].abs().max() < 1e-14


@pytest.mark.parametrize(
    ("rows", "columns", "dyadic"), [(1, 1, True), (2, 8, True), (1, 6, False), (3, 4, False)]
)
def test_dyadic_sides_are_powers_of_two(rows: int, columns: int, dyadic: bool) -> None:
    assert is_dyadic(rows, columns) is dyadic


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (1, 1, [[0]]),
        (1, 5, [[0], [4], [2], [1, 3]]),
        (1, 8, [[0], [4], [2, 6], [1, 3, 5, 7]]),
        (2, 4, [[0], [2], [1, 3, 4, 5, 6, 7]]),
        (4, 4, [[0], [2, 8, 10], [1, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 15]]),
    ],
)
def test_interlaced_subsets_of_small_grids(
    rows: int, columns: int, expected: list[list[int]]
) -> None:
    assert interlaced(tuple(itertools.product(range(rows), range(columns)))) == expected


@pytest.mark.parametrize("shape", [(1, 13), (5, 7), (8, 8)])
def test_a_token_belongs_to_the_power_of_two_that_divides_its_place(shape: tuple[int, int]) -> None:
    places = tuple(itertools.product(range(shape[0]), range(shape[1])))
    scale_of = {i: m for m, scale in enumerate(interlaced(places)) for i in scale}
    assert sorted(scale_of) == list(range(len(places)))

    def stride(i: int) -> float:
        both = math.gcd(*places[i])
        return both & -both if both else math.inf  # 0 is divided by all of them

    for i, j in itertools.combinations(range(len(places)), 2):
        assert (scale_of[i] < scale_of[j]) == (stride(i) > stride(j))
        assert (scale_of[i] == scale_of[j]) == (stride(i) == stride(j))


def test_parts_of_a_grid_keep_their_places() -> None:
    zeros = torch.zeros(3, 1)
    spec = SequenceSpec(
        tokens=3, kind="continuous", dim=1, mean=zeros, variance=zeros,
        places=((0, 1), (0, 2), (2, 2)),
    )  # fmt: skip
    assert interlaced(spec.layout) == [[1, 2], [0]]
