"""Sliced distances against POT and closed forms; the cost of transport by its faster solver."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.divergences.sliced import orthogonal_directions, sliced_w2_squared
from capcheck.divergences.wasserstein import Ground, transport, transport_cost


def normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return CounterRandomness(seed).normal(shape)


def directions(count: int, dim: int) -> Tensor:
    return orthogonal_directions(count, dim, rng=CounterRandomness(5))


def of_pot(x: Tensor, y: Tensor, theta: Tensor) -> float:
    a, b = x.double().numpy(), y.double().numpy()
    return float(ot.sliced_wasserstein_distance(a, b, projections=theta.T.numpy())) ** 2


@pytest.mark.parametrize(
    ("n", "m", "dim", "count"),
    [(300, 300, 3, 40), (300, 210, 5, 7), (70, 300, 1, 1), (1, 1, 2, 3), (2500, 2500, 16, 20)],
)
def test_it_is_that_of_pot_on_the_same_projections(n: int, m: int, dim: int, count: int) -> None:
    x, y, theta = normal(0, (n, dim)), 1.2 * normal(1, (m, dim)) + 0.3, directions(count, dim)
    found = sliced_w2_squared(x, y, directions=theta)
    assert found == pytest.approx(of_pot(x, y, theta), rel=1e-6)
    assert found != pytest.approx(of_pot(x, y + 0.01, theta), rel=1e-6)


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_float32_sorts_lose_nothing_far_out(unit: float, shift: float) -> None:
    x, y, theta = normal(0, (2500, 4)), normal(1, (2500, 4)), directions(8, 4)
    found = sliced_w2_squared(unit * (x + shift), unit * (y + shift), directions=theta)
    assert found / unit**2 == pytest.approx(of_pot(x, y, theta), rel=1e-4, abs=1e-6)


def test_directions_are_orthonormal_in_blocks_and_uniform() -> None:
    theta = directions(7, 3)
    assert theta.shape == (7, 3)
    assert torch.allclose(theta[:3] @ theta[:3].T, torch.eye(3, dtype=torch.float64))
    assert torch.allclose(theta[3:6] @ theta[3:6].T, torch.eye(3, dtype=torch.float64))
    assert float((theta[:3] @ theta[3:6].T).abs().min()) > 1e-3  # blocks are independent
    few = directions(5, 40)
    assert torch.allclose(few @ few.T, torch.eye(5, dtype=torch.float64))
    # On the sphere E t_1 = 0, E t_1^2 = 1 / D and E t_1^4 = 3 / (D (D + 2)).
    many = directions(30_000, 3)
    assert many.mean(0).abs().max() < 0.02
    assert torch.allclose(many.square().mean(0), torch.tensor(1 / 3).double(), atol=0.01)
    assert torch.allclose(many.pow(4).mean(0), torch.tensor(3 / 15).double(), atol=0.01)


def test_a_complete_basis_bounds_exact_transport_from_below() -> None:
    x, y, theta = normal(0, (200, 4)), 0.5 * normal(1, (200, 4)), directions(4, 4)
    exact = float(ot.emd2([], [], cdist(x, y, "sqeuclidean")))
    assert 0.5 * exact < 4 * sliced_w2_squared(x, y, directions=theta) < exact
    shift = torch.tensor([1.0, -2.0, 0.5, 3.0])  # a translation by s costs |s|^2 = 14.25
    assert 4 * sliced_w2_squared(x, x + shift, directions=theta) == pytest.approx(14.25)
    longer = 1.1 * theta  # vectors that are no unit vectors break the bound
    assert 4 * sliced_w2_squared(x, x + shift, directions=longer) > 14.25


def test_equal_samples_are_at_zero_and_equal_laws_are_not() -> None:
    x, y, theta = normal(0, (1000, 4)), normal(1, (1000, 4)), directions(4, 4)
    assert sliced_w2_squared(x, x, directions=theta) == 0
    assert sliced_w2_squared(x, x.flip(0), directions=theta) < 1e-30
    point = torch.ones(1, 4, dtype=torch.float64)
    assert sliced_w2_squared(point, 3 * point, directions=theta) == pytest.approx(4)
    assert 0.5 * 2 / 1000 < sliced_w2_squared(x, y, directions=theta) < 10 * 2 / 1000


GOOD = normal(0, (5, 2))


@pytest.mark.parametrize(
    ("x", "y", "theta", "message"),
    [
        (GOOD[:0], GOOD, GOOD, "at least one row"),
        (GOOD, GOOD, GOOD[:0], "at least one row"),
        (GOOD, GOOD[:, :1], GOOD, "one D"),
        (GOOD[0], GOOD, GOOD, "one D"),
        (GOOD.masked_fill(GOOD > 0, math.nan), GOOD, GOOD, "finite"),
        (GOOD, GOOD.masked_fill(GOOD > 0, math.inf), GOOD, "finite"),
        (GOOD.long(), GOOD, GOOD, "need numbers"),
    ],
)
def test_bad_input_is_one_clear_error(x: Tensor, y: Tensor, theta: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sliced_w2_squared(x, y, directions=theta)


@pytest.mark.parametrize(("count", "dim"), [(0, 3), (3, 0)])
def test_no_directions_are_an_error(count: int, dim: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        directions(count, dim)


# Exact transport, which the solver does not change


@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 45)])
@pytest.mark.parametrize(
    ("dim", "ground"), [(2, "squared Euclidean"), (16, "squared Euclidean"), (6, "Hamming")]
)
def test_the_faster_solver_finds_pots_cost(n: int, m: int, dim: int, ground: Ground) -> None:
    x, y = normal(0, (n, dim)).numpy(), normal(1, (m, dim)).numpy() + 0.5
    costs = cdist(x, y, "sqeuclidean")
    if ground == "Hamming":
        x, y = x.round(), y.round()
        costs = (x[:, None] != y).sum(2).astype(float)
    expected = float(ot.emd2([], [], costs))
    assert transport_cost(x, y, ground) == pytest.approx(expected)
    plan = transport(x, y, ground)
    assert plan.cost == pytest.approx(expected)
    assert plan.of_x.mean() + plan.of_y.mean() == pytest.approx(expected)  # strong duality
    assert (costs - plan.of_x[:, None] - plan.of_y).min() > -1e-9
    assert transport_cost(x, np.roll(y, 1, axis=1), ground) != pytest.approx(expected)
