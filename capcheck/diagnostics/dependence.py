"""The share of the target's dependence between two tokens at a distance that a model's draws keep.

With the target's laws p(a, b) of two tokens at distance d and p(a) p(b) of the same two drawn
independently, S_d is the mean of the pointwise mutual information over the draws' pairs at uniform
places, and c_d the mean of a bounded score of dependence:

    s(a, b) = log p(a, b) - log p(a) p(b),
    c(a, b) = (p(a, b) - p(a) p(b)) / (p(a, b) + p(a) p(b)) = tanh(s / 2).

Over the target's pairs S_d is their mutual information I_d, and c_d is a number C_d in [0, 1], the
triangular discrimination of the two laws. Over independent tokens c_d is -C_d. Therefore

    kept = (1 + c_d / C_d) / 2

is 1 for the target and 0 for independent tokens of the right laws. If a share of the pairs is drawn
as the target's and the rest independently, it is that share. Below 0 a dependence is of the wrong
kind, and above 1 it is exaggerated. S_d / I_d would have no such scale: over independent tokens
S_d is negative, and -inf where some pairs cannot occur.

No table is estimated from draws, so that large vocabularies cause no bias.

Source of C_d: Topsoe, Some inequalities for information divergence and related measures of
discrimination (IEEE Transactions on Information Theory, 2000).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.record import Record
from capcheck.core.tiles import slices
from capcheck.diagnostics.figure import Figure, Mean
from capcheck.divergences.estimate import t_quantile
from capcheck.targets.target import CategoricalTarget

__all__ = ["Dependence", "Pairs", "dependence_of", "distances", "kept", "pairs_of"]

LEAST = 1e-6  # C_d below which it may be rounding


class Dependence(Record):
    """The dependence of two tokens at a distance.

    Attributes:
        distance: Distance d of the two tokens, in places from left to right.
        information: S_d of the draws' pairs that can occur in the target, beside I_d; in nats.
        kept: Share of the dependence that is kept; None where C_d is not clearly above 0.
        impossible: Share of the draws' pairs that cannot occur in the target.
    """

    distance: int
    information: Figure
    kept: Figure
    impossible: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs of tokens at one distance.

    Attributes:
        information: S_d of the pairs that can occur, in nats; None if fewer than two rows have any.
        score: c_d of all pairs, in [-1, 1]; None of fewer than two rows.
        impossible: Share of the pairs that cannot occur in the target.
    """

    information: Mean | None
    score: Mean | None
    impossible: float


def distances(tokens: int) -> tuple[int, ...]:
    """The powers of 2 below the number of tokens."""
    return tuple(2**k for k in range((tokens - 1).bit_length()))


def pairs_of(target: CategoricalTarget, x: Tensor, *, shown: int) -> list[Pairs]:
    """The scores of the pairs of tokens at each of the `distances`.

    One token of a row is shown, and both tokens at every distance from it are scored: one law then
    serves all distances, and all pairs are scored about equally often. The places that are shown
    are evenly spaced, and shared out among the rows in their order, which must mean nothing.

    Args:
        target: The target.
        x: Rows, (n, N) integers.
        shown: Number of tokens that are shown; a row takes several turns if there are more.
    """
    n, N = x.shape
    step = torch.tensor([s * d for d in distances(N) for s in (-1, 1)], device=x.device)
    turn = torch.arange(shown, device=x.device)
    row, place = turn % n, turn * N // shown  # (shown,)
    partner = place[:, None] + step  # (shown, 2 D)
    inside = (partner >= 0) & (partner < N)
    partner = partner.clamp(0, N - 1)
    log_marginal = target.spec.mean.log()  # (N, V)
    alone = log_marginal[torch.arange(N, device=x.device), x[row]]  # (shown, N)
    scores = torch.zeros(partner.shape, dtype=torch.float64, device=x.device)
    for part in slices(shown, target.rows_at_once):
        rows, hidden = x[row[part]], torch.ones_like(x[row[part]], dtype=target.dtype)
        hidden.scatter_(1, place[part, None], 0)
        asked = torch.zeros_like(hidden, dtype=torch.int64)
        asked.scatter_add_(1, partner[part], inside[part].long())
        told = target.marginals(rows, hidden).log_prob_where(rows, asked > 0)
        scores[part] = (told - alone[part]).gather(1, partner[part]).double()
    possible = inside & scores.isfinite() & alone.gather(1, place[:, None]).isfinite()
    found = []
    for k in range(0, len(step), 2):
        s, some, every = scores[:, k : k + 2], possible[:, k : k + 2], inside[:, k : k + 2]
        c = torch.where(some, (s / 2).tanh(), -1.0)
        found.append(
            Pairs(
                information=_mean_of_rows(row, s, some),
                score=_mean_of_rows(row, c, every),
                impossible=1 - float(some.sum() / every.sum()),
            )
        )
    return found


