"""A low-rank softmax is a predictor whose logits, over all contexts, form a matrix of rank r.

The network computes any h_c in R^r from a context c, multiplies it by a matrix W (V, r) that is the
same for all contexts, and emits softmax(h_c W^T). Over contexts c = x_<i of every length, with
probabilities P(c), the best such network attains

    min over H, W of sum_c P(c) KL(p(. | c) || softmax(h_c W^T)),

which is 0 iff r is at least the rank of log p(v | c) after each row's mean is subtracted. The
oracle is a near-oracle, because H and W are found by descent from several starts.

Source: Yang et al. 2018, "Breaking the Softmax Bottleneck: A High-Rank RNN Language Model",
section 2, https://arxiv.org/abs/1711.03953
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, DeferredCategorical, TokenLaw
from capcheck.networks.signatures.signature import Signature
from capcheck.networks.signatures.token_predictor import (
    TokenPredictor,
    TokenPredictorSignature,
    hidden,
    require_law,
)
from capcheck.targets.target import Target, require_one_law

__all__ = [
    "BEGINNING",
    "CONTINUED",
    "DIGITS",
    "IMPOSSIBLE",
    "ITERATIONS",
    "LARGEST",
    "ROWS",
    "SETTLED",
    "STARTS",
    "Contexts",
    "LowRankPredictorSignature",
    "best_factors",
    "contexts_of",
    "divergence",
]

LARGEST = 1 << 20  # largest number of contexts x V: 8 MiB, and at most minutes of descent
ROWS = 8192  # contexts whose laws are computed at once
STARTS = 16  # starts of the descent, the first by least squares and the others at random
BEGINNING = 40  # iterations from each start
CONTINUED = 3  # number of the best starts that are continued
ITERATIONS = 500  # further iterations of the continued starts
SETTLED = 1e-11  # change of the KL (nats) in one iteration below which the descent ends
DIGITS = 12  # decimals to which the laws of two contexts must agree to share one h
IMPOSSIBLE = 30.0  # least log-probability in the first start, in nats below the row's largest


@dataclass(frozen=True)
class LowRankPredictorSignature(Signature[TokenPredictor]):
    """(tokens, known) -> law of the token after the known ones, whose logits have a bounded rank.

    The known tokens are the first ones of each row; the laws of all other tokens are NaN.

    Attributes:
        rank: r, at least 1.
    """

    rank: int

    def oracle(self, target: Target) -> TokenPredictor:
        """The best low-rank network, which is exact if the rank is at least V - 1.

        Contexts of probability 0 get the mean h of the contexts of their length.

        Raises:
            UnfitError: The tokens are continuous, or the contexts are too many to enumerate.
        """
        if target.spec.kind != "categorical":
            raise UnfitError(
                "softmax_rank needs categorical tokens, got continuous ones; leave it out."
            )
        if self.rank >= target.spec.dim - 1:
            return TokenPredictorSignature().oracle(target)
        require_one_law(target, "softmax_rank")
        return _LowRankPredictor(target, self.rank)

    def hide(self, shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
        """The tokens, with the same value for every unknown token, and the mask of known ones."""
        tokens, known = shown
        return hidden(tokens, known, spec), known

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a TokenLaw."""
        require_law(answer)


@dataclass(frozen=True, kw_only=True, eq=False)
class Contexts:
    """All prefixes x_<i of positive probability, for i = 1..N, as a tree.

    Attributes:
        child: Node that follows context c with value v, (C + N, V). Nodes 0..C-1 are the contexts,
            and node C + i stands for all prefixes of i tokens with probability 0.
        length: Number of tokens of each context, (C,).
        weight: Probability of each context, (C,).
        laws: Laws p(v | c) of the next token, (C, V).
    """

    child: Tensor
    length: Tensor
    weight: Tensor
    laws: Tensor


def contexts_of(target: Target) -> Contexts:
    """The contexts of a categorical target, in float64 on the CPU.

    Raises:
        UnfitError: The number of contexts times V is more than 2^20.
    """
    N, V = target.spec.tokens, target.spec.dim
    prefix = torch.zeros(1, N, dtype=torch.int64)
    weights, laws = [torch.ones(1, dtype=torch.float64)], []
    followers: list[tuple[Tensor, Tensor]] = []  # per length: parent and last value of contexts
    for i in range(N):
        if sum(map(len, weights)) * V > LARGEST:
            raise UnfitError(
                f"softmax_rank needs contexts x symbols of at most {LARGEST}, got at least "
                f"{sum(map(len, weights))} x {V}; choose fewer tokens or merge rare symbols."
            )
        laws.append(_laws_after(target, prefix, i))
        reached = weights[i][:, None] * laws[i]  # (contexts of i tokens, V)
        context, value = reached.nonzero(as_tuple=True)
        if i < N - 1:
            prefix = prefix[context]
            prefix[:, i] = value
            weights.append(reached[context, value])
            followers.append((context, value))
    starts = [0, *torch.tensor([len(w) for w in weights]).cumsum(0).tolist()]
    length = torch.cat([torch.full((len(w),), i) for i, w in enumerate(weights)])
    after = torch.cat([length, torch.arange(N)]) + 1
    child = (starts[-1] + after)[:, None].repeat(1, V)
    for i, (context, value) in enumerate(followers):
        child[starts[i] + context, value] = torch.arange(starts[i + 1], starts[i + 2])
    return Contexts(child=child, length=length, weight=torch.cat(weights), laws=torch.cat(laws))


