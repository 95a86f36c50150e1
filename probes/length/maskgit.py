"""MaskGIT: draws masked tokens in parallel, round by round; a token that is placed never changes.

Source: Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer", section 3.2,
https://arxiv.org/abs/2202.04200
Signature: token predictor. The network is shown the known tokens, wherever they stand.
Assumption: the tokens of one round are independent given the known tokens.
Budgets: `length` is the number of tokens that are placed: the schedule of rounds stops there, if
need be inside a round. `steps` is ignored.
Schedule: after round r of R, floor(F cos(pi r / 2R)) of the F tokens that are not given are still
masked, and every round places at least one token. With `tokens_per_round` every round places that
fixed number instead.
Orders: `random` draws an order for each sequence at the start, and `fixed` goes from left to right.
With `confidence` every round draws all masked tokens and keeps those whose value has the largest
log-probability plus temperature (1 - r/R) times Gumbel noise; a random draw decides between equal
values, so that rounding errors do not.
Given tokens: known in every round.
KL: exact in fixed order and in one round, by the chain rule over rounds, and in random order as the
mixture over orders where at most 512 sets of known tokens enter; otherwise bounded from above by
the mean over orders, and from below by the draws. In confidence order bounded from below only.
Known: in fixed order KL is the sum over rounds of the round's total correlation given the known
tokens. In random order the sampled law is the mixture over all orders, whose KL is smaller than the
mean of KL over orders. With one token per round both are exact. Confidence order is biased even for
independent tokens: for N equal bits that are 1 with probability p < 1/2, one token per round leaves
sum_{m=1..N} p^m ones on average in place of N p.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.hidden_draws import DRAWS, over_hidden_draws
from capcheck.networks.signatures import TokenPredictor, TokenPredictorSignature
from capcheck.procedures.orders import (
    commit_schedule,
    random_ranks,
    ranks_among_all,
    rounds_within,
)
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row
from capcheck.procedures.sums_over_sets import (
    TokenSet,
    conditionals_asked,
    log_density_over_sets,
)

__all__ = ["MaskGIT"]

# Largest number of sets of known tokens, one network call each, for which the mixture over orders
# is summed exactly.
ENUMERATED_CALLS = 512
LAW = 0.4  # time of the law of a token and its density, in those of a denoiser's derivative
TIE = 1e-9  # largest difference, in nats, at which two confidences count as equal
TIE_DIGITS = 16  # the same in units in the last place of 1, for coarser floating-point types


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class MaskGIT(Probe[TokenPredictor]):
    """Draws masked tokens in parallel rounds; placed tokens never change."""

    family: ClassVar[str] = "maskgit"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"length"})
    two_sided: ClassVar[bool] = True

    rounds: Annotated[int, Field(ge=1, description="number of rounds R of the cosine schedule")] = 4
    tokens_per_round: Annotated[
        int | None, Field(ge=1, description="fixed number per round in place of the schedule")
    ] = None
    order: Annotated[
        Literal["random", "fixed", "confidence"],
        Field(description="order of placement"),
    ] = "random"
    temperature: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False, description="scale of the confidence's noise"),
    ] = 0.0

    @property
    def signature(self) -> TokenPredictorSignature:
        """The token predictor: known tokens -> the law of every token."""
        return TokenPredictorSignature()

    def schedule(self, tokens: int) -> list[int]:
        """The number of tokens placed after each round, from 0 to all of them."""
        return commit_schedule(tokens, rounds=self.rounds, per_round=self.tokens_per_round)

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Yield the start, then one state per round."""
        state = start
        yield state
        rank, ties = self._ranks(start.n, spec, rng), rng.stream("ties")
        schedule = self.schedule(len(spec.free))
        for r, (before, after) in enumerate(rounds_within(schedule, budget.length), start=1):
            law = network(state.tokens, state.placed)
            if self.order == "confidence":
                draws = law.sample(rng)
                confidence = law.log_prob(draws)
                if self.temperature > 0:
                    gumbel = -(-rng.uniform(tuple(confidence.shape)).log()).log()
                    noise = self.temperature * (1 - r / (len(schedule) - 1))
                    confidence = confidence + noise * gumbel.to(confidence)
                chosen = _largest(confidence, ~state.placed, after - before, ties)
            else:
                chosen = (rank >= before) & (rank < after)
                draws = law.sample_where(rng, chosen)
            state = state.write(draws, chosen)
            yield state

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """One for each round."""
        return len(self._sizes(len(spec.free), budget)) - 1

    @property
    def own_orders(self) -> bool:
        """In every order but from left to right."""
        return self.order != "fixed"

    def suspects(self) -> tuple[Suspect, ...]:
        """Independent draws within a round, and an order that depends on the drawn values."""
        one_by_one = dataclasses.replace(self, tokens_per_round=1, order="random")
        by_order = Suspect(
            failure="wrong factorisation",
            cure="one token per round in random order",
            probe=one_by_one,
        )
        return () if self == one_by_one else (by_order,)

    def log_density(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """The log-density of the sampled law where it can be summed, otherwise a lower bound."""
        if self.order == "confidence":
            return Unavailable(reason="which tokens a round commits depends on all that it drew")
        F = len(spec.free)
        sizes = self._sizes(F, budget)
        if self._sums(F, sizes):
            values = self._over_orders(network, completion, spec, sizes, x)
            return LogDensity(values=values, method="mixture over all orders of commitment")

        def along_order(x: Tensor, rng: Randomness) -> Tensor:
            rank = self._ranks(len(x), spec, rng)
            return self._along_order(network, completion, [*sizes, F], x, rank)

        if self.order == "fixed" or len({*sizes, F}) == 2:  # in one round no order matters
            return LogDensity(values=along_order(x, rng), method="chain rule over rounds")
        return over_hidden_draws(along_order, x, rng, "orders")

    def derivatives(self, spec: SequenceSpec, budget: Budget) -> float:
        """A share for every conditional law of a token that is summed over all orders."""
        F = len(spec.free)
        sizes = self._sizes(F, budget)
        return LAW * conditionals_asked(F, sizes) if self._sums(F, sizes) else 0.0

    def density_calls(self, spec: SequenceSpec, budget: Budget) -> float:
        """One for each set that is summed, or each round of each order that is drawn."""
        sizes = self._sizes(len(spec.free), budget)
        if self.order == "confidence":
            return 0.0
        if self._sums(len(spec.free), sizes):
            return sum(math.comb(len(spec.free), m) for m in sizes)
        return len(sizes) * (DRAWS if self.order == "random" else 1)

    def cheaper_density(self) -> MaskGIT | None:
        """The same procedure with bounds by a few orders of each row in place of the sum."""
        if self.order != "random":
            return None
        return _BySomeOrders(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def _sizes(self, tokens: int, budget: Budget) -> list[int]:
        """The number of tokens placed before each round, from 0, and after the last one."""
        return [m for m in self.schedule(tokens) if m < budget.length] + [budget.length]

    def _sums(self, tokens: int, sizes: list[int]) -> bool:
        """Whether the density is summed over all orders."""
        sets = sum(math.comb(tokens, m) for m in sizes)
        return self.order == "random" and sets <= ENUMERATED_CALLS

    def _ranks(self, n: int, spec: SequenceSpec, rng: Randomness) -> Tensor:
        """The rank of each token in a random or fixed order, (n, N), -1 for given tokens."""
        F = len(spec.free)
        drawn = self.order == "random"
        ranks = random_ranks(n, F, rng) if drawn else torch.arange(F).expand(n, F)
        return ranks_among_all(ranks, spec)

    def _along_order(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        sizes: list[int],
        x: Tensor,
        rank: Tensor,
    ) -> Tensor:
        """The log-density log q(x | order), (n,).

        Each round's tokens are conditioned on the tokens of lower rank, and completed tokens on the
        placed ones.
        """
        log_q = torch.zeros((), device=x.device)
        for before, after in itertools.pairwise(sizes):
            if before < after:
                predictor = completion if before == sizes[-2] else network
                of_round = (rank >= before) & (rank < after)
                law = predictor(x, rank < before)
                log_q = log_q + law.log_prob_where(x, of_round).sum(1)
        return log_q

    def _over_orders(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        sizes: list[int],
        x: Tensor,
    ) -> Tensor:
        """The log-density log q(x), (n,), by a sum over the sets of placed tokens."""

        def log_p(sets: list[TokenSet], completing: bool) -> list[dict[int, Tensor]]:
            return [of_set(S, completion if completing else network) for S in sets]

        def of_set(S: TokenSet, predictor: TokenPredictor) -> dict[int, Tensor]:
            known = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
            known[:, [*spec.given, *S]] = True
            unknown = [i for i in spec.free if i not in S]
            found = predictor(x, known).select(unknown).log_prob(x[:, unknown])
            return dict(zip(unknown, found.unbind(1), strict=True))

        return log_density_over_sets(spec.free, sizes, log_p).expand(len(x))


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class _BySomeOrders(MaskGIT):
    """The same procedure, whose log-density is not summed over all orders."""

    def cheaper_density(self) -> None:
        """There is none."""

    def _sums(self, tokens: int, sizes: list[int]) -> bool:
        return False


def _largest(values: Tensor, among: Tensor, count: int, ties: Randomness) -> Tensor:
    """Choose the `count` largest values of each row, with equal values at random: (n, N) bool.

    Args:
        values: Confidences in nats, (n, N).
        among: Entries that may be chosen, (n, N) bool.
        count: Number of entries to choose in each row.
        ties: Random stream that is used for this only; every choice takes one draw from it.
    """
    tolerance = max(TIE, TIE_DIGITS * torch.finfo(values.dtype).eps)
    chosen = torch.zeros_like(among)
    for left in range(count, 0, -1):
        open_ = among & ~chosen
        best = torch.where(open_, values, -torch.inf).amax(1, keepdim=True)
        equal = open_ & ~(values < best - tolerance)
        # The order of equal entries is not drawn where all of them will be chosen.
        first = equal & (equal.cumsum(1) == 1)
        weights = torch.where(equal.sum(1, keepdim=True) <= left, first, equal)
        choice = ties.categorical(weights.double(), (len(values), 1))
        chosen = chosen.scatter(1, choice, True)
    return chosen
