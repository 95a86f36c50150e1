from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.laws import Categorical, MixtureOfGaussians, certain
from capcheck.noise.paths import PATHS

LOG_WEIGHTS = torch.log(torch.tensor([[[0.2, 0.8]]], dtype=torch.float64))
MEANS = torch.tensor([[[[-1.0], [2.0]], [[0.0], [5.0]]]], dtype=torch.float64)  # (1, 2, 2, 1)
VARIANCES = torch.tensor([[[[0.25], [1.0]], [[1.0], [4.0]]]], dtype=torch.float64)


@pytest.fixture
def law() -> MixtureOfGaussians:
    return MixtureOfGaussians(LOG_WEIGHTS, MEANS, VARIANCES)


def density(token: int, x: float) -> float:
    w, m, v = (0.2, 0.8), MEANS[0, token, :, 0].numpy(), VARIANCES[0, token, :, 0].numpy()
    return float(sum(w[c] * stats.norm.pdf(x, m[c], np.sqrt(v[c])) for c in range(2)))


@pytest.mark.parametrize("token", [0, 1])
def test_mixture_agrees_with_quadrature(law: MixtureOfGaussians, token: int) -> None:
    x = torch.full((1, 2, 1), 1.3, dtype=torch.float64)
    mean = integrate.quad(lambda v: v * density(token, v), -40, 60, limit=200)[0]
    second = integrate.quad(lambda v: v**2 * density(token, v), -40, 60, limit=200)[0]
    below = integrate.quad(lambda v: density(token, v), -40, 1.3, limit=200)[0]
    assert law.log_prob(x)[0, token] == pytest.approx(np.log(density(token, 1.3)), abs=1e-12)
    assert law.mean()[0, token, 0] == pytest.approx(mean, abs=1e-8)
    assert law.variance()[0, token, 0] == pytest.approx(second - mean**2, abs=1e-7)
    assert law.cdf(x)[0, token] == pytest.approx(below, abs=1e-8)


def test_quantiles_invert_the_cdf(law: MixtureOfGaussians) -> None:
    for u in (1e-9, 0.01, 0.2, 0.5, 0.999, 1 - 1e-9):
        at = torch.full((1, 2), u, dtype=torch.float64)
        assert law.cdf(law.icdf(at)) == pytest.approx(at, rel=1e-9)


def test_samples_follow_the_law(law: MixtureOfGaussians) -> None:
    many = MixtureOfGaussians(LOG_WEIGHTS, MEANS.expand(8000, 2, 2, 1), VARIANCES)
    draws = many.sample(CounterRandomness(1))
    probability = many.cdf(draws)
    for token in (0, 1):
        assert stats.kstest(probability[:, token].numpy(), "uniform").pvalue > 1e-3


def test_a_known_token_is_a_point_mass() -> None:
    law = MixtureOfGaussians(LOG_WEIGHTS, torch.ones(1, 1, 2, 1), torch.zeros(1, 1, 1, 1))
    on, off = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    assert law.log_prob(on) == torch.inf
    assert law.log_prob(off) == -torch.inf


def test_vector_tokens_have_no_cdf() -> None:
    law = MixtureOfGaussians(LOG_WEIGHTS, torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 1, 3))
    with pytest.raises(InputError, match="dimension 1, got 3"):
        law.cdf(torch.zeros(1, 1, 3))


def test_categorical_agrees_with_scipy() -> None:
    p = np.array([0.1, 0.0, 0.6, 0.3])
    law = Categorical(torch.log(torch.tensor(p)).expand(5000, 1, 4))
    draws = law.sample(CounterRandomness(2))[:, 0]
    counts = np.bincount(draws, minlength=4)
    assert counts[1] == 0
    assert stats.chisquare(counts[p > 0], 5000 * p[p > 0]).pvalue > 1e-3
    x = torch.tensor([[0], [2], [3]])
    first = Categorical(law.log_probabilities[:3])
    assert first.log_prob(x)[:, 0].exp() == pytest.approx(p[[0, 2, 3]])
    assert first.cdf(x)[:, 0] == pytest.approx([0.1, 0.7, 1.0])
    assert first.icdf(torch.tensor([[0.05], [0.65], [0.75]]).double())[:, 0].tolist() == [0, 2, 3]
    assert first.mean()[0, 0] == pytest.approx(p)
    assert first.variance()[0, 0] == pytest.approx(p * (1 - p))


