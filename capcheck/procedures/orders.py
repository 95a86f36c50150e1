"""Commit orders: how many tokens each round of parallel decoding adds, and which.

A schedule m_0 = 0 < m_1 < .. = F counts the tokens placed after every round, of the F that are not
given from the start; on the cosine schedule round r of R leaves floor(F cos(pi r / 2R)) to be
placed, and adds at least one. With these tokens of a row ranked 0..F-1, and given ones -1, the
round from m to m' commits those of rank m..m'-1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec

__all__ = ["commit_schedule", "random_ranks", "ranks_among_all", "rounds_within"]


def commit_schedule(tokens: int, *, rounds: int, per_round: int | None = None) -> list[int]:
    """Tokens placed after each round, starting with 0 and ending with all of them.

    Args:
        tokens: F, how many are to be placed.
        rounds: R of the cosine schedule, at least 1.
        per_round: A fixed number per round, instead of the schedule.

    Source: Chang et al. 2022, section 3.3.

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


def rounds_within(schedule: Sequence[int], length: int) -> Iterable[tuple[int, int]]:
    """Tokens placed before and after each round, cut inside the round that exceeds the length.

    Example:
        >>> list(rounds_within([0, 1, 3, 5, 8], 4))
        [(0, 1), (1, 3), (3, 4)]
    """
    return itertools.pairwise([*(m for m in schedule if m < length), length])


def random_ranks(n: int, tokens: int, rng: Randomness) -> Tensor:
    """The rank of every token in an order drawn uniformly for each row: (n, F) int64."""
    return rng.permutation(n, tokens).argsort(1)


def ranks_among_all(ranks: Tensor, spec: SequenceSpec) -> Tensor:
    """The ranks of all tokens from those of the free ones: -1 for given tokens.

    Args:
        ranks: (n, F) int64, on any device.
        spec: Of the sequences.

    Returns:
        (n, N) int64, on the device of the sequences.
    """
    whole = torch.full((len(ranks), spec.tokens), -1, device=spec.mean.device)
    whole[:, list(spec.free)] = ranks.to(whole)
    return whole
