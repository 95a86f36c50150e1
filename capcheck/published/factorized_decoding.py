"""Factorized decoding: Lavenant & Zanella 2025, https://arxiv.org/abs/2510.25544.

The paper writes the relative entropy of decoding in random order by an information profile, the
mean h(m) of H(X_i | X_S) over tokens i and sets S of m other tokens: steps that begin at m_j and
place s_j tokens leave sum_j s_j h(m_j) - sum_m h(m). Two laws whose conditionals are elementary:

A chain of N bits that flip with probability e. Given the nearest known bits, a steps to the left
and b to the right, the entropy of a bit is that of P(flip) = (1 - (1 - 2e)^d) / 2 along each side;
the profile is its mean over all sets. capcheck finds the curve of a chain by gaps.

N normal numbers of variance 1 with correlation r. Given m of them the variance of another one is
v_m = (1 - r) (1 + m r) / (1 + (m - 1) r), and h(m) = ln(2 pi e v_m) / 2. capcheck averages over
draws and random orders, with an interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch

from capcheck.published.claim import Claim, digits
from capcheck.results.decoding import DecodingPlan
from capcheck.runs.decoding import decoding_plan
from capcheck.targets import MarkovChain, from_spec

__all__ = ["claims"]

SOURCE = "factorized-decoding"
FLIP, BITS_OF_CHAIN = 0.1, 8
CORRELATION, NUMBERS = 0.5, 8
SAMPLES = 4000
CONFIDENCE = 0.999


def claims() -> Iterator[Claim]:
    """Profiles and losses of both laws."""
    stay = torch.tensor([[1 - FLIP, FLIP], [FLIP, 1 - FLIP]], dtype=torch.float64)
    start = torch.full((2,), 0.5, dtype=torch.float64)
    chain = decoding_plan(MarkovChain([start, stay], tokens=BITS_OF_CHAIN), calls=[1, 2, 4])
    assert chain.exact
    profile = [chain_profile(BITS_OF_CHAIN, m, FLIP) for m in range(BITS_OF_CHAIN)]
    yield from _of(chain, profile, f"chain, flip {FLIP:g}", 9)
    spec = f"gaussian:equicorrelated,tokens={NUMBERS},rho={CORRELATION:g}"
    how = {"calls": [1, 2, 4], "samples": SAMPLES, "level": CONFIDENCE}
    numbers = decoding_plan(from_spec(spec), **how)  # type: ignore[arg-type]
    profile = [0.5 * math.log(2 * math.pi * math.e * _variance(m)) for m in range(NUMBERS)]
    yield from _of(numbers, profile, f"correlation {CORRELATION:g}", 3)


def _of(plan: DecodingPlan, profile: list[float], name: str, places: int) -> Iterator[Claim]:
    N = plan.tokens
    for m in (0, N // 2, N - 1):
        found = plan.curve[plan.sizes.index(m)]
        yield Claim(
            source=SOURCE,
            place="information profile",
            quantity=f"h({m}), nats, {name}",
            printed=digits(profile[m], places),
            side="closed form",
            by="decoding_plan",
            value=found.value,
            low=found.low,
            high=found.high,
        )
    for price in plan.prices:
        if price.rule != "uniform":
            continue
        begins = [0, *itertools.accumulate(price.placed)]
        staircase = sum(s * profile[m] for s, m in zip(price.placed, begins, strict=False))
        yield Claim(
            source=SOURCE,
            place="factorization error",
            quantity=f"KL, nats, steps of {price.steps_text} tokens, {name}",
            printed=digits(staircase - sum(profile), places),
            side="closed form",
            by="decoding_plan",
            value=price.kl.value * N,
            low=price.kl.low * N,
            high=price.kl.high * N,
        )


def chain_profile(N: int, m: int, e: float) -> float:
    """The mean entropy of one of N bits given m of the others, by all sets."""
    entropies = [
        _entropy_between(i, known, e)
        for i in range(N)
        for known in itertools.combinations([j for j in range(N) if j != i], m)
    ]
    return sum(entropies) / len(entropies)


def _entropy_between(i: int, known: tuple[int, ...], e: float) -> float:
    """H(X_i | X_known), nats, by the nearest known bit on each side."""
    sides = [
        min((abs(i - j) for j in known if (j < i) == left), default=math.inf)
        for left in (True, False)
    ]
    flip, other = ((1 - (1 - 2 * e) ** d) / 2 for d in sides)  # 1/2 where no bit is known
    total = 0.0
    for equal in (True, False):  # whether the known bits of both sides agree
        same, differ = (1 - flip) * (1 - other), flip * other
        if not equal:
            same, differ = (1 - flip) * other, flip * (1 - other)
        p = same / (same + differ)
        weight = same + differ
        total -= weight * sum(x * math.log(x) for x in (p, 1 - p) if x > 0)
    return total


def _variance(m: int) -> float:
    r = CORRELATION
    return (1 - r) * (1 + m * r) / (1 + (m - 1) * r)
