"""The probability flow against a Gaussian's factor and against quantiles in one dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.noise.flow import probability_flow
from capcheck.noise.paths import PATHS, PathName
from capcheck.targets import ProductMixture


def noise(n: int, tokens: int = 1) -> Tensor:
    return CounterRandomness(0).normal((n, tokens, 1))


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("variance", [0.01, 1.0, 9.0])
def test_a_gaussian_is_scaled(path: PathName, variance: float) -> None:
    # The exact map from level 1 to 0 multiplies by sqrt(v).
    target = ProductMixture(
        torch.zeros(1, 1, 1).double(), torch.full((1, 1), math.sqrt(variance)).double()
    )
    z = noise(50)
    x = probability_flow(lambda x, t: target.denoise(x, t, PATHS[path]), z, PATHS[path])
    assert x is not None
    assert x.numpy() == pytest.approx(
        math.sqrt(variance) * z.numpy(), abs=2e-3 * math.sqrt(variance)
    )


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_in_one_dimension_the_flow_keeps_quantiles(path: PathName) -> None:
    means, weights, h = np.array([-2.0, 0.5, 3.0]), np.array([0.2, 0.5, 0.3]), 0.4
    target = ProductMixture(
        torch.tensor(means)[:, None, None],
        torch.full((1, 1), h).double(),
        torch.tensor(weights),
    )
    z = noise(40)
    x = probability_flow(lambda x, t: target.denoise(x, t, PATHS[path]), z, PATHS[path])
    assert x is not None

    def quantile(u: float) -> float:
        return float(
            optimize.brentq(lambda q: weights @ stats.norm.cdf((q - means) / h) - u, -9, 9)
        )

    expected = [quantile(float(stats.norm.cdf(value))) for value in z.flatten()]
    assert x.flatten().tolist() == pytest.approx(expected, abs=5e-3)
    # A wrong denoiser ends elsewhere.
    wrong = probability_flow(lambda x, t: 0.9 * target.denoise(x, t, PATHS[path]), z, PATHS[path])
    assert wrong is not None
    assert float((wrong.flatten() - torch.tensor(expected)).abs().max()) > 0.05


def test_a_flow_too_stiff_to_integrate_is_given_up() -> None:
    def wild(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(1e6 * x)

    assert probability_flow(wild, noise(4), PATHS["linear"]) is None
