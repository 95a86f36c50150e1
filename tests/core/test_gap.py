"""Parts of a divergence: paired differences, infinities and values that could not be had."""

from __future__ import annotations

import math

import numpy as np
import pytest

from capcheck.divergences.estimate import Estimate, Term
from capcheck.gap import difference

UNIT = "nats per sequence"


def estimate(rows: np.ndarray) -> Estimate:
    term = Term.from_influence("KL", float(rows.mean()), [rows])
    return Estimate.of(
        [term], level=0.95, kind="estimate", method="test", samples=len(rows), unit=UNIT
    )


def test_paired_parts_cover_and_are_narrower_than_their_ends() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        shared = rng.normal(1, 3, 1000)
        before, after = shared, shared + rng.normal(0.2, 0.3, 1000)
        part = difference("kl", estimate(before), estimate(after), level=0.95)
        assert part is not None
        covered += part.low <= 0.2 <= part.high
        end = estimate(after)
        assert end.high is not None
        assert end.low is not None
        assert part.high - part.low < 0.5 * (end.high - end.low)
    assert 182 <= covered <= 198  # 95% of 200, within three standard errors


def test_an_exact_end_stands_for_every_term_and_infinities_cancel() -> None:
    rows = np.random.default_rng(1).normal(1, 1, 500)
    zero = Estimate.exact(0.0, level=0.95, method="test", unit=UNIT, scale=1, power=1)
    part = difference("kl", zero, estimate(rows), level=0.95)
    assert part is not None
    assert part.value == pytest.approx(rows.mean())
    infinite = Estimate.exact(math.inf, level=0.95, method="test", unit=UNIT, scale=1, power=1)
    worse = difference("kl", zero, infinite, level=0.95)
    same = difference("kl", infinite, infinite, level=0.95)
    assert worse is not None
    assert same is not None
    assert (worse.value, same.value) == (math.inf, 0.0)
    missing = Estimate.unavailable("no density", level=0.95, unit=UNIT)
    assert difference("kl", missing, zero, level=0.95) is None
