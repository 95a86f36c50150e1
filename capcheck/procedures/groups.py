"""A groupwise procedure draws groups of tokens one after the other, each group at once.

    q(x) = prod over groups G of [prod over i in G of p(x_i | shown to G)] . prod of p(x_i | placed)

The tokens of a group are drawn independently of each other given the tokens that the group is
shown; the last product completes the tokens that are in no group. A family of this kind only lists
its groups.

One token per group is the chain rule, which is exact. A larger group loses the dependence within
the group; a group that is shown only some of the placed tokens loses the dependence on the others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.networks.signatures import Signature, TokenPredictor, TokenPredictorSignature
from capcheck.procedures.probe import Probe, State

__all__ = ["Group", "Groupwise"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Tokens that are drawn at once, independently of each other.

    Attributes:
        tokens: Indices of the tokens.
        shown: (N,) bool mask of the tokens that the network may see when it draws this group; among
            these it sees the ones already placed, given tokens included. None shows all of them.
    """

    tokens: list[int]
    shown: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Groupwise(Probe[TokenPredictor]):
    """A procedure that draws groups of tokens one after the other, the same ones in every row."""

    reads: ClassVar[frozenset[Axis]] = frozenset({"length"})

    @abstractmethod
    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        """Lists the groups in their order; they are disjoint and hold no given token.

        Args:
            spec: Specification of the sequences.
            length: Largest number of free tokens that the groups may hold together.
        """

    @property
    def signature(self) -> Signature[TokenPredictor]:
        """The network maps known tokens to the law of every token."""
        return TokenPredictorSignature()

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """One for each group."""
        return len(self.groups(spec, budget.length))

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Draws x_i ~ p(x_i | shown) for every i of a group; each group is one state."""
        state = start
        yield state
        for group in self.groups(spec, budget.length):
            tokens = state.tokens.clone()
            law = network(state.tokens, _shown(group, state.placed)).select(group.tokens)
            tokens[:, group.tokens] = law.sample(rng).to(tokens)
            state = state.write(tokens, _holding(state.placed, group.tokens))
            yield state

    def log_density(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity:
        """The sum of the log-probabilities of all groups and of the completed tokens."""
        placed = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        placed[:, list(spec.given)] = True
        log_q = torch.zeros(len(x), dtype=spec.mean.dtype, device=x.device)
        for group in self.groups(spec, budget.length):
            law = network(x, _shown(group, placed)).select(group.tokens)
            log_q = log_q + law.log_prob(x[:, group.tokens]).sum(1)
            placed = placed | _holding(placed, group.tokens)
        rest = (~placed[0]).nonzero()[:, 0].tolist()
        if rest:
            law = completion(x, placed).select(rest)
            log_q = log_q + law.log_prob(x[:, rest]).sum(1)
        return LogDensity(values=log_q, method="chain rule over groups, completed by marginals")


def _shown(group: Group, placed: Tensor) -> Tensor:
    return placed if group.shown is None else placed & group.shown


def _holding(like: Tensor, tokens: list[int]) -> Tensor:
    """(n, N) bool mask, true for the tokens with these indices."""
    where = torch.zeros_like(like)
    where[:, tokens] = True
    return where
