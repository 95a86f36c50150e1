"""The accuracy of draws where given tokens leave one value possible for each of the others.

A token that is drawn is right if its law given the given tokens is the point mass at its value.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.core.tiles import slices
from capcheck.diagnostics.classifier import binomial_interval
from capcheck.diagnostics.figure import Figure, Mean
from capcheck.targets.target import CategoricalTarget

__all__ = ["CERTAIN", "accuracies", "right_tokens"]

CERTAIN = 1e-6  # nats by which a law may miss a point mass


def right_tokens(target: CategoricalTarget, x: Tensor, free: Sequence[int]) -> Tensor | None:
    """Whether each token that is drawn is the only possible one, (n, F) bool.

    Args:
        target: The target.
        x: Rows, (n, N) integers, whose given tokens are possible.
        free: Indices of the F tokens that are drawn.

    Returns:
        None if some token has a probability between 0 and 1, so that other values are possible.
    """
    parts = []
    for rows in slices(len(x), target.rows_at_once):
        hidden = torch.zeros_like(x[rows], dtype=target.dtype)
        hidden[:, list(free)] = 1
        law = target.marginals(x[rows], hidden)
        parts.append(law.log_prob_where(x[rows], hidden > 0)[:, list(free)])
    log_p = torch.cat(parts)
    right = log_p > -CERTAIN
    return right if bool((right | log_p.isneginf()).all()) else None


def accuracies(right: Tensor, *, level: float) -> tuple[Figure, Figure]:
    """The share of sequences that are right, and the share of drawn tokens that are.

    Args:
        right: Whether each drawn token is right, (n, F) bool with n at least 2.
        level: Confidence of the intervals.
    """
    whole, n = right.all(1), len(right)
    low, high = binomial_interval(int(whole.sum()), n, level=level)
    sequences = Figure(
        value=float(whole.double().mean()),
        low=low,
        high=high,
        target=1.0,
        rows=n,
        method="share of draws that are the only possible one, Clopper and Pearson's interval",
    )
    tokens = Mean.of(right.double().mean(1))
    if tokens is None:
        return sequences, Figure(method="fewer than two draws")
    low, high = tokens.interval(level)
    return sequences, Figure(
        value=tokens.value,
        low=max(0.0, low),
        high=min(1.0, high),
        target=1.0,
        rows=n,
        method="share of drawn tokens that are the only possible ones, t interval over draws",
    )
