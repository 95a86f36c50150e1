"""Partly masked sequences with their probabilities: the exact law of a decoder, step by step.

A decoder of token ids that remembers nothing but the tokens that it has placed is a Markov chain on
partly masked sequences, of which there are (V + 1)^F for F tokens. Each step draws some tokens of
each sequence, and sequences that become equal are merged.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.targets.categorical.sequence_law import numbers

__all__ = ["LARGEST_EXPONENT", "ORDERS", "STATES", "PartlyMasked", "states_of"]

STATES = 1 << 14  # most partly masked sequences of an exact law, (V + 1)^N: about a second
LARGEST_EXPONENT = 600.0  # of numbers of sequences that are told apart from infinity
ORDERS = 1 << 8  # orders of tokens that are followed in the time of a sequence's own steps


def states_of(spec: SequenceSpec, *, ordered: bool) -> float:
    """The number of partly masked sequences, (V + 1)^N, and more where orders are followed.

    Args:
        spec: Spec of the sequences.
        ordered: Whether all orders of the tokens are followed, and not sets of them only.
    """
    N = spec.tokens
    if N * math.log(spec.dim + 1) > LARGEST_EXPONENT:
        return math.inf
    states = float(spec.dim + 1) ** N
    return states * max(1.0, math.factorial(min(N, 20)) / ORDERS) if ordered else states


@dataclass(frozen=True, kw_only=True, eq=False)
class PartlyMasked:
    """Partly masked sequences.

    Attributes:
        tokens: (n, N) integers; masked tokens are 0.
        known: Tokens that are placed, (n, N) bool.
        log_mass: Log-probability of each sequence, (n,) float64.
    """

    tokens: Tensor
    known: Tensor
    log_mass: Tensor

    @classmethod
    def all_masked(cls, tokens: int) -> PartlyMasked:
        """The start: one sequence without a placed token."""
        nothing = torch.zeros(1, tokens, dtype=torch.int64)
        return cls(tokens=nothing, known=nothing.bool(), log_mass=torch.zeros(1).double())

    def valued(self, log_p: Tensor, where: Tensor) -> tuple[PartlyMasked, Tensor]:
        """One sequence for every combination of values of some tokens, which stay masked.

        Args:
            log_p: Log-probabilities of the values, (n, N, V).
            where: The tokens, (n, N) bool.

        Returns:
            The sequences, and the index of the sequence that each came from.
        """
        origin = torch.arange(len(self.tokens))
        tokens, log_mass = self.tokens, self.log_mass
        for i in range(tokens.shape[1]):
            laws = torch.full((len(origin), log_p.shape[-1]), -torch.inf).double()
            laws[:, 0] = 0.0  # of a token that is not drawn
            drawn = where[origin, i]
            laws[drawn] = log_p[origin[drawn], i].double().cpu()
            row, value = (laws > -torch.inf).nonzero(as_tuple=True)
            log_mass = log_mass[row] + laws[row, value]
            tokens = tokens[row].clone()
            changed = drawn[row]
            tokens[changed, i] = value[changed]
            origin = origin[row]
        found = PartlyMasked(tokens=tokens, known=self.known[origin], log_mass=log_mass)
        return found, origin

    def placed(self, chosen: Tensor) -> PartlyMasked:
        """The sequences with the chosen tokens placed (n, N), equal ones merged."""
        known = self.known | chosen
        tokens = torch.where(known, self.tokens, 0)
        both = torch.where(known, tokens + 1, 0)
        distinct, place = both.unique(dim=0, return_inverse=True)
        largest = torch.full((len(distinct),), -torch.inf).double()
        largest = largest.scatter_reduce(0, place, self.log_mass, "amax")
        sums = torch.zeros(len(distinct)).double()
        sums = sums.index_add(0, place, (self.log_mass - largest[place]).exp())
        return PartlyMasked(
            tokens=(distinct - 1).clamp(min=0), known=distinct > 0, log_mass=sums.log() + largest
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (nats) of sequences x (n, N) whose tokens are all placed, (n,)."""
        V = 1 + int(max(self.tokens.max(), x.max()))
        found = torch.full((V ** x.shape[1],), -torch.inf).double()
        found[numbers(self.tokens, V)] = self.log_mass
        return found.to(x.device)[numbers(x, V)]

    def in_every_set(
        self, candidates: Tensor, sizes: Tensor
    ) -> tuple[PartlyMasked, Tensor, Tensor]:
        """One sequence for each set of so many of its candidates, all equally likely.

        Args:
            candidates: Tokens that may be in a set, (n, N) bool.
            sizes: Number of tokens of a set, (n,).

        Returns:
            The sequences, the index of the sequence that each came from, and the sets, (n', N).
        """
        origin, sets = [], []
        for row, (free, size) in enumerate(zip(candidates, sizes.tolist(), strict=True)):
            places = free.nonzero()[:, 0].tolist()
            for some in itertools.combinations(places, min(size, len(places))):
                chosen = torch.zeros(len(free), dtype=torch.bool)
                chosen[list(some)] = True
                origin.append(row)
                sets.append(chosen)
        return *self._repeated(torch.tensor(origin)), torch.stack(sets)

    def _repeated(self, index: Tensor) -> tuple[PartlyMasked, Tensor]:
        """The sequences with these indices, which share the mass of each, and the indices."""
        times = index.bincount(minlength=len(self.tokens))[index]
        found = PartlyMasked(
            tokens=self.tokens[index],
            known=self.known[index],
            log_mass=self.log_mass[index] - times.double().log(),
        )
        return found, index

    def in_every_order(self, candidates: Tensor) -> tuple[PartlyMasked, Tensor, Tensor]:
        """One sequence for each order of its candidates, all equally likely.

        Args:
            candidates: Tokens that are ordered, (n, N) bool.

        Returns:
            The sequences, the index of the sequence that each came from, and the rank of each
            token in the order, from 0, (n', N); N for tokens that are not ordered.
        """
        N = candidates.shape[1]
        origin, ranks = [], []
        for row, free in enumerate(candidates):
            for order in itertools.permutations(free.nonzero()[:, 0].tolist()):
                rank = torch.full((N,), N)
                rank[list(order)] = torch.arange(len(order))
                origin.append(row)
                ranks.append(rank)
        return *self._repeated(torch.tensor(origin)), torch.stack(ranks)
