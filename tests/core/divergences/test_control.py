"""The control variate: its mean is 0, it helps, and intervals keep their level with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from capcheck.core.randomness import CounterRandomness
from capcheck.divergences.control import FEWEST, GaussianControl
from capcheck.targets import GaussianMixture, ProductMixture, from_spec
from capcheck.targets.continuous.diagonal_mixture import DiagonalMixture
from capcheck.targets.target import ContinuousTarget


def rng(seed: int = 4) -> CounterRandomness:
    return CounterRandomness(seed)


def mixtures() -> list[ContinuousTarget]:
    draws = rng()
    means, roots = 2 * draws.normal((5, 3, 2)), draws.normal((5, 6, 6))
    return [
        ProductMixture(means, torch.full((3, 2), 0.5).double()),
        DiagonalMixture(means, 0.2 + draws.uniform((5, 3, 2))),
        GaussianMixture(means, roots @ roots.mT + torch.eye(6)),
    ]


@pytest.mark.parametrize("number", range(3))
def test_its_mean_is_zero_and_its_metric_the_covariance(number: int) -> None:
    target = mixtures()[number]
    control = GaussianControl.of(target)
    assert control is not None
    x = target.sample(200_000, rng())
    f = control(x)
    assert abs(float(f.mean())) < 4 * float(f.std()) / len(f) ** 0.5
    flat = x.flatten(1).numpy()
    residual = flat - flat.mean(0)
    metric = np.linalg.inv(np.cov(residual.T))
    expected = 0.5 * (np.einsum("ni,ij,nj->n", residual, metric, residual) - 6)
    np.testing.assert_allclose(f.numpy(), expected, atol=0.3, rtol=0.03)


def test_what_goes_along_with_it_is_taken_out_without_bias() -> None:
    target = mixtures()[0]
    control = GaussianControl.of(target)
    assert control is not None
    means, covered, shrunk = [], 0, 0
    for seed in range(300):
        draws = rng(seed)
        x = target.sample(2 * FEWEST, draws)
        values = 0.7 + 2 * control(x) + 0.1 * draws.normal((len(x),))
        rest = control.subtracted(values, x)
        error = float(rest.std()) / len(x) ** 0.5
        means.append(float(rest.mean()))
        covered += abs(means[-1] - 0.7) < 1.96 * error
        shrunk += float(rest.std()) < 0.2 * float(values.std())
    assert np.mean(means) == pytest.approx(0.7, abs=4 * np.std(means) / 300**0.5)
    assert shrunk == 300
    assert covered >= 270  # of 285 at the level stated


def test_what_does_not_go_along_with_it_stays() -> None:
    target = mixtures()[0]
    control = GaussianControl.of(target)
    assert control is not None
    x, values = target.sample(2000, rng()), rng(9).normal((2000,))
    rest = control.subtracted(values, x)
    assert float(rest.var()) < 1.01 * float(values.var())
    few = control.subtracted(values[:20], x[:20])
    assert torch.equal(few, values[:20])
    values[3] = torch.inf
    assert control.subtracted(values, x) is values


def test_laws_without_cheap_moments_have_none() -> None:
    assert GaussianControl.of(from_spec("copy:tokens=4,symbols=3")) is None
    many = ProductMixture(torch.zeros(2, 300, 1), torch.ones(300, 1).double())
    assert GaussianControl.of(many) is None
