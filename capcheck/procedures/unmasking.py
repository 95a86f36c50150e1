"""The three rules of a parallel decoder of token ids: which masked tokens, how many, and how drawn.

*Which*: the masked tokens are ranked, by a random order, from left to right, or by a score of each
token's law p given the known tokens:

| order | score |
|---|---|
| `top_probability` | max_v p(v) |
| `margin` | difference of the two largest p(v) |
| `entropy` | -H(p) |
| `sampled_confidence` | p(v) of the value v that was drawn |

Numbers that differ by less than about `TIE` count as equal, and then the left token comes first, so
that a score's order is a function of the known tokens alone.

*How many*: the first c of this ranking, with c from a schedule, or, with the largest probabilities
p_1, p_2, .. and entropies H_1, H_2, .. of the ranked tokens,

| rule | c, at least 1 |
|---|---|
| `threshold` | all tokens with max_v p(v) at least the threshold, wherever they rank |
| `factor` | the largest c with (c + 1) (1 - min of p_1..p_c) < factor |
| `entropy_bound` | the largest c with H_1 + .. + H_c - max of them at most the bound |

*How drawn*: from p^(1/T) of temperature T, restricted to the fewest most probable values whose mass
reaches top_p; or greedily, the most probable value. Of equally probable values the smallest comes
first.

Sources: Nie et al. 2025, "Large Language Diffusion Models", https://arxiv.org/abs/2502.09992
(confidence, blocks); Kim et al. 2025, "Train for the Worst, Plan for the Best",
https://arxiv.org/abs/2502.06768 (top probability and margin); Wu et al. 2025, "Fast-dLLM",
https://arxiv.org/abs/2505.22618 (threshold and factor); Ben-Hamu et al. 2025, "Accelerated
Sampling from Masked Diffusion Models via Entropy Bounded Unmasking",
https://arxiv.org/abs/2505.24857 (entropy bound).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.laws import TokenLaw

__all__ = [
    "SCORES",
    "TIE",
    "TIE_DIGITS",
    "Drawing",
    "Free",
    "Order",
    "Picking",
    "Step",
    "ranked",
    "scores_of",
]

Order = Literal["random", "fixed", "sampled_confidence", "top_probability", "margin", "entropy"]
SCORES: tuple[Order, ...] = ("top_probability", "margin", "entropy")
"""The orders that the known tokens decide by themselves."""

TIE = 2.0**-30  # distance of scores, in probability or nats, below which they count as equal
TIE_DIGITS = 2.0**6  # the same in units in the last place of 1, for coarser floating-point types


def scores_of(p: Tensor, order: Order) -> Tensor:
    """The scores of tokens by their laws, larger for those that are placed first: (...).

    Args:
        p: Probabilities of the values, (..., V).
        order: One of `SCORES`.
    """
    if order == "top_probability":
        likeliest: Tensor = p.amax(-1)
        return likeliest
    if order == "entropy":
        negative_entropy: Tensor = torch.special.xlogy(p, p).sum(-1)
        return negative_entropy
    two = p.topk(min(2, p.shape[-1]), dim=-1).values
    margin: Tensor = 2 * two[..., 0] - two.sum(-1)
    return margin


def ranked(scores: Tensor, candidates: Tensor) -> Tensor:
    """The rank of each candidate, 0 for the largest score, and of equal ones the left: (n, N).

    Args:
        scores: (n, N).
        candidates: Tokens that may be placed, (n, N) bool; the others rank behind them.
    """
    rounded = torch.where(candidates, (scores / _tie(scores)).round(), -torch.inf)
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

    def scattered(self, values: Tensor) -> Tensor:
        """The values (m,) of these tokens, in the order of their rows: (n, N), 0 elsewhere."""
        found = values.new_zeros(self.tokens.shape)
        found[self.tokens] = values
        return found

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

    def chosen(self, free: Free, count: int | None, law: TokenLaw, own: Tensor) -> Tensor:
        """The tokens that a step places, (n, N) bool: at least one where one is free.

        Args:
            free: The tokens that may be placed.
            count: Number of tokens that are placed, or None if their laws decide.
            law: The network's law of every token.
            own: Scores (n, N) of an order that the laws do not decide: the probability of the
                drawn value, or less the larger the rank in a random or fixed order.
        """
        peaks_are_enough = self.factor is None and self.entropy_bound is None
        if peaks_are_enough and self.order not in ("margin", "entropy"):
            return self._by_peaks(free, count, law, own)
        p = law.probabilities_where(free.tokens)  # (m, V)
        scores = free.scattered(scores_of(p, self.order)) if self.order in SCORES else own
        place = ranked(scores, free.tokens)
        if count is not None:
            return free.tokens & (place < free.left.clamp(max=count))
        if self.entropy_bound is not None:
            counts = self._fitting(free.scattered(-scores_of(p, "entropy")), place, free)
        elif self.factor is not None:
            counts = self._fitting(free.scattered(p.amax(-1)), place, free)
        else:
            return self._passing(free, place, free.scattered(p.amax(-1)))
        return free.tokens & (place < torch.minimum(counts.clamp(min=1), free.left))

    def _by_peaks(self, free: Free, count: int | None, law: TokenLaw, own: Tensor) -> Tensor:
        """As `chosen` where no more of the laws is needed than their largest probabilities."""
        peaks, by_peaks = own, self.order == "top_probability"
        if by_peaks or count is None:
            least = math.inf if self.threshold is None else self.threshold
            # The order of those that are placed in any case counts where they may be too many.
            limit = count or int(free.tokens.sum(1).max())
            ordered = by_peaks and int(free.left.min()) < limit
            peaks = law.peaks_where(free.tokens, most=count or 1, least=least, ordered=ordered)
        place = ranked(peaks if by_peaks else own, free.tokens)
        if count is not None:
            return free.tokens & (place < free.left.clamp(max=count))
        return self._passing(free, place, peaks)

    def _passing(self, free: Free, place: Tensor, likeliest: Tensor) -> Tensor:
        """The tokens that pass the threshold, and the first one where none does, (n, N) bool."""
        assert self.threshold is not None
        passing = free.tokens & (likeliest >= self.threshold - _tie(likeliest))
        behind = torch.where(passing, place, place + place.shape[1])
        place = ranked(-behind.to(likeliest), free.tokens)  # those that pass come first
        counts = passing.sum(1, keepdim=True)
        return free.tokens & (place < torch.minimum(counts.clamp(min=1), free.left))

    def _fitting(self, values: Tensor, rank: Tensor, free: Free) -> Tensor:
        """The largest number of tokens that the factor or the entropy bound allows, (n, 1).

        Args:
            values: Probability of each free token's likeliest value, or its entropy, (n, N).
            rank: Rank of each free token, (n, N).
            free: The tokens that may be placed.
        """
        place = rank.argsort(1)  # (n, N), the token of each rank
        ordered, number = values.gather(1, place), torch.arange(1, rank.shape[1] + 1).to(rank)
        if self.factor is not None:
            fits = (number + 1) * (1 - ordered.cummin(1).values) < self.factor - _tie(ordered)
        else:
            assert self.entropy_bound is not None
            loss = ordered.cumsum(1) - ordered.cummax(1).values
            fits = loss <= self.entropy_bound + _tie(ordered)
        return ((fits & free.tokens.gather(1, place)) * number).amax(1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The rule for how the value of a token is drawn.

    Attributes:
        temperature: T above 0; the law becomes p^(1/T).
        top_p: Mass that the most probable values must reach, above 0 and at most 1.
        greedy: Whether the most probable value is taken.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether values are drawn from the law itself."""
        return (self.temperature, self.top_p, self.greedy) == (1, 1, False)

    def sample_where(self, law: TokenLaw, rng: Randomness, chosen: Tensor) -> Tensor:
        """Draws of the chosen tokens, (n, N) integers; other values mean nothing."""
        if self.is_plain:
            return law.sample_where(rng, chosen)
        p = self.shaped(law.probabilities_where(chosen))  # (m, V)
        return rng.categorical_where(p, chosen)

    def log_prob_where(self, law: TokenLaw, x: Tensor, chosen: Tensor) -> Tensor:
        """Log-probability (nats) of the chosen tokens of x, (n, N), and 0 elsewhere."""
        if self.is_plain:
            return law.log_prob_where(x, chosen)
        p = self.shaped(law.probabilities_where(chosen))  # (m, V)
        found = p.new_zeros(x.shape)
        found[chosen] = p.gather(-1, x[chosen][:, None])[:, 0].log()
        return found

    def shaped(self, p: Tensor) -> Tensor:
        """The probabilities from which values are drawn, (..., V), by those p (..., V) of a law."""
        if self.greedy:
            tie = _tie(p)
            value = torch.arange(p.shape[-1], device=p.device)
            equal = p >= p.amax(-1, keepdim=True) - tie
            best = torch.where(equal, value, len(value)).amin(-1, keepdim=True)
            return (value == best).to(p)
        if self.temperature != 1:
            below = p.log() - p.amax(-1, keepdim=True).log()  # a tiny temperature overflows
            p = (below / self.temperature).softmax(-1)
        if self.top_p < 1:
            values = (p / _tie(p)).round().argsort(dim=-1, descending=True, stable=True)
            ordered = p.gather(-1, values)
            kept = ordered.cumsum(-1) - ordered < self.top_p - _tie(p)  # by the mass before
            kept[..., 0] = True
            p = p * kept.gather(-1, values.argsort(-1))
            p = p / p.sum(-1, keepdim=True)
        return p


def _tie(numbers: Tensor) -> float:
    """The distance below which scores of a precision count as equal."""
    return max(TIE, TIE_DIGITS * torch.finfo(numbers.dtype).eps)
