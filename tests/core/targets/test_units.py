"""Units and origins: what is found of a law does not depend on the scale that it was measured on.

The law in other units is built from moved parameters, never by the method that procedures use.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core.targets.test_conformance import CONTINUOUS
from torch import Tensor

from capcheck import SurveyResult, survey
from capcheck.core.randomness import CounterRandomness
from capcheck.data import Layout, load_target
from capcheck.divergences.estimate import Estimate
from capcheck.targets import (
    ContinuousTarget,
    DiagonalMixture,
    GaussianMixture,
    ProductMixture,
    from_samples,
)

FAMILIES = ["gpt", "diffusion", "ebm"]
CHANGES = {
    "x 1/255": (1 / 255, 0.0),
    "x 10 + 3": (10.0, 3.0),
    "x 100": (100.0, 0.0),
    "x 1e-6": (1e-6, 0.0),
    "+ 1000": (1.0, 1000.0),
}
OF_EVERY_LAW = ["x 10 + 3"]
# A law that is noisy, turned or permuted has the type of another one, and other parameters.
SAME_TYPES = ("noisy", "turned", "permuted")
BOTH = "full gaussians, noisy, turned"
LAWS = [case for case in CONTINUOUS if case == BOTH or not case.endswith(SAME_TYPES)]
OF_SOME_LAWS = ["product mixture, shared scales", "full gaussians, vectors", "diagonal mixture"]
# Langevin steps move tokens in their own unit and in float32, whose spacing near 1000 is 6e-5.
LANGEVIN = {change: 1e-3 if change == "+ 1000" else 1e-5 for change in CHANGES}
POWERS = {"kl": 0, "mmd": 0, "wasserstein": 2}


def moved(target: ContinuousTarget, factor: float, shift: float) -> ContinuousTarget:
    """The law of factor x + shift, from its parameters."""
    assert isinstance(target, ProductMixture | DiagonalMixture | GaussianMixture)
    means = factor * target.means + shift
    if isinstance(target, GaussianMixture):
        covariances = factor**2 * target.covariances
        return GaussianMixture(means, covariances, weights=target.weights)
    if isinstance(target, DiagonalMixture):
        return DiagonalMixture(means, factor * target.scales, weights=target.weights)
    weights = target.products().log_weights[0].exp()
    return ProductMixture(means, factor * target.scales, weights=weights)


def measured(target: ContinuousTarget) -> SurveyResult:
    first = max(1, target.spec.tokens // 2)
    return survey(
        target,
        FAMILIES,
        samples=200,
        lengths=[first, target.spec.tokens],
        steps=[2],
        network="none",
        seconds_per_cell=0.05,
    )


@functools.cache
def plain(case: str) -> SurveyResult:
    return measured(CONTINUOUS[case]()[0])


def assert_equal_up_to_units(
    one: SurveyResult,
    other: SurveyResult,
    factor: float,
    *,
    rel: float = 1e-6,
    langevin: float | None = None,
) -> None:
    assert [found.family for found in one.families] == FAMILIES
    for a, b in zip(one.families, other.families, strict=True):
        assert a.error is None
        assert (a.outcome, a.axes) == (b.outcome, b.axes), a.family
        near = langevin or rel if a.family == "ebm" else rel
        assert [cell.outcome for cell in a.cells] == [cell.outcome for cell in b.cells]
        for cell, same in zip(a.cells, b.cells, strict=True):
            for name, power in POWERS.items():
                where = f"{a.family}, {cell.budget}, {name}"
                assert_equal_estimates(
                    cell.estimates[name], same.estimates[name], factor**power, near, where
                )


def assert_equal_estimates(
    one: Estimate, other: Estimate, factor: float, rel: float, where: str
) -> None:
    assert one.kind == other.kind, where
    for field in ("value", "low", "high", "null", "null_error"):
        a, b = getattr(one, field), getattr(other, field)
        if a is None or math.isinf(a):
            assert a == b, where
            continue
        slack = 1e-8 * max(1.0, one.scale)
        assert b / factor == pytest.approx(a, rel=rel, abs=slack), f"{where}, {field}"


@pytest.mark.parametrize("change", OF_EVERY_LAW)
@pytest.mark.parametrize("case", LAWS)
def test_verdicts_and_numbers_do_not_depend_on_unit_and_origin(case: str, change: str) -> None:
    factor, shift = CHANGES[change]
    other = measured(moved(CONTINUOUS[case]()[0], factor, shift))
    assert_equal_up_to_units(plain(case), other, factor, langevin=LANGEVIN[change])


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - OF_EVERY_LAW))
@pytest.mark.parametrize("case", OF_SOME_LAWS)
def test_extreme_units_and_origins_change_nothing_either(case: str, change: str) -> None:
    factor, shift = CHANGES[change]
    other = measured(moved(CONTINUOUS[case]()[0], factor, shift))
    assert_equal_up_to_units(plain(case), other, factor, langevin=LANGEVIN[change])


def test_another_law_is_told_apart() -> None:
    case = "product mixture, shared scales"
    target = CONTINUOUS[case]()[0]
    assert isinstance(target, ProductMixture)
    scales = target.scales.clone()
    scales[0] *= 1.001
    other = ProductMixture(target.means, scales, weights=target.products().log_weights[0].exp())
    with pytest.raises(AssertionError):
        assert_equal_up_to_units(plain(case), measured(other), 1.0)
    with pytest.raises(AssertionError):  # W2 squared goes with the square of the unit
        assert_equal_up_to_units(plain(case), plain(case), 1.01)


def test_rows_in_python_and_in_a_file_have_the_same_verdicts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = 255 * rng.beta(0.5, 0.5, size=(40, 3)) + rng.normal(size=(40, 1))
    np.save(tmp_path / "rows.npy", rows)
    loaded = load_target(str(tmp_path / "rows.npy"), Layout())
    assert isinstance(loaded, ContinuousTarget)
    assert float(loaded.spec.variance.mean()) == pytest.approx(1, abs=0.2)
    unit = rows.std(0)
    scale = math.sqrt(float((unit**2).mean()))  # what the loader divides by
    direct = from_samples(rows)
    assert isinstance(direct, ContinuousTarget)
    assert float(direct.spec.variance.mean()) > 1000
    assert_equal_up_to_units(measured(loaded), measured(direct), scale, rel=1e-5)


# The law of (x - m) / u itself.


def standard(target: ContinuousTarget) -> tuple[ContinuousTarget, Tensor, float]:
    inside, mean, units = target.standardised
    assert bool((units == units.flatten()[0]).all())
    return inside, mean, float(units.flatten()[0])


@pytest.mark.parametrize("case", CONTINUOUS)
def test_the_standardised_law_has_mean_zero_and_variance_one_and_the_moved_density(
    case: str,
) -> None:
    target, reference = CONTINUOUS[case]()
    inside, mean, unit = standard(target)
    assert type(inside) is type(target)
    assert inside.dtype == target.dtype
    assert inside.spec.mean.abs().max() < 1e-12
    assert float(inside.spec.variance.mean()) == pytest.approx(1, rel=1e-12)
    x = torch.tensor(reference.draw(20, np.random.default_rng(0)))
    expected = np.array([reference.log_prob(row) for row in x.numpy()])
    found = inside.log_prob((x - mean) / unit) - mean.numel() * math.log(unit)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    draws = inside.sample(50, CounterRandomness(0))
    own = (target.sample(50, CounterRandomness(0)) - mean) / unit
    assert torch.allclose(draws, own, rtol=0, atol=1e-10)


@pytest.mark.parametrize("unit", [1e-90, 1e90])
@pytest.mark.parametrize("kind", [ProductMixture, DiagonalMixture, GaussianMixture])
def test_huge_and_tiny_units_are_taken_out(kind: type[Any], unit: float) -> None:
    means = torch.tensor([[[0.0], [1.0]], [[2.0], [-1.0]]], dtype=torch.float64)
    scales = torch.tensor([[1.0], [0.5]], dtype=torch.float64)

    def made(factor: float) -> ContinuousTarget:
        if kind is GaussianMixture:
            covariance = (factor * scales.flatten()).square().diag()
            target: ContinuousTarget = GaussianMixture(factor * means, covariance.expand(2, 2, 2))
        elif kind is DiagonalMixture:
            target = DiagonalMixture(factor * means, (factor * scales).expand(2, 2, 1))
        else:
            target = ProductMixture(factor * means, factor * scales)
        return target

    plain, (inside, mean, found) = standard(made(1.0))[0], standard(made(unit))
    x = torch.tensor([[[0.3], [-0.2]], [[2.0], [0.4]]], dtype=torch.float64)
    assert inside.log_prob(x).tolist() == pytest.approx(plain.log_prob(x).tolist(), rel=1e-9)
    # Tokens: means 1 and 0, variances 1 + 1 and 0.25 + 1.
    assert (mean / unit).flatten().tolist() == pytest.approx([1, 0])
    assert found == pytest.approx(unit * math.sqrt((2 + 1.25) / 2))


def test_single_precision_is_moved_in_its_own_digits() -> None:
    rng = np.random.default_rng(1)
    rows = torch.tensor(1e-25 * rng.normal(size=(30, 2, 1)) + 1e-24, dtype=torch.float32)
    target = ProductMixture(rows, torch.full((2, 1), 1e-26))
    assert target.dtype == torch.float32
    inside, mean, unit = standard(target)
    assert (inside.dtype, mean.dtype) == (torch.float32, torch.float32)
    assert float(inside.spec.variance.mean()) == pytest.approx(1, rel=1e-4)
    assert unit == pytest.approx(1e-25, rel=0.5)  # whose square float32 cannot hold


def test_rows_on_disk_are_moved_as_they_are_read(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).normal(size=(500, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", 3 * rows + 5)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r+")
    means = torch.from_numpy(mapped).reshape(500, 4, 1)
    target = ProductMixture(means, torch.full((4, 1), 0.6))
    inside, mean, unit = standard(target)
    assert isinstance(inside, ProductMixture)
    assert inside._means.stored.data_ptr() == means.data_ptr()
    copied = ProductMixture((means.double() - mean) / unit, torch.full((4, 1), 0.6) / unit)
    x = copied.sample(30, CounterRandomness(0))
    t = torch.full((30, 4), 0.3).double()
    found = inside.log_prob(x.float())
    assert torch.allclose(found, copied.log_prob(x).float(), rtol=1e-5)
    for causal in (False, True):
        found = inside.marginals(x.float(), t.float(), causal=causal).mean()
        expected = copied.marginals(x, t, causal=causal).mean()
        assert torch.allclose(found, expected.float(), atol=1e-5)
    assert torch.allclose(inside.means, copied.means, atol=1e-6)
    # Twice is once, and noise and another precision follow.
    again = inside.relative_to(torch.ones(4, 1), 2.0)
    assert again.spec.mean.flatten().tolist() == pytest.approx([-0.5] * 4, abs=1e-6)
    wide = again.to(device="cpu", dtype=torch.float64)
    assert float(wide.spec.variance.mean()) == pytest.approx(0.25, rel=1e-6)
    assert inside.fingerprint != again.fingerprint != target.fingerprint
