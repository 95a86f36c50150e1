"""Sums of exponentials against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.special import softmax as scipy_softmax

from capcheck.core.log_sums import log_sum_exp, log_sum_exp_, softmax, softmax_

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("scale", [0.1, 30.0, 1e4])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_it_is_the_logarithm_of_the_sum(scale: float, dim: int) -> None:
    x = scale * RANDOM.normal(size=(7, 5, 40))
    found = log_sum_exp(torch.from_numpy(x), dim)
    assert found.numpy() == pytest.approx(logsumexp(x, axis=dim), rel=1e-14, abs=1e-14)
    single = log_sum_exp(torch.from_numpy(x).float(), dim)
    assert single.numpy() == pytest.approx(logsumexp(x, axis=dim), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([-math.inf, -math.inf], -math.inf),
        ([-math.inf, 3.0], 3.0),
        ([math.inf, 3.0], math.inf),
        ([-2000.0, -2000.0], -2000.0 + math.log(2)),
        ([2000.0, -2000.0], 2000.0),
    ],
)
def test_infinities_and_far_terms(x: list[float], expected: float) -> None:
    assert float(log_sum_exp(torch.tensor(x, dtype=torch.float64))) == pytest.approx(expected)


def test_what_is_not_a_number_stays_so() -> None:
    x = torch.tensor([[math.nan, 1.0], [0.0, 0.0]])
    assert log_sum_exp(x).isnan().tolist() == [True, False]


def test_its_derivative_is_the_softmax() -> None:
    x = torch.tensor(RANDOM.normal(size=(3, 6)), requires_grad=True)
    log_sum_exp(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, x.detach().softmax(-1))


@pytest.mark.parametrize("columns", [0, 1, 40])
def test_sums_in_place_are_the_same_also_of_no_columns(columns: int) -> None:
    x = torch.from_numpy(RANDOM.normal(size=(7, 5, columns)))
    assert torch.equal(log_sum_exp_(x.clone()), log_sum_exp(x))
    share = softmax_(x.clone())
    assert torch.equal(share, softmax(x))
    assert share.numpy() == pytest.approx(scipy_softmax(x.numpy(), axis=-1)) if columns else True
    assert bool((log_sum_exp(x) == -math.inf).all()) == (columns == 0)
