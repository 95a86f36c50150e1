"""Schedules against their formulas in fractions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from reference import levels as reference
from reference.gaussians import Gaussians
from scipy import stats

from capcheck.core.randomness import CounterRandomness
from capcheck.networks.signatures import DenoiserSignature
from capcheck.noise.flow import flow_along
from capcheck.noise.paths import PATHS, PathName
from capcheck.procedures import schedules
from capcheck.procedures.denoising import starting_noise
from capcheck.targets import ProductMixture, from_spec

Make = Callable[[int, int], torch.Tensor]
MAKERS: dict[str, tuple[Make, Callable[[int, int], list[reference.Row]]]] = {
    "full sequence": (
        schedules.full_sequence,
        lambda N, k: reference.pyramid(N, k, lambda i: 0),
    ),
    "pyramid 1/2": (
        lambda N, k: schedules.pyramid(N, k, uncertainty=0.5),
        lambda N, k: reference.pyramid(N, k, lambda i: i // 2),
    ),
    "pyramid 3": (
        lambda N, k: schedules.pyramid(N, k, uncertainty=3),
        lambda N, k: reference.pyramid(N, k, lambda i: 3 * i),
    ),
    "autoregressive": (
        schedules.autoregressive,
        lambda N, k: reference.pyramid(N, k, lambda i: k * i),
    ),
    "anchors": (schedules.anchors, reference.anchors),
    "rolling 1": (
        lambda N, k: schedules.rolling(N, k, window=1),
        lambda N, k: _rows(reference.rolling_passes(N, k, 1, 0)),
    ),
    "rolling 4": (
        lambda N, k: schedules.rolling(N, k, window=4),
        lambda N, k: _rows(reference.rolling_passes(N, k, 4, 0)),
    ),
}
SIZES = [(1, 1), (1, 5), (2, 1), (3, 3), (5, 4), (8, 1), (8, 4), (8, 16)]


def _rows(passes: object) -> list[reference.Row]:
    steps = list(passes)  # type: ignore[call-overload]
    return [steps[0][0], *(after for _, after, _ in steps)]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("N", "k"), SIZES)
def test_levels_are_those_of_the_formula(name: str, N: int, k: int) -> None:
    make, formula = MAKERS[name]
    expected = [[float(t) for t in row] for row in reference.moving(formula(N, k))]
    assert make(N, k).tolist() == expected


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("N", "k"), SIZES)
def test_levels_fall_from_noise_to_clean_and_no_row_is_idle(name: str, N: int, k: int) -> None:
    schedule = MAKERS[name][0](N, k)
    assert bool((schedule[0] == 1).all())
    assert bool((schedule[-1] == 0).all())
    assert bool((schedule.diff(dim=0) <= 0).all())
    assert bool((schedule.diff(dim=0) < 0).any(1).all())


def test_halves_round_to_even() -> None:
    # N = 3, s = N - 1, so n_s = t_s = 0: t(n) = k - (6 - n) k / 6 = n k / 6.
    # k = 3: 0, 1/2, 1. k = 9: 0, 3/2, 3. k = 15: 0, 5/2, 5.
    for k, middle in ((3, 0), (9, 2), (15, 2)):
        assert [0.0, middle / k, 2 * k / 6 / k] in schedules.anchors(3, k).tolist()


@pytest.mark.parametrize("N", [2, 4, 8])
def test_the_longest_jump_vanishes_unless_the_anchors_are_the_published_ones(N: int) -> None:
    # Once token 0 is clean, anchor m puts token n at (n - m) / (2N - m), and one row moves it by
    # (2N - n) / ((2N - m) (2N - m - 1)); the longest, of n = N - 1 from m = N - 2, is 1 / (N + 2).
    k = 2520
    for name, (make, _) in MAKERS.items():
        longest = float(-make(N, k).diff(dim=0).min())
        if name == "anchors":
            assert longest == pytest.approx(1 / (N + 2), abs=1 / k)
        else:
            assert longest == pytest.approx(1 / k, rel=1e-9)


def test_only_the_first_tokens_take_part_and_the_rows_of_others_are_dropped() -> None:
    whole = schedules.autoregressive(5, 3)
    cut = schedules.within(whole, 2)
    assert torch.equal(cut[:, :2], schedules.autoregressive(2, 3))
    assert bool((cut[:, 2:] == 1).all())
    assert len(schedules.within(whole, 0)) == 1
    assert torch.equal(schedules.within(whole, 5), whole)


def test_a_delay_of_whole_passes_is_not_rounded_away() -> None:
    # 0.1 * 3 is 0.30000000000000004 and 0.7 * 10 is 7.000000000000001, but 0.29 * 100 is 28.99...
    schedule = schedules.pyramid(101, 40, uncertainty=0.29)
    assert int((schedule[:, 100] == 1).sum()) == 1 + 29
    assert len(schedules.pyramid(4, 3, uncertainty=1e12)) == 1 + 4 * 3


def test_the_schedule_of_the_others_has_given_tokens_clean_from_the_start() -> None:
    spec = dataclasses.replace(from_spec("gaussian:tokens=5").spec, given=(0, 3))
    whole = schedules.beside_given(schedules.autoregressive(3, 2), spec)
    assert bool((whole[:, [0, 3]] == 0).all())
    assert torch.equal(whole[:, [1, 2, 4]], schedules.autoregressive(3, 2))


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_the_flow_in_turn_is_the_monotone_map_of_every_token(
    three: ProductMixture, path: PathName
) -> None:
    # A flow on the line keeps the order of its points: F(x_i | x_<i) = Phi(z_i).
    oracle = DenoiserSignature(path).oracle(three)
    noise = starting_noise(three.spec, 40, CounterRandomness(2))
    corners = schedules.autoregressive(3, 1)
    found = flow_along(corners, oracle, noise=noise, path=PATHS[path])
    assert found is not None
    law = Gaussians.product(three.means.numpy(), three.scales.numpy(), [0.2, 0.5, 0.3])
    u = law.rosenblatt(found.numpy())
    z = noise[..., 0].numpy()
    assert np.abs(u - stats.norm.cdf(z)).max() < 1e-5
    whole = flow_along(schedules.full_sequence(3, 1), oracle, noise=noise, path=PATHS[path])
    assert whole is not None
    assert np.abs(law.rosenblatt(whole.numpy()) - stats.norm.cdf(z)).max() > 0.05


def test_a_flow_that_is_too_stiff_is_given_up() -> None:
    def shaking(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 50 * torch.sin(1e4 * x)

    noise = torch.full((1, 1, 1), math.pi / 3, dtype=torch.float64)
    corners = schedules.full_sequence(1, 1)
    assert flow_along(corners, shaking, noise=noise, path=PATHS["cosine"]) is None
