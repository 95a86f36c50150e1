"""Log-densities of what trained predictors and decoders sample, from their networks alone.

In uniformly random order the law is the mixture over all orders. With W(S) the probability of the
values at the set S of known tokens, a step adds

    W'(S) = sum over S' in S of W(S') c(S', S) prod over i in S - S' of q(x_i | x_S'),

where c is the chance that the step reveals just S - S'. Nothing here knows of capcheck.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from prediction.networks import Heads, LinearVAE

__all__ = ["Chance", "Predict", "by_blocks", "by_gaussian", "by_sets", "per_round", "unmasking"]

Predict = Callable[[Tensor, Tensor], Tensor]
"""The log-probability of each token of x (n, N) given those known (n, N) bool, (n, N)."""
Chance = Callable[[int, int], float]
"""The chance that a step leads from one given set of m tokens to one given larger or equal set."""


def per_round(tokens: int, count: int) -> list[Chance]:
    """Rounds that place `count` random tokens each, the last one those that are left."""

    def chance(round_: int) -> Chance:
        before = round_ * count
        after = min(before + count, tokens)

        def of(m: int, larger: int) -> float:
            ways = math.comb(tokens - before, after - before)
            return 1 / ways if (m, larger) == (before, after) else 0.0

        return of

    return [chance(r) for r in range(-(-tokens // count))]


def unmasking(tokens: int, steps: int) -> list[Chance]:
    """Steps from level t = j / k to (j - 1) / k, which reveal a masked token with chance 1 / j."""

    def chance(j: int) -> Chance:
        def of(m: int, larger: int) -> float:
            return (1 / j) ** (larger - m) * (1 - 1 / j) ** (tokens - larger)

        return of

    return [chance(j) for j in range(steps, 0, -1)]


def by_sets(predict: Predict, chances: list[Chance], x: Tensor) -> Tensor:
    """The log-density (n,) of rows x (n, N, ...) by the recursion over sets of known tokens."""
    N = x.shape[1]
    size = [S.bit_count() for S in range(1 << N)]
    log_p: dict[int, Tensor] = {}
    log_W = {0: torch.zeros(len(x), dtype=torch.float64)}
    for chance in chances:
        terms: dict[int, list[Tensor]] = {}
        for S, log_w in log_W.items():
            for larger in range(S, 1 << N):
                if S & ~larger or not (c := chance(size[S], size[larger])):
                    continue
                if S not in log_p:
                    log_p[S] = predict(x, _bits(S, N).expand(len(x), N))
                added = log_p[S][:, _bits(larger & ~S, N)].sum(1)
                terms.setdefault(larger, []).append(log_w + math.log(c) + added)
        log_W = {S: torch.stack(found).logsumexp(0) for S, found in terms.items()}
    return log_W[(1 << N) - 1]


def by_blocks(network: Heads, x: Tensor) -> Tensor:
    """The log-probability (n,) of rows x (n, N) drawn in blocks of as many tokens as heads."""
    places = range(0, x.shape[1], network.heads)
    log_p = [network.log_prob(x, torch.full((len(x),), i)).sum(1) for i in places]
    return torch.stack(log_p).sum(0)


def by_gaussian(network: LinearVAE, mean: Tensor, covariance: Tensor) -> float:
    """KL(N(mean, covariance) || samples of a linear VAE), nats, in closed form."""
    of_model, spread = network.law()
    residual = mean - of_model
    solved = torch.linalg.solve(spread, torch.cat([covariance, residual[:, None]], 1))
    quadratic = solved[:, :-1].trace() + residual @ solved[:, -1]
    return 0.5 * float(quadratic - len(mean) + spread.logdet() - covariance.logdet())


def _bits(S: int, N: int) -> Tensor:
    return torch.tensor([bool(S >> i & 1) for i in range(N)])
