"""Nearest-neighbour KL against its formula by brute force, and Gaussians in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from capcheck.divergences import neighbours as neighbours_module
from capcheck.divergences.estimate import GROUPS
from capcheck.divergences.neighbours import nearest_neighbour_kl
from capcheck.errors import InputError
from capcheck.randomness import CounterRandomness


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
    variance = (GROUPS - 1) / GROUPS * np.square(without - np.mean(without)).sum()
    assert term.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert term.degrees == GROUPS - 1


@pytest.mark.parametrize(("scale", "dim"), [(1.0, 1), (1.0, 2), (1.5, 1), (1.5, 2), (0.8, 2)])
def test_in_few_dimensions_it_finds_gaussians_and_its_error(scale: float, dim: int) -> None:
    terms = [
        nearest_neighbour_kl(normal(run, (400, dim), "x"), scale * normal(run, (400, dim), "y"))
        for run in range(60)
    ]
    values = np.array([term.value for term in terms])
    spread = float(values.std(ddof=1))
    assert values.mean() == pytest.approx(of_gaussians(scale, dim), abs=0.03)
    errors = np.mean([term.standard_error for term in terms])
    assert 0.75 * spread < errors < 1.5 * spread
    low, high = zip(*(term.interval(0.95) for term in terms), strict=True)
    covers = np.mean((np.array(low) <= values.mean()) & (values.mean() <= np.array(high)))
    assert covers >= 0.88


def test_in_many_dimensions_it_is_biased_by_more_than_its_error() -> None:
    term = nearest_neighbour_kl(normal(0, (2000, 12)), 1.1 * normal(1, (2000, 12)))
    assert abs(term.value - of_gaussians(1.1, 12)) > 5 * term.standard_error
    floor = nearest_neighbour_kl(normal(0, (2000, 12)), normal(1, (2000, 12)))
    assert abs(floor.value) < 4 * floor.standard_error  # nothing to extrapolate where laws agree


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