def best_factors(laws: Tensor, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors H (C, r) and W (V, r) with the least KL that descent finds.

    Args:
        laws: Laws p(v | c), (C, V), float64.
        weight: Probabilities P(c), (C,).
        rank: Rank r.
    """
    root = weight.sqrt()[:, None]
    starts = (_start(laws, root, rank, s) for s in range(STARTS))
    begun = [_descend(laws, root, *start, iterations=BEGINNING) for start in starts]
    begun.sort(key=lambda each: each[0])
    ended = [_descend(laws, root, G, W, iterations=ITERATIONS) for _, G, W in begun[:CONTINUED]]
    _, G, W = min(ended, key=lambda each: each[0])
    return G / root, W


def divergence(laws: Tensor, weight: Tensor, logits: Tensor) -> Tensor:
    """The divergence sum_c P(c) KL(p(. | c) || softmax(logits_c)), nats, for logits (C, V)."""
    each = torch.special.xlogy(laws, laws).sum(1) - (laws * logits.log_softmax(1)).sum(1)
    total: Tensor = (weight * each).sum()
    return total


class _LowRankPredictor:
    """A predictor that looks up the context of each row; H and W are computed at the first call."""

    def __init__(self, target: Target, rank: int) -> None:
        self._like = target.spec.mean
        self._rank = rank
        self._contexts = contexts_of(target)

    def __call__(self, tokens: Tensor, known: Tensor, /) -> TokenLaw:
        """The law of the token after the known ones; the laws of all other tokens are NaN."""
        N = known.shape[1]
        length = known.sum(1)
        place = torch.arange(N, device=known.device)
        if not bool((known == (place < length[:, None])).all()):
            raise UnfitError(
                "softmax_rank is for tokens that follow a prefix, got others that are known; give "
                "the first tokens only, or leave it out."
            )
        child = self._contexts.child.to(tokens.device)
        node = torch.full_like(length, 0)
        for j in range(N - 1):
            value = torch.where(known[:, j], tokens[:, j], 0)
            node = torch.where(known[:, j], child[node, value], node)
        law = self._table[node]  # (n, V)

        def make(of: list[int]) -> Categorical:
            is_next = place[of] == length[:, None]  # (n, S)
            return Categorical(torch.where(is_next[..., None], law[:, None], torch.nan))

        return DeferredCategorical(make, range(N))

    @functools.cached_property
    def _table(self) -> Tensor:
        """Logits of every node, (C + N, V)."""
        contexts = self._contexts
        # Contexts with the same law of the next token can share one h.
        laws, same = contexts.laws.round(decimals=DIGITS).unique(dim=0, return_inverse=True)
        weight = laws.new_zeros(len(laws)).index_add(0, same, contexts.weight)
        H, W = best_factors(laws, weight, self._rank)
        H = H[same]
        of_length = contexts.length == torch.arange(len(self._like))[:, None]  # (N, C)
        elsewhere = (of_length * contexts.weight) @ H  # (N, r); weights of a length sum to 1
        return (torch.cat([H, elsewhere]) @ W.T).to(self._like)


def _laws_after(target: Target, prefix: Tensor, i: int) -> Tensor:
    """The laws p(x_i = v | x_<i) for prefixes (c, N), in float64 on the CPU: (c, V)."""
    wide = target.to(device=target.device, dtype=torch.float64)
    unseen = (torch.arange(prefix.shape[1], device=wide.device) >= i).double()
    parts: list[Tensor] = []
    for rows in prefix.to(wide.device).split(ROWS):
        law = wide.marginals(rows, unseen.expand(rows.shape)).select([i])
        parts.append(law.mean()[:, 0].cpu())
    return torch.cat(parts)


def _start(laws: Tensor, root: Tensor, rank: int, number: int) -> tuple[Tensor, Tensor]:
    """Start values of G = sqrt(P(c)) H (C, r) and W (V, r).

    Start 0 is the weighted least-squares fit to log p(v | c); all others are random.
    """
    if number > 0:
        generator = torch.Generator().manual_seed(number)
        H, W = (
            torch.randn(size, rank, generator=generator, dtype=torch.float64) for size in laws.shape
        )
        return root * H, W
    log_p = laws.log()
    log_p = log_p.maximum(log_p.amax(1, keepdim=True) - IMPOSSIBLE)
    U, S, Vh = torch.linalg.svd(root * (log_p - log_p.mean(1, keepdim=True)), full_matrices=False)
    scale = S[:rank].sqrt()
    pad = (0, rank - len(scale))  # where there are fewer contexts than r
    G, W = U[:, :rank] * scale, Vh[:rank].T * scale
    return torch.nn.functional.pad(G, pad), torch.nn.functional.pad(W, pad)


def _descend(
    laws: Tensor, root: Tensor, G: Tensor, W: Tensor, *, iterations: int
) -> tuple[float, Tensor, Tensor]:
    """The KL, G and W after at most `iterations` iterations of L-BFGS from G and W.

    The descent is in G = sqrt(P(c)) H, in which the loss has a similar curvature for probable and
    improbable contexts.
    """
    weight = root[:, 0].square()
    G, W = (x.contiguous().clone().requires_grad_() for x in (G, W))
    descent = torch.optim.LBFGS(
        [G, W],
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=SETTLED,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        descent.zero_grad()
        loss = divergence(laws, weight, G / root @ W.T)
        loss.backward()
        return loss

    with torch.enable_grad():
        descent.step(closure)
    G, W = G.detach(), W.detach()
    loss = float(divergence(laws, weight, G / root @ W.T))
    return (loss if math.isfinite(loss) else math.inf), G, W
