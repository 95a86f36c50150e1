"""Forms of derivatives that are not written out, against matrices that are."""

from __future__ import annotations

import pytest
import torch

from capcheck.core.randomness import CounterRandomness
from capcheck.core.slopes import DenseSlope, FewDirections, SharedMeans, Slope
from capcheck.noise.paths import PATHS
from capcheck.targets import ProductMixture
from capcheck.targets.continuous.diagonal_mixture import DiagonalMixture
from capcheck.targets.target import ContinuousTarget

N, E, K = 5, 40, 60


def rng() -> CounterRandomness:
    return CounterRandomness(11)


def few_directions() -> FewDirections:
    draws = rng()
    left, right = draws.normal((N, E, 6)), draws.normal((N, 6, E))
    return FewDirections(draws.uniform((N, E)) + 0.5, left / E, right)


def shared_means(strength: float = 1.0) -> SharedMeans:
    draws = rng()
    share = (draws.normal((N, K)) * 2).softmax(1)
    means = strength * draws.normal((K, E)) * torch.linspace(3, 0.05, E)
    return SharedMeans(
        own=draws.uniform((N, E)) + 0.2,
        gain=draws.uniform((N, E)) + 0.1,
        pull=draws.uniform((N, E)) * (torch.arange(E) > 3),  # some tokens tell nothing
        share=share,
        means=means,
        mean=share @ means,
    )


@pytest.mark.parametrize("slope", [few_directions(), shared_means(), shared_means(10.0)])
def test_solutions_are_those_of_the_matrix(slope: Slope) -> None:
    r, c = torch.linspace(0.1, 1, E).double(), torch.linspace(1, 0.2, E).double()
    b = rng().normal((N, E))
    matrix = c[:, None] * slope.dense() + r.diag()
    torch.testing.assert_close(slope.affine(r, c).dense(), matrix)
    expected = torch.linalg.solve(matrix, b)
    torch.testing.assert_close(slope.affine(r, c).solve(b), expected, atol=1e-8, rtol=1e-8)


def test_directions_have_the_determinant_of_the_matrix() -> None:
    slope, rows = few_directions(), torch.tensor([True, False, True, True, False])
    sign, log_det = slope.log_det(rows, torch.Generator())
    expected = torch.linalg.slogdet(slope.dense()[rows])
    torch.testing.assert_close(log_det, expected.logabsdet)
    assert bool((sign == expected.sign).all())


def test_a_negative_determinant_is_told() -> None:
    one = torch.zeros(1, E, 1).double()
    one[0, 0] = -3.0
    slope = FewDirections(torch.ones(1, E).double(), one, one.mT.sign().neg())
    everywhere = torch.ones(1, dtype=torch.bool)
    sign, _ = slope.log_det(everywhere, torch.Generator())
    assert float(sign) == float(torch.linalg.slogdet(slope.dense()).sign) == -1


@pytest.mark.parametrize("strength", [0.3, 1.0, 10.0])
def test_stochastic_determinants_are_unbiased(strength: float) -> None:
    slope = shared_means(strength)
    everywhere = torch.ones(N, dtype=torch.bool)
    expected = torch.linalg.slogdet(slope.dense()).logabsdet
    generator = torch.Generator().manual_seed(3)
    found = torch.stack([slope.log_det(everywhere, generator)[1] for _ in range(300)])
    error = found.std(0) / 300**0.5
    assert bool(((found.mean(0) - expected).abs() < 4 * error + 1e-3).all())
    assert float(found.std(0).max()) < 3 * max(1, strength)  # few vectors tell much


def test_a_singular_system_is_not_solved() -> None:
    nothing = DenseSlope(torch.zeros(1, 3, 3).double())
    assert not bool(nothing.solve(torch.ones(1, 3).double()).isfinite().any())


def mixtures() -> list[ContinuousTarget]:
    draws = rng()
    means = draws.normal((150, 90, 3)) / 8
    return [
        ProductMixture(means, torch.full((90, 3), 0.3).double()),
        ProductMixture(4 * means[:20], torch.full((90, 3), 0.3).double()),
        DiagonalMixture(means[:12], 0.2 + draws.uniform((12, 90, 3))),
    ]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("level", [0.9, 0.4, 0.02])
def test_targets_give_the_same_derivative_in_both_forms(number: int, level: float) -> None:
    target, path = mixtures()[number], PATHS["cosine"]
    x = target.with_noise(torch.full((90,), level).double(), path).sample(4, rng())
    levels = torch.full((4, 90), level).double()
    levels[:, :2], levels[:, 2:4] = 0, 1  # some are known, and some are pure noise
    tokens = list(range(2, 90))
    mean, slope = target.denoise_with_slope(x, levels, path, tokens)
    expected, derivative = target.denoise_with_derivative(x, levels, path, tokens)
    assert not isinstance(slope, DenseSlope)
    torch.testing.assert_close(mean, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(slope.dense(), derivative, atol=1e-10, rtol=1e-10)
