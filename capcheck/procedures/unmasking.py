"""The three rules of a parallel decoder of token ids: which masked tokens, how many, and how drawn.

*Which*: the masked tokens are ranked, by a random order, from left to right, or by a score of each
token's law p given the known tokens:

| order | score |
|---|---|
| `top_probability` | max_v p(v) |
| `margin` | difference of the two largest p(v) |
| `entropy` | -H(p) |
| `sampled_confidence` | p(v) of the value v that was drawn |

Scores that differ by less than about `TIE` count as equal, and then the left token comes first, so
that a score's order is a function of the known tokens alone.

*How many*: the first c of this ranking, with c from a schedule, or, with the largest probabilities
p_1, p_2, .. and entropies H_1, H_2, .. of the ranked tokens,

| rule | c, at least 1 |
|---|---|
| `threshold` | all tokens with max_v p(v) at least the threshold, wherever they rank |
| `factor` | the largest c with (c + 1) (1 - min of p_1..p_c) < factor |
| `entropy_bound` | the largest c with H_1 + .. + H_c - max of them at most the bound |

*How drawn*: from p^(1/T) of temperature T, restricted to the fewest most probable values whose mass
reaches top_p; or greedily, the most probable value, and of equal ones the smallest.

Sources: Nie et al. 2025, "Large Language Diffusion Models", https://arxiv.org/abs/2502.09992
(confidence, blocks); Kim et al. 2025, "Train for the Worst, Plan for the Best",
https://arxiv.org/abs/2502.06768 (top probability and margin); Wu et al. 2025, "Fast-dLLM",
https://arxiv.org/abs/2505.22618 (threshold and factor); Ben-Hamu et al. 2025, "Accelerated
Sampling from Masked Diffusion Models via Entropy Bounded Unmasking",
https://arxiv.org/abs/2505.24857 (entropy bound).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "SCORES",
    "TIE",
    "TIE_DIGITS",
    "Free",
    "Order",
    "Picking",
    "Step",
    "ranked",
    "scores_of",
    "shaped",
]

Order = Literal["random", "fixed", "sampled_confidence", "top_probability", "margin", "entropy"]
SCORES: tuple[Order, ...] = ("top_probability", "margin", "entropy")
"""The orders that the known tokens decide by themselves."""

TIE = 2.0**-30  # distance of scores, in probability or nats, below which they count as equal
TIE_DIGITS = 2.0**6  # the same in units in the last place of 1, for coarser floating-point types


def scores_of(log_p: Tensor, order: Order) -> Tensor:
    """The scores of tokens by their laws, larger for those that are placed first: (n, N).

    Args:
        log_p: Log-probabilities of the values in nats, (n, N, V).
        order: One of `SCORES`.
    """
    p = log_p.exp()
    if order == "top_probability":
        return p.amax(-1)
    if order == "entropy":
        return (p * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)
    if p.shape[-1] == 1:
        return p[..., 0]
    two = p.topk(2, dim=-1).values
    return two[..., 0] - two[..., 1]


def ranked(scores: Tensor, candidates: Tensor) -> Tensor:
    """The rank of each candidate, 0 for the largest score, and of equal ones the left: (n, N).

    Args:
        scores: (n, N).
        candidates: Tokens that may be placed, (n, N) bool; the others rank behind them.
    """
    tie = max(TIE, TIE_DIGITS * torch.finfo(scores.dtype).eps)
    rounded = torch.where(candidates, (scores / tie).round(), -torch.inf)
    return rounded.argsort(dim=1, descending=True, stable=True).argsort(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Free:
    """The tokens that a step may place.

    Attributes:
        tokens: The tokens, (n, N) bool.
        left: The largest number of them, (n, 1).
    """

    tokens: Tensor
    left: Tensor

    def rows(self, index: Tensor) -> Free:
        """Those of the rows with some indices."""
        return Free(tokens=self.tokens[index], left=self.left[index])


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of a parallel decoder.

    Attributes:
        tokens: Indices of the tokens that it may place.
        count: Number of tokens that it places, or None if their laws decide.
        name: Name of the random stream of its draws.
    """

    tokens: tuple[int, ...]
    count: int | None
    name: str

    def free(self, placed: Tensor, most: int) -> Free:
        """The tokens that the step may place in each row, where at most `most` are ever placed."""
        left = most - placed.sum(1, keepdim=True)
        inside = torch.zeros_like(placed[:1])
        inside[:, list(self.tokens)] = True
        return Free(tokens=inside & ~placed & (left > 0), left=left)


