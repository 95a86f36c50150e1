"""The receptive field against real convolutions, and its cost against entropies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from networks import TablePredictor, law_of, law_of_run, table
from reference.groups import covariance_of_groups, law_of_groups
from reference.information import (
    Array,
    information,
    of_gaussian,
    of_table,
    total_correlation,
)
from torch.nn.functional import conv2d

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.laws.gaussian import GaussianLaw
from capcheck.probes.length.pixelcnn import PixelCNN, receptive_field
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, from_table

GRID = tuple(itertools.product(range(2), range(3)))


def grid(rows: int, columns: int) -> tuple[tuple[int, int], ...]:
    return tuple(itertools.product(range(rows), range(columns)))


def reached(layers: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(cells, cells): output i is not 0 where an impulse at j was put in."""
    return layers.reshape(rows * columns, rows * columns).T > 0


def masked(kernel: int, own: bool) -> torch.Tensor:
    """Mask A, or B with the pixel itself: the rows above, and what is left of it in its own."""
    mask = torch.ones(1, 1, kernel, kernel, dtype=torch.float64)
    mask[..., kernel // 2, kernel // 2 + own :] = 0
    mask[..., kernel // 2 + 1 :, :] = 0
    return mask


def original(rows: int, columns: int, kernel: int, layers: int) -> torch.Tensor:
    """One stack of masked convolutions, A and then B."""
    x = torch.eye(rows * columns, dtype=torch.float64).reshape(-1, 1, rows, columns)
    for layer in range(layers):
        x = conv2d(x, masked(kernel, own=layer > 0), padding=kernel // 2).clamp(max=1)
    return reached(x, rows, columns)


def gated(rows: int, columns: int, kernel: int, layers: int) -> torch.Tensor:
    """A vertical stack, (k // 2 + 1) x k and shifted down once, feeds a horizontal one, 1 x k."""
    reach = kernel // 2
    image = torch.eye(rows * columns, dtype=torch.float64).reshape(-1, 1, rows, columns)
    pad = torch.nn.functional.pad
    block = torch.ones(1, 1, reach + 1, kernel, dtype=torch.float64)
    vertical, horizontal = image, image
    for layer in range(layers):
        # The first layer looks at the k // 2 rows above, later ones at their own row as well.
        above = block[..., :reach, :] if layer == 0 else block
        shifted = vertical[..., :-1, :] if layer == 0 else vertical
        vertical = conv2d(pad(shifted, (reach, reach, reach, 0)), above).clamp(max=1)
        row = masked(kernel, own=layer > 0)[..., [reach], :]
        horizontal = conv2d(pad(horizontal, (reach, reach, 0, 0)), row) + vertical
        horizontal = horizontal.clamp(max=1)
    return reached(horizontal, rows, columns)


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (5, 6), (1, 7), (7, 2)])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("layers", [1, 2, 4, 20])
def test_the_field_is_what_convolutions_reach(
    rows: int, columns: int, kernel: int, layers: int
) -> None:
    blind = receptive_field(grid(rows, columns), kernel, layers, True)
    seeing = receptive_field(grid(rows, columns), kernel, layers, False)
    assert torch.equal(blind, original(rows, columns, kernel, layers))
    assert torch.equal(seeing, gated(rows, columns, kernel, layers))
    assert bool((blind <= seeing).all())


@pytest.mark.parametrize("kernel", [3, 5])
def test_only_the_originals_masks_have_a_blind_spot(kernel: int) -> None:
    places = torch.tensor(grid(6, 8))
    down, right = (places[None] - places[:, None]).unbind(-1)
    earlier = torch.ones(48, 48, dtype=torch.bool).tril(-1)
    # However deep, a stack moves kernel // 2 to the right for every row it goes up.
    blind = earlier & (right > (kernel // 2) * -down)
    assert bool(blind.any())
    assert torch.equal(receptive_field(grid(6, 8), kernel, 1024, True), earlier & ~blind)
    assert torch.equal(receptive_field(grid(6, 8), kernel, 1024, False), earlier)


def test_nothing_passes_outside_the_grid() -> None:
    # Two tokens of a larger grid: the way between them leads over cells that are not among them.
    assert receptive_field(((0, 0), (2, 2)), 3, 1, False).tolist() == [[False] * 2] * 2
    assert receptive_field(((0, 0), (2, 2)), 3, 2, False).tolist() == [[False] * 2, [True, False]]


def cost(entropy: object, seen: list[list[int]], length: int) -> float:
    """sum_{i<l} I(x_i; unseen earlier | seen) + TC of the rest given the first l."""
    H = entropy
    assert callable(H)
    N = len(seen)
    total = sum(
        information(H, [i], [j for j in range(i) if j not in seen[i]], seen[i])
        for i in range(length)
    )
    return total + total_correlation(H, range(length, N), range(length))


# The neighbours of one layer of size 3 on 2 x 3 tokens, written down by hand.
NEIGHBOURS = [[], [0], [1], [0, 1], [0, 1, 2, 3], [1, 2, 4]]


def test_the_field_costs_the_information_of_what_it_hides() -> None:
    p = np.random.default_rng(0).random((2,) * 6) ** 2
    p /= p.sum()
    target = from_table(torch.tensor(p), grid=(2, 3))
    found = check(
        "pixelcnn",
        target,
        options={"layers": 1},
        lengths=range(7),
        steps=[1, 4],
        samples=200,
        divergences=["kl"],
    )
    for cell in found.cells:
        expected = cost(of_table(p), NEIGHBOURS, cell.budget.length)
        assert cell.estimates["kl"].value == pytest.approx(expected, abs=1e-9)
    assert cost(of_table(p), NEIGHBOURS, 6) > 0.01
    assert abs(cost(of_table(p), [list(range(i)) for i in range(6)], 6)) < 1e-12
    full = check("pixelcnn", target, lengths=[6], steps=[1], samples=200, divergences=["kl"])
    assert full.cells[0].estimates["kl"].value == pytest.approx(0, abs=1e-12)


def test_on_a_gaussian_grid_the_law_is_that_of_regressions_on_the_field() -> None:
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 6))
    C = root @ root.T + np.eye(6)
    target = GaussianMixture(torch.zeros(1, 6, 1).double(), torch.tensor(C)[None], grid=(2, 3))
    procedure = Procedure.of(PixelCNN(layers=1), target)
    law = procedure.exact_law(Budget(length=6, steps=1))
    assert isinstance(law, GaussianLaw)
    q = regressed(C, NEIGHBOURS)
    assert np.allclose(law.covariance, q, rtol=0, atol=1e-9)
    assert not np.allclose(q, C, rtol=0, atol=1e-2)
    kl = 0.5 * (np.trace(np.linalg.solve(q, C)) - 6 - np.linalg.slogdet(np.linalg.solve(q, C))[1])
    assert kl == pytest.approx(cost(of_gaussian(C), NEIGHBOURS, 6), abs=1e-9)
    assert law.kl_from(target.spec.mean, torch.tensor(C)) == pytest.approx(kl, abs=1e-9)


def regressed(C: Array, seen: list[list[int]]) -> Array:
    """Covariance of x_i = b_i x_seen + e_i: inv(I - B) D inv(I - B)^T."""
    N = len(C)
    B, D = np.zeros((N, N)), np.zeros(N)
    for i, at in enumerate(seen):
        b = np.linalg.solve(C[np.ix_(at, at)], C[at, i]) if at else np.zeros(0)
        B[i, at], D[i] = b, C[i, i] - b @ C[at, i]
    inverse = np.linalg.inv(np.eye(N) - B)
    covariance: Array = inverse @ np.diag(D) @ inverse.T
    return covariance


def test_the_suspect_sees_every_earlier_token() -> None:
    p = np.random.default_rng(0).random((2,) * 6) ** 2
    target = from_table(torch.tensor(p / p.sum()), grid=(2, 3))
    (suspect,) = PixelCNN(layers=1, blind_spot=True).suspects()
    assert suspect.failure == "limited emission"
    assert isinstance(suspect.probe, PixelCNN)
    field = suspect.probe.field(target.spec)
    assert torch.equal(field, torch.ones(6, 6, dtype=torch.bool).tril(-1))
    assert suspect.probe.suspects() == ()


@pytest.mark.parametrize("kernel", [1, 4])
def test_a_kernel_has_a_centre(kernel: int) -> None:
    with pytest.raises(InputError, match=r"pixelcnn.kernel: .*got " + str(kernel)):
        build_probe("pixelcnn", {"kernel": kernel})


def in_raster_order(given: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The tokens that are not given, each shown its field."""
    return [([i], NEIGHBOURS[i]) for i in range(6) if i not in given]


@pytest.mark.parametrize("given", [(0,), (2, 4)])
def test_beside_given_tokens_a_wrong_network_makes_the_law_written_out(
    given: tuple[int, ...],
) -> None:
    p, q = table(6, 2), table(6, 2, seed=1)
    target = from_table(torch.tensor(p), grid=(2, 3))
    procedure = Procedure.of(PixelCNN(layers=1), target, given=given).with_network(
        TablePredictor(q)
    )
    groups = in_raster_order(given)
    for length in (1, len(groups)):
        expected = law_of_groups(p, q, given, groups[:length])
        budget = Budget(length=length, steps=1)
        assert np.abs(law_of(procedure, budget, "density") - expected).max() < 1e-12
        assert np.abs(law_of_run(procedure, budget, p) - expected).max() < 1e-12
    assert np.abs(expected - law_of_groups(p, p, given, groups)).max() > 1e-3


def test_a_given_token_outside_the_field_is_not_seen() -> None:
    # Token 0 is seen by its neighbours 1, 3 and 4 alone; given it, nothing gets cheaper.
    p = table(6, 2)
    H = of_table(p)
    found = check(
        "pixelcnn", from_table(torch.tensor(p), grid=(2, 3)), options={"layers": 1}, given=[0],
        lengths=[5], steps=[1], samples=200,
    )  # fmt: skip
    expected = cost(H, NEIGHBOURS, 6)
    assert found.cells[0].estimates["kl"].value == pytest.approx(expected, abs=1e-9)
    everywhere = [[], *([*sorted({0, *seen})] for seen in NEIGHBOURS[1:])]
    assert expected > cost(H, everywhere, 6) + 0.01


def test_beside_given_numbers_the_law_is_that_of_regressions() -> None:
    C, Q = (r ** np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0))) for r in (0.8, -0.5))
    target, other = (
        GaussianMixture(torch.zeros(1, 6, 1).double(), torch.tensor(S)[None], grid=(2, 3))
        for S in (C, Q)
    )
    plain = Procedure.of(PixelCNN(layers=1), target, given=(0, 5))
    procedure = plain.with_network(plain.probe.signature.oracle(other))
    law = procedure.exact_law(Budget(length=4, steps=1))
    assert isinstance(law, GaussianLaw)
    expected = covariance_of_groups(C, Q, (0, 5), in_raster_order((0, 5)))
    assert np.allclose(law.covariance, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - covariance_of_groups(C, C, (), in_raster_order(()))).max() > 1e-2
