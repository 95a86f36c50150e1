"""Blockwise parallel decoding: Stern, Shazeer & Uszkoreit 2018, https://arxiv.org/abs/1811.03115.

Heads draft a block of tokens, the base model verifies it, and the longest prefix that it accepts is
kept. The paper's mean accepted block sizes are those of trained translation models; on two laws
they are known without training:

One of V symbols, N times, in one block of N. The first token is the base model's own; every other
draft is uniform and the base model is certain, so that the m-th one is accepted with probability
1 / V if those before it were: the accepted length is 1 + 1/V + .. + 1/V^(N-1). A refused draft is
replaced by the right symbol, after which all drafts are certain: a block takes a second round
unless its first N - 2 drafts are accepted, 2 - V^(2-N) rounds on average.

A walk on a ring that moves on with probability 0.6 and stays with 0.4, greedily (exact match). The
base model moves on at every token. A head that looks two ahead sees moves of 0, 1, 2 with
probabilities 0.16, 0.48, 0.36 and takes 1, which is refused: a round makes two tokens, the base
model's own and the correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import torch

from capcheck.api import check
from capcheck.published.claim import Claim, closed_form
from capcheck.results.speculation import Speculation
from capcheck.targets import MarkovChain, Target, from_spec

__all__ = ["claims"]

SOURCE = "blockwise-decoding"
COPIES = ((4, 4), (2, 6))  # symbols V, tokens N
RING, STAY, WALK = 7, 0.4, 8  # places, probability, tokens
BLOCK = 4


def claims() -> Iterator[Claim]:
    """Accepted lengths and tokens per round."""
    for V, N in COPIES:
        found = _speculation(from_spec(f"copy:tokens={N},symbols={V}"), N, "lossless")
        accept = Fraction(1, V)
        length = sum((accept**m for m in range(N)), Fraction(0))
        rounds = 2 - accept ** (N - 2)
        law = f"{V} symbols, {N} times"
        yield _claim("accepted length", law, length, found.accepted_length.value)
        yield _claim("tokens per round", law, N / rounds, found.tokens_per_round.value)
        yield _claim("acceptance rate", law, accept, found.overlap[0].value)
    step = torch.eye(RING, dtype=torch.float64)
    walk = STAY * step + (1 - STAY) * step.roll(1, 1)
    start = torch.zeros(RING, dtype=torch.float64)
    start[0] = 1
    found = _speculation(MarkovChain([start, walk], tokens=WALK), BLOCK, "greedy")
    law = f"walk on a ring, greedy, blocks of {BLOCK}"
    yield _claim("tokens per round", law, Fraction(2), found.tokens_per_round.value)


def _speculation(target: Target, block: int, rule: str) -> Speculation:
    found = check(
        "blockwise",
        target,
        options={"block": block, "rule": rule},
        lengths=[target.spec.tokens],
        steps=[block],
        divergences="kl",
        samples=200,
        device="cpu",
    ).found.speculation
    assert found is not None
    return found


def _claim(what: str, law: str, closed: Fraction, value: float) -> Claim:
    quantity, by = f"{what}, {law}", "check('blockwise')"
    return closed_form("accepted drafts", quantity, float(closed), value, source=SOURCE, by=by)