def test_point_masses_at_token_ids_are_those_of_a_table() -> None:
    x, V = torch.tensor([[0, 3, 1], [2, 2, 0]]), 4
    law = certain(x, V, torch.float64)
    table = Categorical(torch.nn.functional.one_hot(x, V).double().log())
    other = torch.tensor([[0, 2, 1], [3, 1, 0]])
    u = torch.full(x.shape, 0.3).double()
    for one, same in ((law, table), (law.select([2, 0]), table.select([2, 0]))):
        columns = slice(None) if one is law else [2, 0]
        for y in (x[:, columns], other[:, columns]):
            assert one.log_prob(y).tolist() == same.log_prob(y).tolist()
            assert one.cdf(y).tolist() == same.cdf(y).tolist()
        assert one.sample(CounterRandomness(0)).tolist() == x[:, columns].tolist()
        assert one.icdf(u[:, columns]).tolist() == x[:, columns].tolist()
        assert one.mean().tolist() == same.mean().tolist()
    chosen = x > 1
    assert law.sample_where(CounterRandomness(0), chosen).tolist() == [[0, 3, 0], [2, 2, 0]]
    assert law.log_prob_where(other, chosen)[~chosen].tolist() == [0.0] * 3
    wide = certain(torch.zeros(1000, 1000, dtype=torch.int64), 10**9, torch.float64)
    assert wide.log_prob(torch.zeros(1000, 1000, dtype=torch.int64)).sum() == 0  # without a table


def test_numbers_of_one_variance_take_a_shorter_way_to_the_same_answers() -> None:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    log_weights, means, x = draw(4, 3, 6), draw(4, 3, 6, 1), draw(4, 3, 1)
    variance, path = draw(4, 3, 1, 1).square() + 0.1, PATHS["cosine"]
    t = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    t[0] = torch.tensor([0.0, 1.0, 0.5])
    short = MixtureOfGaussians(log_weights, means, variance)
    long = MixtureOfGaussians(log_weights, means, variance.expand(-1, -1, 6, -1))
    assert torch.allclose(short.log_prob(x), long.log_prob(x), rtol=1e-12)
    assert torch.allclose(short.denoise(x, t, path), long.denoise(x, t, path), rtol=1e-11)
    ways = zip(
        short.denoise_with_derivative(x, t, path),
        long.denoise_with_derivative(x, t, path),
        strict=True,
    )
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in ways)
    assert torch.equal(short.select([1, 1]).means, means[:, [1, 1]])


@pytest.mark.parametrize("shared", [True, False])
def test_mixtures_can_be_differentiated(shared: bool) -> None:
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> torch.Tensor:
        return 0.1 + 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64)

    log_weights, means, x = (
        draw(*shape).requires_grad_() for shape in ((3, 2, 5), (3, 2, 5, 1), (3, 2, 1))
    )
    t, variances = draw(3, 2), draw(3, 2, 1 if shared else 5, 1)

    def denoised(x: torch.Tensor, w: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return MixtureOfGaussians(w, m, variances).denoise(x, t, PATHS["cosine"])

    def log_prob(x: torch.Tensor, w: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return MixtureOfGaussians(w, m, variances).log_prob(x)

    assert torch.autograd.gradcheck(denoised, (x, log_weights, means))
    assert torch.autograd.gradcheck(log_prob, (x, log_weights, means))
