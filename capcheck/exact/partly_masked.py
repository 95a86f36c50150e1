"""Partly masked sequences with their probabilities: the exact law of a decoder, step by step.

A decoder of token ids that remembers nothing but the tokens that it has placed is a Markov chain on
partly masked sequences, of which there are (V + 1)^F for F tokens. Each step draws some tokens of
each sequence, or masks some again, and sequences that become equal are merged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.exact.merging import merged
from capcheck.targets.categorical.sequence_law import numbers, sequences

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

    @classmethod
    def beside(cls, x: Tensor, given: Sequence[int]) -> PartlyMasked:
        """The starts in which some tokens are given, side by side, each with probability 1.

        Args:
            x: Sequences (n, N) that hold the given tokens' values.
            given: Indices of the given tokens.
        """
        codes = torch.zeros(x.shape, dtype=torch.int64)
        codes[:, list(given)] = x[:, list(given)].cpu() + 1
        distinct = codes.unique(dim=0)
        return cls._of_codes(distinct, torch.zeros(len(distinct)).double())

    @property
    def open(self) -> Tensor:
        """Whether a sequence has a masked token, (n,) bool."""
        return ~self.known.all(1)

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
        return PartlyMasked._of_codes(*merged(torch.where(known, tokens + 1, 0), self.log_mass))

    @classmethod
    def _of_codes(cls, codes: Tensor, log_mass: Tensor) -> PartlyMasked:
        """The sequences with codes (n, N): 0 for a masked token, and 1 + v for the value v."""
        return cls(tokens=(codes - 1).clamp(min=0), known=codes > 0, log_mass=log_mass)

    def renewed(self, log_p: Tensor, *, keep: Tensor, reveal: float) -> PartlyMasked:
        """The sequences after a step that reveals masked tokens and masks known ones again.

        All tokens change independently of each other. A revealed token is drawn given the tokens
        that were known before the step, those included that it masks, whose values are lost.

        Args:
            log_p: Log-probabilities (nats) of the values of all tokens of the sequences that are
                `open`, in their order, (m, N, V).
            keep: Probability that a token stays known if it is, (N,).
            reveal: Probability that a masked token is revealed.
        """
        N, V = log_p.shape[1:]
        some, full = self._rows(self.open), self._rows(~self.open)
        chance = torch.tensor([reveal, 1 - reveal], dtype=torch.float64).log()
        stays = chance[1].expand(*log_p.shape[:2], 1)
        drawn, origin = some.valued(torch.cat([log_p + chance[0], stays], -1), ~some.known)
        # A token is masked (0), known from before (1 + v), or revealed (1 + V + v).
        codes = torch.where(some.known[origin], drawn.tokens + 1, drawn.tokens + 1 + V)
        codes[~some.known[origin] & (drawn.tokens == V)] = 0
        codes = torch.cat([codes, full.tokens + 1])
        log_mass = torch.full(((2 * V + 1) ** N,), -torch.inf).double()
        log_mass[numbers(codes, 2 * V + 1)] = torch.cat([drawn.log_mass, full.log_mass])
        for i in range(N):
            log_mass = _kept(log_mass.reshape((V + 1) ** i, 2 * V + 1, -1), keep[i])
        found = torch.cat(list(sequences(V + 1, N)))
        possible = log_mass.flatten() > -torch.inf
        return PartlyMasked._of_codes(found[possible], log_mass.flatten()[possible])

    def _rows(self, chosen: Tensor) -> PartlyMasked:
        """Those of the sequences where a mask (n,) is true."""
        return PartlyMasked(
            tokens=self.tokens[chosen], known=self.known[chosen], log_mass=self.log_mass[chosen]
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


def _kept(log_mass: Tensor, keep: Tensor) -> Tensor:
    """The log-masses after one token was masked again or kept, (.., V + 1, ..).

    Args:
        log_mass: (.., 2 V + 1, ..), with the token masked, known from before, or revealed.
        keep: Probability that a token which was known before stays so.
    """
    masked, before, revealed = log_mass.split([1, *[log_mass.shape[1] // 2] * 2], 1)
    lost = before.logsumexp(1, keepdim=True) + (1 - keep).log()
    return torch.cat([masked.logaddexp(lost), revealed.logaddexp(before + keep.log())], 1)
