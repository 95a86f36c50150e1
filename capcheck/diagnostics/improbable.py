"""Improbable tokens: those that a target would almost never write after the tokens before them.

Token x_i of a sequence is improbable if the target, given the tokens before it, writes a token that
is no more probable than x_i with a probability below 1 in 1,000:

    sum over v with p(v | x_<i) <= p(x_i | x_<i) of p(v | x_<i)  <  LEVEL.

So at most one token of 1,000 is improbable in the target's own draws, whatever the target, and a
token of probability 0 always is. After such a token the sequence has no conditional law, and none
of its later tokens is called improbable. No verdict uses improbable tokens: reports mark them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.diagnostics.qualities import WORK, conditional_work
from capcheck.targets.target import CategoricalTarget, Target
from capcheck.targets.tokens import require_tokens

__all__ = ["LEVEL", "PROBABILITY", "Places", "improbable_tokens"]

Places = tuple[tuple[int, ...], ...]
"""Places of tokens, counted from 0: one tuple for each sequence."""

LEVEL = 1e-3  # largest share of improbable tokens in the target's own draws
PROBABILITY = 100.0  # time of a probability of a law that is written down, in multiply-adds
TIES = 1e-9  # relative difference up to which two probabilities count as equal


def improbable_tokens(target: Target, x: Tensor) -> Places | None:
    """The places of the improbable tokens of sequences.

    Args:
        target: The target, whose exact conditionals are computed.
        x: Sequences, (n, N) integers.

    Returns:
        One tuple for each of the first sequences, as many as take some tenths of a second, by the
        number of operations and not by the clock. None if not even one does, if tokens are real
        numbers, or if each row has a law of its own.
    """
    if not isinstance(target, CategoricalTarget) or target.rows is not None or not len(x):
        return None
    require_tokens(target.spec, x)
    row = conditional_work(target) + PROBABILITY * target.spec.tokens * target.spec.dim
    affordable = int(WORK / row)
    if not affordable:
        return None
    parts = x[:affordable].split(target.rows_at_once)
    marks = torch.cat([_improbable(target, part) for part in parts])  # (r, N)
    return tuple(tuple(mark.nonzero()[:, 0].tolist()) for mark in marks)


def _improbable(target: CategoricalTarget, x: Tensor) -> Tensor:
    """Which tokens of x (r, N) are improbable: (r, N) bool."""
    levels = torch.zeros(x.shape, dtype=target.dtype, device=x.device)
    p = target.marginals(x, levels, causal=True).mean()  # (r, N, V)
    own = p.gather(-1, x[..., None].long())  # (r, N, 1)
    tail = torch.where(p <= own * (1 + TIES), p, 0).sum(-1)  # (r, N)
    impossible = (own[..., 0] <= 0).long()
    before = impossible.cumsum(1) - impossible  # number of impossible tokens before each
    return (tail < LEVEL) & (before == 0)
