"""The information curve of a target: how much the known tokens tell of one that is not known.

    h(m) = mean of H(X_i | X_S) over sets S of m tokens and tokens i outside S, in nats

It falls from the mean entropy of a token, h(0), and its sum over m is the entropy of a sequence.
Where a decoder places tokens in uniformly random order, with m_0 = 0 < m_1 < .. < m_K = N tokens
known after its steps, and draws the tokens of a step independently from their exact conditionals,

    mean over orders of KL(p* || q_order) = sum_j (m_{j+1} - m_j) h(m_j) - H(X),

the area between a staircase and the curve. The law that is sampled is the mixture over orders,
whose KL is at most that.

The curve is exact for chains of order 1 and for laws that list few sequences. Otherwise it is the
mean of -log p(x_i | x_S) over draws x and random orders: each row has one draw and one order, whose
first m tokens are known, and the average over all other tokens.

Source: Chen, Cong & Li 2025, https://arxiv.org/abs/2511.04647; Lavenant & Zanella 2025,
    https://arxiv.org/abs/2510.25544.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.core.tiles import slices
from capcheck.core.unavailable import Unavailable
from capcheck.targets.categorical.sequence_law import batches, target_law
from capcheck.targets.categorical.subset_entropies import subset_entropies
from capcheck.targets.target import CategoricalTarget, Target

__all__ = ["CALL", "LISTED", "InformationCurve", "exact_curve", "measured_curve"]

LISTED = 1 << 26  # most sequences times sets of tokens that are sorted: a few seconds
CALL = 256  # sequences that are sorted in the time of the call
HELD = 1 << 24  # most probabilities of the tokens of all rows at once: 128 MiB


@dataclass(frozen=True, kw_only=True, eq=False)
class InformationCurve:
    """The curve h(m) at some numbers m of known tokens, from 0 to N - 1.

    Attributes:
        tokens: Number N of tokens.
        sizes: Numbers m of known tokens, rising from 0 to N - 1.
        values: h(m), (M,) float64 in nats.
        entropy: Entropy H(X) of a sequence, in nats.
        rows: For a curve that is measured, the values of each of its rows, (n, M); else None.
        row_entropies: The entropy by each row, (n,); else None.
        method: How the curve was found, in a few words.
    """

    tokens: int
    sizes: tuple[int, ...]
    values: Tensor
    entropy: float
    rows: Tensor | None = None
    row_entropies: Tensor | None = None
    method: str

    @property
    def is_exact(self) -> bool:
        """Whether nothing was drawn."""
        return self.rows is None

    @property
    def total_correlation(self) -> float:
        """sum_i H(X_i) - H(X), nats: what one step for all tokens loses."""
        return self.tokens * float(self.values[0]) - self.entropy

    @property
    def dual_total_correlation(self) -> float:
        """H(X) - sum_i H(X_i | all others), nats."""
        return self.entropy - self.tokens * float(self.values[-1])

    def weights(self, schedule: Sequence[int]) -> Tensor:
        """The number of tokens that are drawn at each of the sizes, (M,).

        Args:
            schedule: Numbers of tokens known before each step, from 0, and N after the last one.

        Raises:
            InputError: A step begins where the curve was not measured.
        """
        drawn = torch.zeros(len(self.sizes), dtype=torch.float64)
        place = {m: k for k, m in enumerate(self.sizes)}
        for before, after in itertools.pairwise(schedule):
            if before not in place:
                raise InputError(f"schedule must begin steps at measured sizes, got {before}.")
            drawn[place[before]] += after - before
        return drawn

    def cost(self, schedule: Sequence[int]) -> float:
        """Mean over orders of KL of a schedule, in nats per sequence.

        Args:
            schedule: As for `weights`.
        """
        return float(self.weights(schedule) @ self.values) - self.entropy

    def costs_by_row(self, schedule: Sequence[int]) -> Tensor | None:
        """The values (n,) whose mean is `cost`, or None if the curve is exact."""
        if self.rows is None or self.row_entropies is None:
            return None
        return self.rows @ self.weights(schedule) - self.row_entropies

    @property
    def dual_by_row(self) -> Tensor | None:
        """The values (n,) whose mean is `dual_total_correlation`, or None if the curve is exact."""
        if self.rows is None or self.row_entropies is None:
            return None
        return self.row_entropies - self.tokens * self.rows[:, -1]

    def of_rows(self, rows: slice) -> InformationCurve:
        """The curve that some of the rows tell; an exact one is returned as it is."""
        if self.rows is None or self.row_entropies is None:
            return self
        return _of_rows(self.sizes, self.rows[rows], self.row_entropies[rows], self.tokens)


def exact_curve(target: Target) -> InformationCurve | None:
    """The curve of a chain of order 1 or of a law that lists few sequences, else None."""
    if not isinstance(target, CategoricalTarget):
        return None
    N = target.spec.tokens
    values, method = target.mean_conditional_entropies(), "exact, by the gaps between known tokens"
    if values is None:
        listed = _listed(target)
        if listed is None:
            return None
        x, log_p = (each.cpu().numpy() for each in listed)
        values = torch.from_numpy(subset_entropies(x, torch.from_numpy(log_p).exp().numpy()))
        method = f"exact, by the entropies of all {2**N} sets of tokens"
    values = values.double().cpu()
    return InformationCurve(
        tokens=N,
        sizes=tuple(range(N)),
        values=values,
        entropy=float(values.sum()),
        method=method,
    )


def measured_curve(
    target: Target,
    *,
    sizes: Sequence[int] | None = None,
    rows: int,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> InformationCurve:
    """The curve of any target, as a mean over its draws and random orders.

    Args:
        target: The target.
        sizes: Numbers of known tokens, 0 to N - 1, to which both ends are added; all if None.
        rows: Number of draws, each with one order; at least 2.
        seed: Seed of the draws.
        progress: Function that is told the share of the work that is done.
    """
    N = target.spec.tokens
    nodes = sorted({0, N - 1, *(range(N) if sizes is None else sizes)})
    rng = CounterRandomness(seed, name="information curve", device=target.device)
    x = target.sample(rows, rng)
    rank = rng.stream("orders").permutation(rows, N).argsort(1)
    # The entropy is the sum of the curve over all m. Between two nodes one m of each row, at
    # random, stands for all: differences of the same rows and orders vary little.
    gap = torch.tensor([*nodes[1:], N]) - torch.tensor(nodes)  # (M,)
    wide = (gap > 1).nonzero()[:, 0]
    u = rng.stream("sizes").uniform((rows, len(nodes)))[:, wide].cpu()
    known = torch.tensor(nodes).expand(rows, -1)  # (n, M)
    between = known[:, wide] + (u * gap[wide]).floor().long()
    known = torch.cat([known, between], 1)  # (n, M + W)
    values = _mean_surprises(target, x, rank, known.to(rank), progress)
    nodes_values, others = values[:, : len(nodes)], values[:, len(nodes) :]
    at_gaps = nodes_values.clone()
    at_gaps[:, wide] = others
    return _of_rows(tuple(nodes), nodes_values, at_gaps @ gap.double(), N)


def _mean_surprises(
    target: Target,
    x: Tensor,
    rank: Tensor,
    known: Tensor,
    progress: Callable[[float], None] | None,
) -> Tensor:
    """The mean of -log p(x_i | x_S) over tokens outside the first ones of an order, in nats.

    Args:
        target: The target.
        x: Draws of the target, (n, N, d) or (n, N).
        rank: Ranks of the tokens in the order of each row, (n, N).
        known: Numbers of known tokens of each row, (n, C).
        progress: As for `measured_curve`.

    Returns:
        (n, C) float64.
    """
    n, C = known.shape
    N, columns = x.shape[1], torch.arange(C)
    values = torch.empty(n, C, dtype=torch.float64)
    at_once = min(max(1, HELD // (N * target.spec.dim)), target.rows_at_once or n)
    for part in slices(n, at_once):
        of_part = rank[part]
        for chosen in columns.split(max(1, at_once // len(of_part))):
            m = known[part][:, chosen].T.reshape(-1, 1)  # (C' n',)
            unknown = of_part.repeat(len(chosen), 1) >= m
            again = x[part].repeat(len(chosen), *[1] * (x.dim() - 1))
            law = target.marginals(again, unknown.to(target.dtype))
            mean = -law.log_prob_where(again, unknown).double().sum(1) / (N - m[:, 0])
            values[part, chosen[0] : chosen[-1] + 1] = mean.reshape(len(chosen), -1).T.cpu()
            if progress is not None:
                progress((part.start * C + len(of_part) * (int(chosen[-1]) + 1)) / (n * C))
    return values


def _of_rows(
    sizes: tuple[int, ...], rows: Tensor, entropies: Tensor, tokens: int
) -> InformationCurve:
    return InformationCurve(
        tokens=tokens,
        sizes=sizes,
        values=rows.mean(0),
        entropy=float(entropies.mean()),
        rows=rows,
        row_entropies=entropies,
        method=f"average over {len(rows)} draws with a random order each",
    )


def _listed(target: CategoricalTarget) -> tuple[Tensor, Tensor] | None:
    """The sequences of positive probability and their log-probabilities, if there are few."""
    spec = target.spec
    N, listed = spec.tokens, target.support()
    if 2**N > LISTED:
        return None
    if listed is not None:
        return listed if (len(listed[0]) + CALL) * 2**N <= LISTED else None
    if (spec.dim**N + CALL) * 2**N > LISTED:
        return None
    law = target_law(target)
    if isinstance(law, Unavailable):
        return None
    x = torch.cat(list(batches(spec)))
    possible = law.log_probabilities > -torch.inf
    return x[possible], law.log_probabilities[possible]
