"""The law of one token of each row says what the law of all tokens says of that token."""

from __future__ import annotations

import pytest
import torch

from capcheck.core.randomness import CounterRandomness
from capcheck.noise.paths import PATHS
from capcheck.targets import DiagonalMixture, GaussianMixture, ProductMixture, from_spec
from capcheck.targets.continuous import posterior_law
from capcheck.targets.target import ContinuousTarget

N, D, ROWS = 3, 2, 7
MEANS = CounterRandomness(1).normal((40, N, D))
SCALES = torch.full((N, D), 0.1, dtype=torch.float64)


def gaussians() -> GaussianMixture:
    root = CounterRandomness(2).normal((3, N * D, N * D))
    covariance = root @ root.mT + torch.eye(N * D, dtype=torch.float64)
    return GaussianMixture(MEANS[:3], covariance)


TARGETS: dict[str, ContinuousTarget] = {
    "product": ProductMixture(MEANS, SCALES),
    "diagonal": DiagonalMixture(MEANS[:4], SCALES.expand(4, N, D)),
    "gaussians": gaussians(),
}


@pytest.mark.parametrize("held", [1 << 24, 1])
@pytest.mark.parametrize("known", [(), (1,)])
@pytest.mark.parametrize("name", TARGETS)
def test_a_picked_law_is_that_of_its_token(
    name: str, known: tuple[int, ...], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posterior_law, "HELD", held)
    target, path = TARGETS[name], PATHS["cosine"]
    x = target.sample(ROWS, CounterRandomness(3))
    levels = torch.ones(ROWS, N, dtype=torch.float64)
    levels[:, list(known)] = 0
    index = torch.tensor([0, 2, 2, 0, 2, 0, 2])
    law, rows = target.marginals(x, levels, path), torch.arange(ROWS)
    one = law.pick(index)
    y = target.sample(ROWS, CounterRandomness(4))
    t = torch.linspace(0.1, 0.9, ROWS, dtype=torch.float64)[:, None].expand(-1, N)
    for found, expected in (
        (one.mean(), law.mean()),
        (one.variance(), law.variance()),
        (one.log_prob(y[rows, index][:, None]), law.log_prob(y)),
        (one.denoise(y[rows, index][:, None], t[:, :1], path), law.denoise(y, t, path)),
    ):
        torch.testing.assert_close(found[:, 0], expected[rows, index], rtol=1e-9, atol=1e-9)
    some = torch.tensor([5, 1])
    torch.testing.assert_close(one.rows(some).mean(), one.mean()[some])


def test_a_picked_law_of_one_gaussian_is_that_of_its_token() -> None:
    target = from_spec("gaussian:ar1,tokens=3,rho=0.6")
    x = target.sample(2, CounterRandomness(3))
    law = target.marginals(x, torch.tensor([[1.0, 0, 1], [0, 1, 1]], dtype=torch.float64))
    picked = law.pick(torch.tensor([2, 1]))
    assert picked.mean()[:, 0].tolist() == [law.mean()[0, 2].tolist(), law.mean()[1, 1].tolist()]
