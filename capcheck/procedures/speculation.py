"""Speculative decoding: the drafts that a verification accepts, and the rounds that a block takes.

A round that starts at token j of a block drafts its tokens i >= j from q_i = p(x_i | x_<j). A draft
is accepted with probability min(1, p_i / q_i), where p_i = p(x_i | x_<i) is the base model's law;
the first refused one is drawn again from norm(max(p_i - q_i, 0)), and the next round starts behind
it. The first draft is the base model's own token, which is never refused.

The sequences x that come out have the base model's law, and given x each draft of a round, if those
before it were accepted, was accepted with probability

    a_i = min(p_i, q_i) / p_i = min(1, q_i(x_i) / p_i(x_i)).

The mean over x of a_i is sum_v min(p_i(v), q_i(v)), and that of a product is the probability that
all of its drafts are accepted. The expected number of rounds from token j to the end b of the block
is, given x,

    R_j = 1 + sum over m > j of [prod over j < i < m of a_i] (1 - a_m) R_{m+1},    R_b = 0.

No procedure is run: all of these are means over draws of the base model's law.

Sources: Leviathan et al. 2023, https://arxiv.org/abs/2211.17192, whose acceptance rate alpha is the
mean of a_i; Stern et al. 2018, https://arxiv.org/abs/1811.03115; Gloeckle et al. 2024,
https://arxiv.org/abs/2404.19737
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.errors import InputError

__all__ = [
    "MOST_BLOCKS",
    "Acceptances",
    "acceptances",
    "accepted_length",
    "improvement_factor",
    "log_density_of_block",
    "operations_factor",
    "rounds_of_block",
]

MOST_BLOCKS = 16  # most blocks of a sequence that are looked at


@dataclass(frozen=True, kw_only=True, eq=False)
class Acceptances:
    """The drafts that are accepted and the rounds that are made along n sequences.

    Attributes:
        kept: (n, b - 1) mean over blocks of a_i, the probability that the draft of place i = 2..b
            is accepted, in the round from the first token of the block.
        reached: (n, b) mean over blocks of the probability that all drafts up to place i = 1..b of
            that round are accepted; the first one is 1.
        rounds: (n,) expected number of rounds of all blocks together.
        sizes: Number of tokens of each block that was looked at. `kept` and `reached` are those of
            the blocks of the largest size b.
        blocks: Number of blocks of the whole sequence.
        method: What was averaged over, in a few words.
        exact: Whether a single sequence is all that comes out, so that nothing is a mean.
    """

    kept: Tensor
    reached: Tensor
    rounds: Tensor
    sizes: tuple[int, ...]
    blocks: int
    method: str
    exact: bool = False


def acceptances(
    log_prob: Callable[[list[int]], Tensor],
    blocks: Sequence[list[int]],
    *,
    method: str,
    exact: bool = False,
) -> Acceptances:
    """The drafts that are accepted in the blocks of sequences, and the rounds that these take.

    Of more than `MOST_BLOCKS` blocks, as many evenly spread ones are looked at.

    Args:
        log_prob: Function that returns log p(x_i | x_<j), (n, m), for m tokens i of one block, of
            which j is the first, along n draws x of the base model's law.
        blocks: Indices of the tokens of each block, all but the last one of the same number.
        method: See `Acceptances`.
        exact: See `Acceptances`.

    Raises:
        InputError: The base model gives a sequence no probability.
    """
    K, most = len(blocks), min(len(blocks), MOST_BLOCKS)
    chosen = [blocks[(2 * k + 1) * K // (2 * most)] for k in range(most)]
    b = max(map(len, chosen))
    accepted, rounds = [], []
    for block in chosen:
        a, R = rounds_of_block(log_prob, block)
        rounds.append(R)
        if len(block) == b:
            accepted.append(a)
    return Acceptances(
        kept=torch.stack([a[:, 1:] for a in accepted]).mean(0),
        reached=torch.stack([a.cumprod(1) for a in accepted]).mean(0),
        rounds=torch.stack(rounds).sum(0),
        sizes=tuple(map(len, chosen)),
        blocks=K,
        method=method,
        exact=exact,
    )


def rounds_of_block(
    log_prob: Callable[[list[int]], Tensor], block: list[int]
) -> tuple[Tensor, Tensor]:
    """The probabilities a_i of the round from a block's first token, and its expected rounds R_1.

    Args:
        log_prob: As for `acceptances`.
        block: Indices of the b tokens of the block, at least one.

    Returns:
        a, (n, b), whose first column is 1, and R_1, (n,).

    Raises:
        InputError: The base model gives a sequence no probability.
    """
    log_p = log_prob(block[-1:])  # (n, b - j), log p(x_i | x_<i) of the tokens i >= j
    a = torch.ones_like(log_p)
    R = [a[:, 0], torch.zeros_like(a[:, 0])]  # R_j, .., R_b
    for j in reversed(range(len(block) - 1)):
        log_q = log_prob(block[j:])
        log_p = torch.cat([log_q[:, :1], log_p], 1)  # the first draft is the base model's token
        a = (log_q - log_p).clamp(max=0).exp()
        refused = a.cumprod(1)[:, :-1] * (1 - a[:, 1:])  # at m = j + 1, .., b - 1
        R.insert(0, 1 + (refused * torch.stack(R[1:], 1)).sum(1))
    if bool(log_p.isneginf().any()):
        raise InputError(
            "x must be draws of the base model's law, got a sequence of probability 0; draw them "
            "from the network, one token at a time."
        )
    return a, R[0]


def log_density_of_block(p: Tensor, drafts: Sequence[Tensor], rounds: int) -> Tensor:
    """The log-density of a block that rounds have filled, whether or not all of it is verified.

    It is log F_r(j) at j = the block's first token and r = `rounds`, where

        F_r(j) = prod over i >= j of min(p_i, q_i)
            + sum over m >= j of [prod over j <= i < m of min(p_i, q_i)] (p_m - q_m)_+ F_{r-1}(m+1),

    and F_0 is the product of the last draft's q_i.

    Args:
        p: Log-probabilities log p(x_i | x_<i), (n, b).
        drafts: Log-probabilities log p(x_i | x_<j), (n, b) for each j of the block; the entries
            before j are ignored.
        rounds: Number of rounds, at least 1.

    Returns:
        (n,), in nats.
    """
    b = p.shape[1]
    log_F = [[p.new_zeros(len(p))] * (b + 1) for _ in range(rounds + 1)]
    for r in range(1, rounds + 1):
        for j in range(b):
            q = torch.cat([p[:, : j + 1], drafts[j][:, j + 1 :]], 1)  # q_j = p_j
            excess = torch.where(p > q, p + torch.log1p(-(q - p).exp()), -torch.inf)
            accepted = p.new_zeros(len(p))
            paths = []
            for m in range(j, b):
                behind = q[:, m + 1 :].sum(1) if r == 1 else log_F[r - 1][m + 1]
                paths.append(accepted + excess[:, m] + behind)
                accepted = accepted + torch.minimum(p, q)[:, m]
            log_F[r][j] = torch.stack([*paths, accepted]).logsumexp(0)
    return log_F[rounds][0]


def accepted_length(alpha: float, gamma: int) -> float:
    """Expected tokens per verification if each of gamma drafts is accepted with probability alpha.

    1 + alpha + .. + alpha^gamma = (1 - alpha^{gamma+1}) / (1 - alpha), where acceptances are
    independent; the 1 is the base model's own token behind the accepted drafts.

    Args:
        alpha: Acceptance rate, from 0 to 1.
        gamma: Number of drafts of a round, at least 0.

    Raises:
        InputError: A number is out of its range.

    Source: Leviathan et al. 2023, equation 1

    Example:
        >>> round(accepted_length(0.8, 5), 2)
        3.69
    """
    if alpha < 0 or alpha > 1:  # NaN stays NaN
        raise InputError(f"alpha must be a probability, got {alpha!r}; use one from 0 to 1.")
    if gamma < 0 or gamma != int(gamma):
        raise InputError(f"gamma must be a whole number, got {gamma!r}; use 0 or more drafts.")
    return float(sum(alpha**m for m in range(int(gamma) + 1)))


def improvement_factor(alpha: float, gamma: int, cost: float) -> float:
    """Expected speed-up against one token per call, with a draft model called once per draft.

    (1 - alpha^{gamma+1}) / ((1 - alpha) (gamma c + 1)), where acceptances are independent.

    Args:
        alpha: Acceptance rate, from 0 to 1.
        gamma: Number of drafts of a round, at least 0.
        cost: Time c of one call of the draft model, in calls of the base model, at least 0.

    Raises:
        InputError: A number is out of its range.

    Source: Leviathan et al. 2023, theorem 3.8
    """
    return accepted_length(alpha, gamma) / (gamma * _require_cost(cost) + 1)


def operations_factor(alpha: float, gamma: int, cost: float) -> float:
    """Expected arithmetic operations per token, in those of one call of the base model.

    (1 - alpha) (gamma c + gamma + 1) / (1 - alpha^{gamma+1}), where acceptances are independent.

    Args:
        alpha: Acceptance rate, from 0 to 1.
        gamma: Number of drafts of a round, at least 0.
        cost: Operations c of the draft model per token, in those of the base model, at least 0.

    Raises:
        InputError: A number is out of its range.

    Source: Leviathan et al. 2023, theorem 3.11
    """
    return (gamma * _require_cost(cost) + gamma + 1) / accepted_length(alpha, gamma)


def _require_cost(cost: float) -> float:
    """The cost of a draft, if it is one."""
    if not 0 <= cost < math.inf:
        raise InputError(f"cost must be finite and at least 0, got {cost!r}; use 0 for no cost.")
    return cost
