"""Nearest-neighbour KL against its formula by brute force, and Gaussians in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics import neighbours as neighbours_module
from capcheck.diagnostics.neighbours import nearest_neighbour_kl
from capcheck.divergences.estimate import GROUPS, Term


def normal(seed: int, shape: tuple[int, ...], name: str = "") -> Tensor:
    return CounterRandomness(seed, name=name).normal(shape)


def by_formula(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Wang, Kulkarni and Verdu's estimate from the sorted distances of all pairs."""
    rho = np.sort(cdist(x, x), axis=1)[:, k]  # the 0-th is the row itself
    nu = np.sort(cdist(x, y), axis=1)[:, k - 1]
    return float(x.shape[1] * np.log(nu / rho).mean() + math.log(len(y) / (len(x) - 1)))


def of_gaussians(scale: float, dim: int) -> float:
    """KL(N(0, I) || N(0, s^2 I)) = D (log s - (1 - 1/s^2) / 2)."""
    return dim * (math.log(scale) - 0.5 * (1 - scale**-2))


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("dim", [1, 3, 10])  # by tree and by matrix products
@pytest.mark.parametrize(("n", "m"), [(150, 200), (200, 150), (300, 900)])
def test_it_is_the_formula(n: int, m: int, dim: int, k: int) -> None:
    x, y = normal(0, (n, dim)), 1.3 * normal(1, (m, dim)) + 100
    y -= 100 - 0.2
    expected = by_formula(x.numpy(), y.numpy(), k)
    assert nearest_neighbour_kl(x, y, k=k).value == pytest.approx(expected, abs=1e-12)
    assert nearest_neighbour_kl(x, y, k=k + 1).value != pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dim", [2, 9])
def test_its_groups_are_a_jackknife(dim: int) -> None:
    # Groups of three rows: the spare neighbours always suffice, and the shortcut is exact.
    x, y = normal(0, (150, dim)), 1.3 * normal(1, (140, dim))
    term = nearest_neighbour_kl(x, y, k=4)
    without = []
    for group in range(GROUPS):
        left_x, left_y = (z[np.arange(len(z)) % GROUPS != group].numpy() for z in (x, y))
        without.append(by_formula(left_x, left_y, 4))
    influence = (GROUPS - 1) * (np.mean(without) - np.array(without))
    assert np.allclose(term.groups, term.value + influence, rtol=0, atol=1e-9)
    # The jackknife variance (G - 1) / G sum (theta_g - mean)^2.
    variance = (GROUPS - 1) / GROUPS * np.square(np.array(without) - np.mean(without)).sum()
    assert term.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert term.degrees == GROUPS - 1


def repeated(runs: int, n: int, m: int, scale: float, dim: int) -> list[Term]:
    return [
        nearest_neighbour_kl(normal(run, (n, dim), "x"), scale * normal(run, (m, dim), "y"))
        for run in range(runs)
    ]


@pytest.mark.parametrize(("scale", "dim"), [(1.0, 1), (1.0, 2), (1.5, 1), (1.5, 2), (0.9, 1)])
def test_in_few_dimensions_it_finds_gaussians_within_its_intervals(scale: float, dim: int) -> None:
    terms = repeated(100, 400, 400, scale, dim)
    values = [term.value for term in terms]
    assert np.mean(values) == pytest.approx(of_gaussians(scale, dim), abs=0.03)
    ends = [term.interval(0.95) for term in terms]
    assert np.mean([low <= of_gaussians(scale, dim) <= high for low, high in ends]) >= 0.91
    # A jackknife exceeds the true error of ranked distances, and the more so at equal laws.
    errors, spread = np.mean([term.standard_error for term in terms]), np.std(values, ddof=1)
    assert 0.9 * spread < errors < 1.9 * spread


@pytest.mark.parametrize(("n", "m"), [(400, 120), (120, 400)])
def test_its_error_holds_for_unequal_sizes_and_many_dimensions(n: int, m: int) -> None:
    terms = repeated(100, n, m, 1.5, 8)
    spread = np.std([term.value for term in terms], ddof=1)
    assert 0.85 * spread < np.mean([term.standard_error for term in terms]) < 1.9 * spread


def test_its_bias_exceeds_its_error_in_many_dimensions_and_against_a_narrower_law() -> None:
    term = nearest_neighbour_kl(normal(0, (2000, 12)), 1.3 * normal(1, (2000, 12)))
    assert abs(term.value - of_gaussians(1.3, 12)) > 5 * term.standard_error
    floor = nearest_neighbour_kl(normal(0, (2000, 12)), normal(1, (2000, 12)))
    assert abs(floor.value) < 4 * floor.standard_error  # which its null floor does not show
    term = nearest_neighbour_kl(normal(0, (2000, 2)), 0.5 * normal(1, (2000, 2)))
    assert term.value < of_gaussians(0.5, 2) - 5 * term.standard_error


def test_neighbours_too_close_for_float32_are_ranked_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = normal(0, (300, 8)), normal(1, (400, 8))
    x[:150] += 1e5
    y[:200] += 1e5
    expected = by_formula(x.numpy(), y.numpy(), 3)
    assert nearest_neighbour_kl(x, y, k=3).value == pytest.approx(expected, abs=1e-9)
    monkeypatch.setattr(neighbours_module, "DOUBT", math.inf)
    assert abs(nearest_neighbour_kl(x, y, k=3).value - expected) > 1e-3


def test_a_few_ties_are_no_obstacle_below_k() -> None:
    x, y = normal(0, (200, 2)), normal(1, (200, 2))
    x[1] = x[0]
    assert nearest_neighbour_kl(x, y, k=2).value == pytest.approx(
        by_formula(x.numpy(), y.numpy(), 2), abs=1e-12
    )
    with pytest.raises(InputError, match="equal ones"):
        nearest_neighbour_kl(x, y, k=1)


GOOD = normal(0, (120, 2))
ROW = GOOD[:1].expand(120, -1)
FLAT = GOOD * torch.tensor([1.0, 0.0])


@pytest.mark.parametrize(
    ("x", "y", "k", "message"),
    [
        (GOOD[:1], GOOD, 1, "at least 100 rows"),
        (GOOD, GOOD[:99], 1, "at least 100 rows"),
        (GOOD, GOOD[:, :1], 5, "one D"),
        (GOOD[:, :0], GOOD[:, :0], 5, "one D"),
        (GOOD.masked_fill(GOOD > 1, math.nan), GOOD, 5, "finite"),
        (GOOD, GOOD.masked_fill(GOOD > 1, math.inf), 5, "finite"),
        (GOOD.long(), GOOD, 5, "needs numbers"),
        (GOOD, GOOD, 0, "k must be in 1..56"),
        (GOOD, GOOD, 57, "k must be in 1..56"),
        (FLAT, GOOD, 5, "constant dimension 1"),
        (GOOD, FLAT, 5, "constant dimension 1"),
        (ROW, GOOD, 5, "constant dimension 0"),
        (GOOD[:60].repeat(2, 1), GOOD, 1, "equal ones"),
        (GOOD, GOOD.clone(), 1, "equal ones"),
    ],
)
def test_bad_input_is_one_clear_error(x: Tensor, y: Tensor, k: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        nearest_neighbour_kl(x, y, k=k)
