"""Draws of a sampler that diverges: one answer to rows that are not finite or cannot be squared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from capcheck import Outcome, check
from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.diagnostics.diagnosis import DIAGNOSES
from capcheck.divergences.evidence import ModelEvidence
from capcheck.divergences.kernels import kernel_tiles
from capcheck.divergences.lost import FARTHEST, lost_rows
from capcheck.divergences.mmd import kernel_row_means, mmd_squared
from capcheck.divergences.reference import Reference
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import Denoiser, DenoiserSignature, Signature
from capcheck.procedures.probe import Probe, State
from capcheck.procedures.rows import Row
from capcheck.targets import ProductMixture, from_spec
from capcheck.targets.target import Target

ROWS = 2000
FAR = [1e170, math.inf, -math.inf, math.nan]
far = pytest.mark.parametrize("value", FAR)


def spoilt(x: Tensor, value: float, rows: int) -> Tensor:
    return torch.cat([torch.full_like(x[:rows], value), x[rows:]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diverging(Probe[Denoiser]):
    """Draws of the right law (unit normals), but for the rows that were spoilt."""

    family: ClassVar[str] = "diverging"
    row: ClassVar[Row] = "neither"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset()
    value: float = math.inf
    every: int = 1

    @property
    def signature(self) -> Signature[Denoiser]:
        return DenoiserSignature("linear")

    def run(
        self,
        network: Denoiser,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        yield start
        x = rng.normal(tuple(start.tokens.shape)).to(start.tokens)
        u = rng.stream("which").uniform((start.n,))
        where = (u < 1 / self.every)[:, None, None]
        yield start.write(torch.where(where, torch.full_like(x, self.value), x))


def test_a_row_is_lost_if_its_square_has_no_variance() -> None:
    rows = [[0.0, 1e69], [0, 1e71], [math.nan, 0], [0, -math.inf], [-1e70, 0]]
    x = torch.tensor(rows, dtype=torch.float64)
    assert lost_rows(x, 1.0).tolist() == [False, True, True, True, False]
    assert lost_rows(x, 100.0).tolist() == [False, False, True, True, False]
    assert lost_rows(x, 1e300).tolist() == [False, False, True, True, False]
    single = torch.tensor([[1e38, 0], [math.inf, 0], [0, math.nan]], dtype=torch.float32)
    assert lost_rows(single, 1.0).tolist() == [False, True, True]
    assert math.isfinite(FARTHEST**4)
    assert not lost_rows(torch.tensor([[2**40, 0]]), 1.0).any()


@far
def test_kernels_of_lost_rows_are_zero_and_of_others_as_without_them(value: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 2)), rng.normal(size=(30, 2))
    lost = np.arange(40) % 3 == 1
    spoilt_x = torch.tensor(np.where(lost[:, None], value, x))
    expected = rbf_kernel(x, y, gamma=1 / (2 * 0.8**2)) * ~lost[:, None]
    (of_rows,) = kernel_row_means(spoilt_x, torch.tensor(y), (0.8,))
    assert of_rows.tolist() == pytest.approx(expected.mean(1).tolist(), abs=1e-12)
    (of_columns,) = kernel_row_means(torch.tensor(y), spoilt_x, (0.8,))
    assert of_columns.tolist() == pytest.approx(expected.mean(0).tolist(), abs=1e-12)
    own = rbf_kernel(x, x, gamma=1 / (2 * 0.8**2)) * ~lost[:, None] * ~lost
    np.fill_diagonal(own, 0)
    (within,) = kernel_row_means(spoilt_x, spoilt_x, (0.8,), same=True)
    assert within.tolist() == pytest.approx((own.sum(1) / 39).tolist(), abs=1e-12)
    own_y = rbf_kernel(y, y, gamma=1 / (2 * 0.8**2))
    unbiased = own.sum() / (40 * 39) + (own_y.sum() - 30) / (30 * 29) - 2 * expected.mean()
    found = mmd_squared(spoilt_x, torch.tensor(y), 0.8)
    assert found.value == pytest.approx(unbiased, abs=1e-12)
    assert math.isfinite(found.standard_error)


def test_two_samples_that_are_lost_throughout_have_kernels_of_zero() -> None:
    x = torch.full((5, 2), math.nan, dtype=torch.float64)
    tiles = [tile.clone() for *_, tile in kernel_tiles(x, -x, bandwidths=(1.0, 0.5))]
    assert len(tiles) == 2
    assert all(bool((tile == 0).all()) for tile in tiles)


TARGETS = ["gaussian:tokens=2", "modes:tokens=2,gap=3", "modes:tokens=12,gap=3"]


@pytest.mark.parametrize("spec", TARGETS)
@pytest.mark.parametrize("rows", [1, ROWS])
@far
def test_w2_is_infinite_and_mmd_that_of_kernels_of_zero(spec: str, rows: int, value: float) -> None:
    target = from_spec(spec)
    names = ("wasserstein", "mmd", "reverse_kl")
    reference = Reference(target, divergences=names, samples=ROWS, seed=0)
    x = target.sample(ROWS, CounterRandomness(0, name="model"))
    found = reference.estimates(ModelEvidence(samples=spoilt(x, value, rows)))
    for name in ("wasserstein", "reverse_kl"):
        assert (found[name].value, found[name].low, found[name].high) == (math.inf,) * 3
        assert found[name].p_above(1e300) == 0
        assert found[name].p_within(1e300) == 1
        assert f"{rows} of 2000 draws are infinitely far out" in found[name].method
    mmd = found["mmd"].value
    assert mmd is not None
    if rows == 1:  # one kernel mean in 2,000 moves it by less than 2 / 2,000 of the variance
        clean = reference.estimates(ModelEvidence(samples=x))["mmd"].value
        assert mmd == pytest.approx(clean, abs=4e-3)
    else:  # E k(Y, Y') / (1 - E k(Y, Y')), the largest over bandwidths
        own = [target.kernel_self_mean(h) for h in reference.bandwidths]
        expected = [k / (1 - k) for k in own if k is not None]
        assert len(expected) == 3
        assert mmd == pytest.approx(max(expected), rel=1e-6)
    assert "draws are infinitely far out" in found["mmd"].method


def test_rows_that_can_be_squared_are_not_lost_and_far_from_it() -> None:
    target = from_spec("modes:tokens=2,gap=3")
    reference = Reference(target, divergences=("wasserstein", "mmd"), samples=400, seed=0)
    x = torch.full((400, 2, 1), 1e60, dtype=torch.float64)
    found = reference.estimates(ModelEvidence(samples=x))["wasserstein"]
    assert found.value == pytest.approx(2e120, rel=1e-6)  # |x|^2 of two tokens
    assert found.kind != "lower bound"


SOME = [(1, ROWS), (2000, 1)]  # one row in `every` is spoilt: of 2,000 rows about `due`


@pytest.mark.parametrize(("every", "due"), SOME)
@pytest.mark.parametrize("spec", ["gaussian:tokens=2", "modes:tokens=2,gap=1"])
@far
def test_a_procedure_that_diverges_is_refused(
    spec: str, value: float, every: int, due: int
) -> None:
    probe = Diverging(value=value, every=every)
    target = from_spec(spec)
    result = check(
        probe,
        target,
        lengths=[2],
        steps=[1],
        samples=ROWS,
        seed=3,
        divergences=["wasserstein", "mmd"],
        diagnose=DIAGNOSES,
    )
    (cell,) = result.cells
    assert result.outcome is Outcome.NOT_REPRESENTABLE
    assert cell.estimates["wasserstein"].value == math.inf
    assert "wasserstein is infinite" in cell.reason
    assert cell.witness is not None
    assert (cell.witness.lost == due) if every == 1 else (1 <= cell.witness.lost <= 5)
    (said, *_) = cell.witness.sentences()
    assert said.startswith(f"{cell.witness.lost} of 2000 draws are infinitely far out")
    assert all(one.value is None and "infinitely far" in one.method for one in cell.diagnoses)
    assert len(cell.diagnoses) == len(DIAGNOSES)


def test_the_same_procedure_that_never_diverges_is_accepted() -> None:
    probe = Diverging(value=math.inf, every=10**9)
    target = from_spec("gaussian:tokens=1")
    result = check(
        probe,
        target,
        lengths=[1],
        steps=[1],
        samples=1000,
        divergences=["wasserstein"],
        tolerance={"wasserstein": 0.3},
    )
    assert result.cells[0].witness is not None
    assert result.cells[0].witness.lost == 0
    assert result.outcome is Outcome.REPRESENTABLE


@far
def test_a_network_that_diverges_is_refused_and_kl_is_what_its_density_says(
    value: float, three: ProductMixture
) -> None:
    def network(x: Tensor, levels: Tensor) -> Tensor:
        return torch.full_like(x, value) if len(x) > 100 else x  # a check does not see it

    result = check("diffusion", three, network=network, samples=200, steps=[1, 2], lengths=[3])
    assert result.outcome is Outcome.NOT_REPRESENTABLE
    for cell in result.cells:
        assert cell.estimates["wasserstein"].value == math.inf
        assert "wasserstein is infinite" in cell.reason


@far
def test_a_law_of_finite_numbers_says_nothing_of_draws_that_are_lost(value: float) -> None:
    target = from_spec("gaussian:tokens=2")
    names = ("kl", "wasserstein", "reverse_kl")
    reference = Reference(target, divergences=names, samples=400, seed=0)
    x = target.sample(400, CounterRandomness(0, name="model"))
    law = GaussianLaw(mean=torch.zeros(2).double(), covariance=torch.eye(2).double())
    sound = reference.estimates(ModelEvidence(samples=x, law=law))
    assert [sound[name].value for name in names] == [0, 0, 0]
    found = reference.estimates(ModelEvidence(samples=spoilt(x, value, 1), law=law))
    assert found["kl"].kind == "lower bound"
    assert "has no draws infinitely far out" in found["kl"].method
    assert [found[name].value for name in names[1:]] == [math.inf, math.inf]
    singular = dataclasses.replace(law, covariance=torch.zeros(2, 2).double())
    assert (
        reference.estimates(ModelEvidence(samples=spoilt(x, value, 1), law=singular))["kl"].value
        == math.inf
    )


@far
def test_kl_by_log_density_does_not_hear_of_lost_draws(value: float, three: ProductMixture) -> None:
    reference = Reference(three, divergences=("kl", "wasserstein", "mmd"), samples=ROWS, seed=0)
    x = three.sample(ROWS, CounterRandomness(0, name="model"))
    evidence = _evidence(three, reference, x)
    expected = reference.estimates(evidence)["kl"]
    found = reference.estimates(dataclasses.replace(evidence, samples=spoilt(x, value, 1)))
    assert found["kl"].kind == expected.kind == "two bounds"
    assert found["kl"].above == expected.above
    assert found["kl"].above[0].value == pytest.approx(0.5, abs=1e-9)
    assert found["wasserstein"].value == math.inf


def _evidence(target: Target, reference: Reference, samples: Tensor) -> ModelEvidence:
    density = LogDensity(values=reference.log_prob - 0.5, method="half a nat too low", bound=True)
    return ModelEvidence(samples=samples, log_density=density)