@dataclass(frozen=True, kw_only=True)
class Picking:
    """The rules for which tokens a step places and how many; at most one number is set.

    Attributes:
        order: Order in which masked tokens are placed.
        threshold: Smallest probability of the likeliest value of a token that is placed.
        factor: Bound of the factor rule.
        entropy_bound: Bound on the sum of entropies less the largest, in nats.
    """

    order: Order
    threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None

    @property
    def by_laws(self) -> bool:
        """Whether the laws of the tokens decide how many are placed, and not a schedule."""
        return (self.threshold, self.factor, self.entropy_bound) != (None, None, None)

    @property
    def reads_laws(self) -> bool:
        """Whether the laws of the tokens decide which ones or how many are placed."""
        return self.by_laws or self.order in SCORES

    def chosen(self, free: Free, count: int | None, scores: Tensor, log_p: Tensor | None) -> Tensor:
        """The tokens that a step places, (n, N) bool: at least one where one is free.

        Args:
            free: The tokens that may be placed.
            count: Number of tokens that are placed, or None if their laws decide.
            scores: Scores (n, N) of an order that the laws do not decide: the probability of the
                drawn value, or less the larger the rank in a random or fixed order.
            log_p: Log-probabilities of the network's answer in nats, (n, N, V), if `reads_laws`.
        """
        if log_p is not None and self.order in SCORES:
            scores = scores_of(log_p, self.order)
        place = ranked(scores, free.tokens)
        if count is not None:
            return free.tokens & (place < free.left.clamp(max=count))
        assert log_p is not None
        if self.threshold is not None:
            passing = free.tokens & (log_p.exp().amax(-1) >= self.threshold)
            behind = torch.where(passing, place, place + place.shape[1])  # the others come later
            place, counts = ranked(-behind.to(scores), free.tokens), passing.sum(1, keepdim=True)
        else:
            counts = self._fitting(log_p, place, free)
        return free.tokens & (place < torch.minimum(counts.clamp(min=1), free.left))

    def _fitting(self, log_p: Tensor, rank: Tensor, free: Free) -> Tensor:
        """The largest number of tokens that the factor or the entropy bound allows, (n, 1)."""
        place = rank.argsort(1)  # (n, N), the token of each rank
        number = torch.arange(1, rank.shape[1] + 1, device=rank.device)
        if self.factor is not None:
            weakest = log_p.exp().amax(-1).gather(1, place).cummin(1).values
            fits = (number + 1) * (1 - weakest) < self.factor
        else:
            entropy = -scores_of(log_p, "entropy").gather(1, place)
            assert self.entropy_bound is not None
            loss = entropy.cumsum(1) - entropy.cummax(1).values
            fits = loss <= self.entropy_bound + TIE
        return ((fits & free.tokens.gather(1, place)) * number).amax(1, keepdim=True)


def shaped(log_p: Tensor, *, temperature: float, top_p: float, greedy: bool) -> Tensor:
    """The log-probabilities from which values are drawn, in nats: (..., V).

    Args:
        log_p: Log-probabilities of the network's answer, (..., V).
        temperature: T above 0; the law becomes p^(1/T).
        top_p: Mass that the most probable values must reach, above 0 and at most 1.
        greedy: Whether the most probable value is certain.
    """
    V = log_p.shape[-1]
    value = torch.arange(V, device=log_p.device)
    if greedy:
        tie = max(TIE, TIE_DIGITS * torch.finfo(log_p.dtype).eps)
        equal = log_p >= log_p.amax(-1, keepdim=True) - tie
        best = torch.where(equal, value, V).amin(-1, keepdim=True)
        return torch.where(value == best, 0.0, -torch.inf).to(log_p)
    if temperature != 1:
        log_p = (log_p / temperature).log_softmax(-1)
    if top_p < 1:
        ordered, values = log_p.sort(dim=-1, descending=True, stable=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()  # mass of the more probable values
        kept = before < top_p - TIE
        kept[..., 0] = True
        log_p = log_p.masked_fill(~kept.gather(-1, values.argsort(-1)), -torch.inf)
        log_p = log_p.log_softmax(-1)
    return log_p