def dependence_of(
    draws: list[Pairs], target: list[Pairs], *, tokens: int, level: float
) -> list[Dependence]:
    """The dependence at every distance, with intervals that hold at a level for all distances.

    Args:
        draws: Pairs of a model's draws, at every distance.
        target: Pairs of the target's draws.
        tokens: Number of tokens.
        level: Confidence of all intervals of one kind together (Bonferroni).
    """
    each = 1 - (1 - level) / max(1, len(draws))
    found = []
    for distance, ours, theirs in zip(distances(tokens), draws, target, strict=True):
        information = Figure(method="fewer than two draws have pairs that can occur")
        if ours.information is not None and theirs.information is not None:
            method = "mean pointwise mutual information under the target's laws, t interval"
            if ours.impossible:
                method += f"; of the {1 - ours.impossible:.1%} of the pairs that can occur"
            information = ours.information.beside(theirs.information, level=each, method=method)
        found.append(
            Dependence(
                distance=distance,
                information=information,
                kept=kept(ours.score, theirs.score, level=each),
                impossible=ours.impossible,
            )
        )
    return found


def kept(draws: Mean | None, target: Mean | None, *, level: float) -> Figure:
    """The share of the dependence that is kept, (1 + r) / 2 with r = c / C, of independent means.

    Fieller's interval holds the r with (c - r C)^2 <= t^2 (var c + r^2 var C), where t is the
    quantile of the t law.

    Source: Fieller, Some problems in interval estimation (JRSS B, 1954).
    """
    if draws is None or target is None:
        return Figure(method="fewer than two draws")
    c, C = draws.value, target.value
    square = t_quantile(level, min(draws.rows, target.rows) - 1) ** 2
    of_target, of_draws = C**2 - square * target.variance, c**2 - square * draws.variance
    if LEAST >= C or of_target <= 0:
        return Figure(method="the target's dependence at this distance is not clearly above 0")
    root = math.sqrt(max(0.0, (c * C) ** 2 - of_target * of_draws))
    low, high = ((c * C + sign * root) / of_target for sign in (-1, 1))
    return Figure(
        value=(1 + c / C) / 2,
        low=(1 + low) / 2,
        high=(1 + high) / 2,
        target=1.0,
        rows=draws.rows,
        method="share of the score of dependence between independent tokens and the target, "
        "Fieller's interval",
    )


def _mean_of_rows(row: Tensor, values: Tensor, counted: Tensor) -> Mean | None:
    """The mean of the values that are counted, with the index of the row of each pair of them.

    Its variance is that of a ratio of two sums over independent rows.

    Args:
        row: Index of the row, (m,).
        values: (m, 2); those that are not counted may be infinite.
        counted: Whether each value is counted, (m, 2) bool.
    """
    rows = int(row.max()) + 1
    sums = values.new_zeros(rows).index_add_(0, row, torch.where(counted, values, 0).sum(1))
    counts = values.new_zeros(rows).index_add_(0, row, counted.sum(1).to(values))
    some = counts > 0
    sums, counts, n = sums[some], counts[some], int(some.sum())
    if n < 2:
        return None
    mean = sums.sum() / counts.sum()
    influence = (sums - mean * counts) / counts.mean()
    return Mean(value=float(mean), variance=float(influence.var()) / n, rows=n)
