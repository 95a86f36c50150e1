"""The density of tokens that are placed in uniformly random order, by a sum over sets of tokens.

With F(S) the density of x_S summed over all ways of placing the set S, a round that adds c of F
free tokens gives

    F(S') = sum over S in S' of F(S) . prod over i in S' - S of p(x_i | x_S) / C(F - |S|, c),

so that each set is visited once, however many orders lead to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec

__all__ = ["TokenSet", "conditionals_asked", "log_density_over_sets", "rows_of_pairs"]

TokenSet = tuple[int, ...]
"""Indices of placed tokens, in rising order."""


def conditionals_asked(tokens: int, sizes: Sequence[int]) -> int:
    """The number of conditional laws of one token that the sum needs, completed tokens included.

    Args:
        tokens: Number of free tokens.
        sizes: Number of tokens placed before each round, from 0, and after the last one.

    Example:
        >>> conditionals_asked(4, [0, 1, 2, 3, 4])
        32
    """
    return sum(math.comb(tokens, m) * (tokens - m) for m in sizes)


def log_density_over_sets(
    free: Sequence[int],
    sizes: Sequence[int],
    log_p: Callable[[list[TokenSet], bool], list[dict[int, Tensor]]],
) -> Tensor:
    """The log-density of the free tokens, (n,).

    Args:
        free: Indices of the tokens that are placed, in rising order.
        sizes: Number of tokens placed before each round, from 0, and after the last one; what is
            left is completed at once.
        log_p: Function that returns for each set of placed tokens log p(x_i | x_S), (n,), of every
            other free token i; its second argument says whether they are completed.
    """
    reached: dict[TokenSet, Tensor] = {(): torch.zeros(())}
    for before, after in itertools.pairwise([*sizes, len(free)]):
        if before == after:
            continue
        completing = before == sizes[-1]
        ways = 1 if completing else math.comb(len(free) - before, after - before)
        arrivals: dict[TokenSet, list[Tensor]] = {}
        for S, of_tokens in zip(reached, log_p(list(reached), completing), strict=True):
            for added in itertools.combinations(of_tokens, after - before):
                log_path = reached[S] + sum(of_tokens[i] for i in added) - math.log(ways)
                arrivals.setdefault(tuple(sorted(S + added)), []).append(log_path)
        reached = {S: torch.stack(paths).logsumexp(0) for S, paths in arrivals.items()}
    return reached[tuple(free)]


def rows_of_pairs(
    pairs: list[tuple[TokenSet, int]], spec: SequenceSpec, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows x once for each pair of a set of placed tokens and another token.

    Args:
        pairs: The p pairs.
        spec: Specification of the sequences; given tokens are clean in all rows.
        x: (n, N, d).

    Returns:
        The other token of each row (p n,), the rows (p n, N, d), and which tokens are not clean in
        them, (p n, N) bool.
    """
    noisy = torch.ones(len(pairs), spec.tokens, dtype=torch.bool)
    for row, (S, _) in zip(noisy, pairs, strict=True):
        row[[*spec.given, *S]] = False
    token = torch.tensor([i for _, i in pairs])
    n = len(x)
    return (
        token.repeat_interleave(n).to(x.device),
        x.repeat(len(pairs), 1, 1),
        noisy.repeat_interleave(n, 0).to(x.device),
    )
