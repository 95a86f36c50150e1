"""Gumbel noise of few digits: Zheng et al. 2024, https://arxiv.org/abs/2409.02908.

Masked diffusion models draw the value of a token as the largest of log-probabilities plus Gumbel
noise -ln(-ln u), with u uniform. The paper shows that in 32 bits u is at most 1 - 2^-24, so that
the noise is cut off at M = -ln(-ln(1 - 2^-24)), in 64 bits at -ln(-ln(1 - 2^-53)), and that rare
values are therefore drawn too rarely, as at a lower temperature.

capcheck draws by `capcheck.procedures.gumbel`, as `masked_diffusion` with `draw=gumbel` does. With
the largest uniform number for one value and noise of 0 for another, the first wins as long as its
log-probability is less than M lower: M is found by bisection.

Of two values, the rarer of probability 2^-p with p bits, its noise beats the other one's only if
its u is one of the last numbers 1 - j 2^-p, and then with probability e^-j. So it is drawn with
2^-p / (e - 1), 0.58 of what it should be. capcheck counts draws with the 11 bits of float16.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from scipy import stats
from torch import Tensor

from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.procedures.gumbel import revealed_by_gumbel
from capcheck.published.claim import Claim, digits
from capcheck.targets import from_table

__all__ = ["claims"]

SOURCE = "gumbel-noise"
BITS = {torch.float32: 24, torch.float64: 53}
FEW_BITS, ROWS, PARTS = 11, 1 << 19, 8
CONFIDENCE = 0.999
BISECTIONS = 60


class _ExtremeNoise(Randomness):
    """Uniform numbers that make the largest noise for the second value, and 0 for the others."""

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        u = torch.full(shape, math.exp(-1), dtype=torch.float64)
        u[..., 1] = 1 - 2.0**-53
        return u

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        raise NotImplementedError("Gumbel noise is made of uniform numbers alone.")

    def stream(self, name: str) -> Randomness:
        return self


def claims() -> Iterator[Claim]:
    """The largest noise in two precisions, and the share of a rare value in a third."""
    for dtype, p in BITS.items():
        yield Claim(
            source=SOURCE,
            place="truncation",
            quantity=f"largest noise in {str(dtype).removeprefix('torch.')}",
            printed=digits(-math.log(-math.log1p(-(2.0**-p))), 4),
            side="closed form",
            by="procedures.gumbel",
            value=largest_noise(dtype),
        )
    drawn, rows = rare_draws(), ROWS * PARTS
    low, high = stats.binomtest(drawn, rows).proportion_ci(CONFIDENCE)
    due = rows * 2.0**-FEW_BITS
    yield Claim(
        source=SOURCE,
        place="grid of u",
        quantity=f"draws of a value of probability 2^-{FEW_BITS}, of those due, float16",
        printed=digits(1 / (math.e - 1), 3),
        side="closed form",
        by="procedures.gumbel",
        value=drawn / due,
        low=float(low) * rows / due,
        high=float(high) * rows / due,
    )


def largest_noise(dtype: torch.dtype) -> float:
    """The largest difference of log-probabilities that noise of a precision makes up for."""
    below, above = 0.0, 100.0
    for _ in range(BISECTIONS):
        middle = (below + above) / 2
        log_p = torch.tensor([[[0.0, -middle]]], dtype=torch.float64)
        values = _values(log_p, dtype, _ExtremeNoise())
        below, above = (middle, above) if bool(values == 1) else (below, middle)
    return below


def rare_draws() -> int:
    """How often a value of probability 2^-p is drawn with noise of p = 11 bits."""
    rare = 2.0**-FEW_BITS
    log_p = torch.tensor([1 - rare, rare], dtype=torch.float64).log().expand(ROWS, 1, 2)
    found = 0
    for part in range(PARTS):
        rng = CounterRandomness(0, name=f"part {part}")
        found += int(_values(log_p, torch.float16, rng).sum())
    return found


def _values(log_p: Tensor, dtype: torch.dtype, rng: Randomness) -> Tensor:
    """Values (n, 1) of log-probabilities (n, 1, 2), all of which are revealed."""
    spec = from_table(torch.tensor([0.5, 0.5])).spec
    spec = dataclasses.replace(spec, mean=spec.mean.to(dtype))
    chance = torch.ones(len(log_p), 1, dtype=torch.float64)
    return revealed_by_gumbel(log_p, chance, spec, rng)[0]
