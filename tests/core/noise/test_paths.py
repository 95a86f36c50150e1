from __future__ import annotations

import pytest
import torch

from capcheck.noise.paths import PATHS, NoisePath


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_ends_are_exact_and_derivatives_agree_with_autograd(path: NoisePath) -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert path.alpha(ends).tolist() == [1, 0]
    assert path.sigma(ends).tolist() == [0, 1]
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(path.alpha(t).sum(), t)
    assert path.alpha_dot(t).tolist() == pytest.approx(slope.tolist())
    (slope,) = torch.autograd.grad(path.sigma(t).sum(), t)
    assert path.sigma_dot(t).tolist() == pytest.approx(slope.tolist())
