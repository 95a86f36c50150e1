"""The passes along schedules against explicit matrices."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import torch
from conftest import UnitDraws
from reference import levels as reference
from reference.gaussians import autoregressive
from reference.traces import traces_of

from capcheck.core.randomness import CounterRandomness
from capcheck.networks.signatures import DenoiserSignature
from capcheck.noise.paths import PATHS
from capcheck.procedures import schedules
from capcheck.procedures.denoising import denoised_along, starting_noise
from capcheck.procedures.probe import State
from capcheck.targets import GaussianMixture, ProductMixture


def test_the_passes_are_those_of_explicit_matrices_on_any_monotone_schedule() -> None:
    draws = np.random.default_rng(5)
    S = autoregressive(4, 0.8).covariances[0]
    cuts = np.sort(draws.integers(0, 13, size=(6, 4)), axis=0)[::-1]
    cuts = np.vstack([[12] * 4, cuts, [0] * 4])
    rows = [tuple(Fraction(int(v), 12) for v in row) for row in cuts]
    target = GaussianMixture(torch.zeros(1, 4, 1).double(), torch.tensor(S)[None])
    noise, start = UnitDraws().normal((5, 4, 1)), State.blank(target.spec, 5)
    schedule = torch.tensor([[float(t) for t in row] for row in rows], dtype=torch.float64)
    for path in ("linear", "cosine"):
        for causal in (False, True):
            oracle = DenoiserSignature(path, "causal" if causal else "all").oracle(target)
            *_, last = denoised_along(schedule, oracle, start=start, noise=noise, path=PATHS[path])
            A = (last.tokens[1:] - last.tokens[0])[..., 0].numpy()
            expected = reference.carried(S, reference.passes(rows), path, causal=causal)
            np.testing.assert_allclose(A.T @ A, expected, rtol=0, atol=1e-11)
            # The twin: one pass fewer is another law.
            other = reference.carried(S, reference.passes(rows[:2] + rows[3:]), path, causal=causal)
            assert np.abs(A.T @ A - other).max() > 1e-3


def test_exactly_the_tokens_that_change_their_level_are_written(three: ProductMixture) -> None:
    schedule = schedules.pyramid(3, 4, uncertainty=2)
    oracle = DenoiserSignature("cosine").oracle(three)
    noise = starting_noise(three.spec, 6, CounterRandomness(0))
    made = list(
        denoised_along(
            schedule,
            oracle,
            start=State.blank(three.spec, 6),
            noise=noise,
            path=PATHS["cosine"],
        )
    )
    start, *states = made
    assert not bool(start.written.any() or start.placed.any())
    for state, (t, s) in zip(states, itertools.pairwise(schedule), strict=True):
        assert torch.equal(state.written, (t != s).expand(6, 3))
    assert traces_of(made).finish_first == 6
