"""Divergences of Gaussians along axes that they share are those of their dense covariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from capcheck.laws.gaussian import GaussianLaw
from capcheck.laws.shared_axes import SharedAxes, diagonal

D = 12


def shared(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Axes, two covariances that share them, and two means."""
    rng = np.random.default_rng(seed)
    axes = torch.from_numpy(np.linalg.qr(rng.standard_normal((D, D)))[0])
    c, s = (torch.from_numpy(rng.uniform(0.2, 3, D)) for _ in range(2))
    m, mean = (torch.from_numpy(rng.standard_normal(D)) for _ in range(2))
    return axes, (axes * c) @ axes.T, (axes * s) @ axes.T, m, mean


def both(axes: Tensor, C: Tensor, m: Tensor) -> tuple[GaussianLaw, GaussianLaw]:
    """The law N(m, C) along its axes, and by its covariance alone."""
    c = (axes * (C @ axes)).sum(0)
    quick = GaussianLaw.along(SharedAxes(axes), mean=m, variances=c)
    return quick, GaussianLaw(mean=m, covariance=C)


@pytest.mark.parametrize("seed", range(3))
def test_divergences_are_those_without_axes(seed: int) -> None:
    axes, C, S, m, mean = shared(seed)
    quick, dense = both(axes, C, m)
    assert quick._pair(S, mean) is not None
    assert quick.rank == dense.rank == D
    for name in ("kl_from", "kl_to", "w2_squared"):
        found, expected = (getattr(law, name)(mean, S) for law in (quick, dense))
        assert found == pytest.approx(expected, rel=1e-11)
    h = [0.5, 1.0, 4.0]
    found, expected = (law.mmd_squared(mean, S, bandwidths=h) for law in (quick, dense))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_another_targets_axes_are_noticed() -> None:
    axes, C, _, m, mean = shared()
    other = shared(5)[2]
    quick, dense = both(axes, C, m)
    assert quick._pair(other, mean) is None
    assert quick.kl_from(mean, other) == pytest.approx(dense.kl_from(mean, other), rel=1e-12)
    assert quick.w2_squared(mean, other) == pytest.approx(dense.w2_squared(mean, other), rel=1e-12)


def test_variances_of_a_target_are_kept_for_the_same_tensor_only() -> None:
    axes, C, S, _, _ = shared()
    kept = SharedAxes(axes)
    first = kept.variances(S)
    assert kept.variances(S) is first
    of_another = kept.variances(C)
    assert of_another is not None
    torch.testing.assert_close(of_another, (axes * (C @ axes)).sum(0), rtol=1e-12, atol=0)
    assert kept.variances(shared(5)[2]) is None


def test_a_lost_direction_is_singular_also_along_axes() -> None:
    axes, _, S, m, mean = shared()
    c = torch.ones(D, dtype=torch.float64)
    c[3] = 0
    law = GaussianLaw.along(SharedAxes(axes), mean=m, variances=c)
    assert law.rank == D - 1
    assert law.kl_from(mean, S) == law.kl_to(mean, S) == float("inf")
    s = (axes * (S @ axes)).sum(0)
    gap = float((m - mean).square().sum() + (c.sqrt() - s.sqrt()).square().sum())
    assert law.w2_squared(mean, S) == pytest.approx(gap, rel=1e-9)


def test_a_diagonal_is_told_from_correlations_and_from_lost_directions() -> None:
    C = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert diagonal(C) is not None
    C[0, 1] = C[1, 0] = 1e-6
    assert diagonal(C) is None
    lost = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert diagonal(lost) is not None
    lost[0, 1] = lost[1, 0] = 1e-6
    assert diagonal(lost) is None
