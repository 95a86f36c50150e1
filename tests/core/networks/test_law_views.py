"""Rows of a law, laws side by side, and what a law says of a noisy token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.laws import Categorical, MixtureOfGaussians, SideBySide, TokenLaw
from capcheck.noise.paths import PATHS
from capcheck.targets import GaussianMixture, from_spec
from capcheck.targets.target import ContinuousTarget, Target

MODES = from_spec("modes:tokens=3,modes=3,gap=3")
FULL = GaussianMixture(
    torch.tensor([[[0.0], [1.0], [2.0]], [[3.0], [-1.0], [0.0]]]).double(),
    torch.stack([torch.eye(3) + 0.5, 2 * torch.eye(3)]).double(),
)
TABLE = from_spec("copy:tokens=3,symbols=4")


def law_of(target: Target) -> tuple[TokenLaw, torch.Tensor]:
    x = target.sample(9, CounterRandomness(0))
    levels = torch.tensor([[0.0, 1.0, 1.0]]).double().expand(9, 3)
    return target.marginals(x, levels), x


@pytest.mark.parametrize("target", [MODES, FULL, TABLE], ids=["product", "full", "table"])
def test_rows_of_a_law_draw_what_the_whole_law_draws_there(target: Target) -> None:
    law, x = law_of(target)
    index = torch.tensor([7, 2, 5])
    some = law.rows(index)
    whole = law.select([1, 2]).sample(CounterRandomness(1))
    assert torch.equal(some.select([1, 2]).sample(CounterRandomness(1)), whole[index])
    expected = law.log_prob(x)[index]
    found = some.log_prob(x[index])
    assert torch.allclose(found.nan_to_num(posinf=9), expected.nan_to_num(posinf=9))
    assert torch.equal(some.rows(torch.tensor([1])).mean(), law.mean()[[2]])


@pytest.mark.parametrize("target", [MODES, FULL, TABLE], ids=["product", "full", "table"])
def test_side_by_side_is_each_law_by_itself(target: Target) -> None:
    law, x = law_of(target)
    beside = SideBySide([law.select([i]) for i in (2, 1)])
    order = law.select([2, 1])
    assert torch.allclose(beside.log_prob(x[:, [2, 1]]), order.log_prob(x[:, [2, 1]]))
    assert torch.allclose(beside.mean(), order.mean())
    assert torch.allclose(beside.select([1]).mean(), law.select([1]).mean())
    assert beside.sample(CounterRandomness(0)).shape == x[:, :2].shape


@pytest.mark.parametrize("target", [MODES, FULL], ids=["product", "full"])
def test_a_noisy_token_is_denoised_by_its_own_law(target: Target) -> None:
    law, _ = law_of(target)
    x_t = torch.linspace(-2, 3, 9).double()[:, None, None].expand(9, 3, 1)
    t = torch.full((9, 3), 0.4).double()
    path = PATHS["cosine"]
    alpha, sigma = (float(f(t[:1, :1])) for f in (path.alpha, path.sigma))
    found = law.denoise(x_t, t, path)
    for row in (0, 4, 8):
        for token in (1, 2):
            own = law.rows(torch.tensor([row])).select([token])

            def weight(x: float, own: TokenLaw = own, row: int = row) -> float:
                noise = (float(x_t[row, 0, 0]) - alpha * x) / sigma
                log_p = own.log_prob(torch.tensor([[[x]]]).double())
                return float(torch.exp(log_p - 0.5 * noise**2))

            # Trapezoids of Gaussians of deviation s are exact to exp(-2 pi^2 s^2 / step^2).
            nodes = np.arange(-15, 20, 0.1)
            w = np.array([weight(x) for x in nodes.tolist()])
            assert float(found[row, token, 0]) == pytest.approx(nodes @ w / w.sum(), abs=1e-7)
    clean = law.denoise(x_t, torch.zeros_like(t), path)
    assert torch.equal(clean, x_t)  # a token without noise is what it is seen to be


def test_denoising_with_a_full_covariance_is_gaussian_conditioning() -> None:
    C = torch.tensor([[2.0, 0.9], [0.9, 1.0]]).double()
    m = torch.tensor([0.3, -0.2]).double()
    law = MixtureOfGaussians(
        torch.zeros(1, 1, 1).double(), m[None, None, None], C[None, None, None]
    )
    x_t, t = torch.tensor([[[1.0, 2.0]]]).double(), torch.full((1, 1), 0.3).double()
    alpha, sigma = 0.7, 0.3
    gain = alpha * C @ torch.linalg.inv(alpha**2 * C + sigma**2 * torch.eye(2).double())
    expected = m + gain @ (x_t[0, 0] - alpha * m)
    assert torch.allclose(law.denoise(x_t, t, PATHS["linear"])[0, 0], expected)


def test_categorical_tokens_cannot_be_denoised() -> None:
    law = Categorical(torch.zeros(1, 1, 2).double())
    with pytest.raises(InputError, match="continuous"):
        law.denoise(torch.zeros(1, 1), torch.zeros(1, 1), PATHS["linear"])


@pytest.mark.parametrize("target", [MODES, FULL], ids=["product", "full"])
def test_the_score_is_the_gradient_of_the_log_density(target: Target) -> None:
    assert isinstance(target, ContinuousTarget)
    x = target.sample(6, CounterRandomness(2))
    step = 1e-5
    for token in range(3):
        e = torch.zeros(3, 1).double()
        e[token] = step
        slope = (target.log_prob(x + e) - target.log_prob(x - e)) / (2 * step)
        assert (target.score(x)[:, token, 0] - slope).abs().max() < 1e-5


@pytest.mark.parametrize("target", [MODES, TABLE], ids=["product", "table"])
def test_components_sum_to_the_law(target: Target) -> None:
    products = target.products()
    assert products is not None
    x = target.sample(6, CounterRandomness(3))
    joint = products.log_weights + products.log_likelihood(x, [0, 1, 2])
    assert torch.allclose(joint.logsumexp(1), target.log_prob(x))
    component = products.log_posterior(x).argmax(1)
    of_law = products.law(component).log_prob(x).sum(1)
    assert torch.allclose(of_law, products.log_likelihood(x, [0, 1, 2])[range(6), component])
