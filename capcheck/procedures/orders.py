"""A commit order says how many tokens each round of parallel decoding places, and which ones.

A schedule m_0 = 0 < m_1 < .. < m_R = F counts the tokens placed after every round, out of the F
free tokens. On the cosine schedule, round r of R leaves floor(F cos(pi r / 2R)) tokens to be placed
and places at least one.

Each row ranks its free tokens 0..F-1 and its given tokens -1; the round from m to m' commits the
tokens of rank m..m'-1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec

__all__ = [
    "commit_schedule",
    "random_ranks",
    "ranks_among_all",
    "rounds_within",
    "uniform_schedule",
]


def commit_schedule(tokens: int, *, rounds: int, per_round: int | None = None) -> list[int]:
    """The number of tokens placed after each round, starting with 0 and ending with F.

    Args:
        tokens: F, number of tokens to be placed.
        rounds: R, number of rounds of the cosine schedule, at least 1.
        per_round: A fixed number of tokens per round, which replaces the cosine schedule.

    Source: Chang et al. 2022, "MaskGIT", section 3.3, https://arxiv.org/abs/2202.04200.

    Example:
        >>> commit_schedule(8, rounds=4), commit_schedule(8, rounds=4, per_round=3)
        ([0, 1, 3, 5, 8], [0, 3, 6, 8])
    """
    placed = [0]
    while placed[-1] < tokens:
        if per_round is not None:
            after = placed[-1] + per_round
        else:
            masked = tokens * math.cos(0.5 * math.pi * min(len(placed) / rounds, 1))
            # The epsilon keeps products that are whole numbers whole.
            after = max(tokens - math.floor(masked + 1e-9), placed[-1] + 1)
        placed.append(min(after, tokens))
    return placed


def uniform_schedule(tokens: int, rounds: int) -> list[int]:
    """The number of tokens placed after each round, in rounds of equal size up to rounding.

    Args:
        tokens: F, number of tokens to be placed.
        rounds: R, number of rounds, 1 to F.

    Example:
        >>> uniform_schedule(8, 3)
        [0, 3, 5, 8]
    """
    return [(2 * j * tokens + rounds) // (2 * rounds) for j in range(rounds + 1)]


def rounds_within(schedule: Sequence[int], length: int) -> Iterable[tuple[int, int]]:
    """The number of tokens placed before and after each round, cut off at the length.

    Example:
        >>> list(rounds_within([0, 1, 3, 5, 8], 4))
        [(0, 1), (1, 3), (3, 4)]
    """
    return itertools.pairwise([*(m for m in schedule if m < length), length])


def random_ranks(n: int, tokens: int, rng: Randomness) -> Tensor:
    """Draws a uniform order for each row; returns the rank of every token, (n, F) int64."""
    return rng.permutation(n, tokens).argsort(1)


def ranks_among_all(ranks: Tensor, spec: SequenceSpec) -> Tensor:
    """Extends the ranks of the free tokens to all tokens; given tokens have rank -1.

    Args:
        ranks: (n, F) int64, on any device.
        spec: Specification of the sequences.

    Returns:
        (n, N) int64, on the device of the sequences.
    """
    whole = torch.full((len(ranks), spec.tokens), -1, device=spec.mean.device)
    whole[:, list(spec.free)] = ranks.to(whole)
    return whole
