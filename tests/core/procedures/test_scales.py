"""Scales against Kronecker formulas, exact ranks, regressions and the nearest places."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import scales as reference
from scipy import linalg

from capcheck.core.sequences import SequenceSpec
from capcheck.procedures.scales import averages, centred, haar, interlaced, is_dyadic

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


PUBLISHED = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # of VAR, for 16 x 16 tokens
LISTS = [
    (1, 6, (1, 2, 3, 6)),
    (1, 65, (64, 65)),
    (1, 16, PUBLISHED),
    (3, 5, (1, 2, 3, 4, 5)),
    (4, 4, (1, 3, 4)),
    (5, 5, (5,)),
    (6, 9, (2, 5, 9)),
    (7, 29, (2, 5, 9, 10, 11, 12, 17, 21, 25, 28, 29)),  # its smallest remainder is 0.004
    (16, 16, PUBLISHED),
]


def projectors(basis: Array, sizes: tuple[int, ...]) -> list[Array]:
    """The projector on all coefficients up to each scale."""
    return [basis[:end].T @ basis[:end] for end in np.cumsum(sizes)]


@pytest.mark.parametrize(("rows", "columns", "scales"), LISTS)
def test_scales_span_the_averages_over_their_cells(
    rows: int, columns: int, scales: tuple[int, ...]
) -> None:
    found, sizes = averages(rows, columns, scales)
    H = found.numpy()
    assert np.allclose(H @ H.T, np.eye(rows * columns), rtol=0, atol=1e-13)
    expected = reference.sizes(rows, columns, scales)
    assert list(sizes) == [size for size in expected if size > 0]
    assert sum(sizes) == rows * columns
    ends = np.cumsum(expected)
    parts = [reference.in_grid(rows, columns, scale) for scale in scales]
    for k in range(len(scales)):
        span = linalg.orth(np.concatenate(parts[: k + 1]).T, rcond=1e-9)
        up_to = H[: ends[k]]
        assert np.allclose(up_to.T @ up_to, span @ span.T, rtol=0, atol=1e-11)


def test_averages_over_13_cells_and_fewer_tell_all_16_by_16_tokens() -> None:
    assert averages(16, 16, PUBLISHED)[1] == (1, 3, 8, 12, 24, 24, 44, 60, 80)
    assert averages(16, 16, (1, 2, 4, 8, 16))[1] == (1, 3, 12, 48, 192)


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (1, 8), (8, 1), (4, 4), (2, 8), (8, 2), (4, 16), (16, 16)]
)
def test_lists_of_powers_of_two_are_the_haar_pyramid(rows: int, columns: int) -> None:
    scales = tuple(2**m for m in range(max(rows, columns).bit_length()))
    (found, sizes), (expected, halved) = averages(rows, columns, scales), haar(rows, columns)
    assert sizes == halved
    pairs = zip(projectors(found.numpy(), sizes), projectors(expected.numpy(), halved), strict=True)
    assert all(np.allclose(a, b, rtol=0, atol=1e-12) for a, b in pairs)
    assert np.allclose(found, expected, rtol=0, atol=1e-12)  # also their bases inside a scale


def test_other_lists_are_not() -> None:
    whole = averages(4, 4, (1, 3, 4))[0].numpy()[:9]
    assert np.abs(whole.T @ whole - projectors(haar(4, 4)[0].numpy(), (1, 3, 12))[1]).max() > 0.1


@pytest.mark.parametrize(
    ("rows", "columns", "scales"),
    [(1, 5, (1, 2, 3, 5)), (1, 7, (2, 3, 5, 7)), (4, 4, (1, 2, 3, 4)), (3, 4, (1, 3, 4))],
)
def test_coefficients_are_what_regression_leaves(
    rows: int, columns: int, scales: tuple[int, ...]
) -> None:
    found = averages(rows, columns, scales)[0]
    assert np.allclose(found, reference.coefficients(rows, columns, scales), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("side", "scale", "same"), [(6, 2, True), (6, 3, True), (5, 3, False)])
def test_cells_of_whole_tokens_are_those_of_torch(side: int, scale: int, same: bool) -> None:
    # Torch's area interpolation widens a cell to whole tokens, so that others differ.
    eye = torch.eye(side**2, dtype=torch.float64).reshape(-1, 1, side, side)
    pooled = torch.nn.functional.interpolate(eye, size=(scale, scale), mode="area").flatten(1)
    up_to = averages(side, side, (scale, side))[0][: scale**2]
    rest = pooled.T - pooled.T @ up_to.T @ up_to
    assert (float(rest.abs().max()) < 1e-14) == same


@pytest.mark.parametrize(
    ("rows", "columns", "scales", "expected"),
    [
        (1, 1, (1,), [[0]]),
        (1, 6, (1, 2, 3, 6), [[3], [1, 4], [5], [0, 2]]),  # centres 3; 1.5, 4.5; 1, 3, 5
        (1, 8, (1, 2, 4, 8), [[4], [2, 6], [1, 3, 5, 7], [0]]),
        (2, 3, (1, 2, 3), [[4], [3, 5], [0, 1, 2]]),  # 1 x 1, 1 x 2 and 2 x 3 cells
        (3, 3, (1, 3), [[4], [0, 1, 2, 3, 5, 6, 7, 8]]),
        (3, 3, (3,), [[0, 1, 2, 3, 4, 5, 6, 7, 8]]),
    ],
)
def test_tokens_at_the_centres_of_small_grids(
    rows: int, columns: int, scales: tuple[int, ...], expected: list[list[int]]
) -> None:
    places = tuple(itertools.product(range(rows), range(columns)))
    assert centred(places, rows, columns, scales) == expected


@pytest.mark.parametrize(("rows", "columns", "scales"), LISTS)
def test_a_scale_places_the_tokens_that_are_nearest_to_its_centres(
    rows: int, columns: int, scales: tuple[int, ...]
) -> None:
    def nearest(count: int, side: int) -> set[int]:
        centres = [(j + Fraction(1, 2)) * side / count for j in range(count)]
        return {min(range(side), key=lambda i: (abs(i + Fraction(1, 2) - c), -i)) for c in centres}

    left, expected = dict(enumerate(itertools.product(range(rows), range(columns)))), []
    for scale in scales:
        r, c = reference.cells(rows, columns, scale)
        at = nearest(r, rows), nearest(c, columns)
        expected.append([i for i, (y, x) in left.items() if y in at[0] and x in at[1]])
        left = {i: place for i, place in left.items() if i not in expected[-1]}
    assert not left
    places = tuple(itertools.product(range(rows), range(columns)))
    assert centred(places, rows, columns, scales) == [scale for scale in expected if scale]


def test_centres_that_a_part_of_a_grid_lacks_place_nothing() -> None:
    # Centres are 1.5; 0.75 and 2.25; 0.5, 1.5 and 2.5: the place (1, 1), then the four corners.
    assert centred(((0, 1), (0, 2), (2, 2)), 3, 3, (1, 2, 3)) == [[1, 2], [0]]
