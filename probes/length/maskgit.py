"""MaskGIT: masked tokens are drawn in parallel, round by round, and then never change.

Source: Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer", section 3.2.
Signature: token predictor, shown the known tokens, whichever they are.
Assumption: the tokens of one round are independent given the known ones.
Budgets: `length` cuts the schedule for N tokens inside its round; `steps` is ignored.
After round r of R, floor(N cos(pi r / 2R)) tokens are left masked, and every round commits at least
one; `tokens_per_round` commits a fixed number instead.
Orders: `random` (drawn up front), `fixed` (left to right), `confidence` (all masked tokens are
drawn, and those whose value has the largest log-probability plus temperature (1 - r/R) Gumbel noise
stay).
Known: in fixed order KL is the sum over rounds of the round's total correlation given the known
tokens; in random order the sampled law is the mixture over orders, whose KL is smaller than the
mean over orders; confidence order is biased even when the tokens are independent.
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

from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.laws import TokenLaw
from capcheck.networks.signatures import TokenPredictor, TokenPredictorSignature
from capcheck.procedures.orders import commit_schedule, random_ranks
from capcheck.procedures.probe import OPTIONS, Probe, Row, State, Suspect

ENUMERATED_CALLS = 512  # sets of known tokens up to which the mixture over orders is summed


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class MaskGIT(Probe[TokenPredictor]):
    """Parallel unmasking in rounds."""

    family: ClassVar[str] = "maskgit"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})

    rounds: Annotated[int, Field(ge=1, description="rounds R of the cosine schedule")] = 4
    tokens_per_round: Annotated[
        int | None, Field(ge=1, description="a fixed number per round, instead of the schedule")
    ] = None
    order: Annotated[
        Literal["random", "fixed", "confidence"], Field(description="which tokens a round commits")
    ] = "random"
    temperature: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="Gumbel noise on the confidence")
    ] = 0.0

    @property
    def signature(self) -> TokenPredictorSignature:
        """Known tokens -> the law of every token."""
        return TokenPredictorSignature()

    def schedule(self, tokens: int) -> list[int]:
        """Tokens placed after each round, starting with 0 and ending with all of them."""
        return commit_schedule(tokens, rounds=self.rounds, per_round=self.tokens_per_round)

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """One state per round."""
        state = start
        yield state
        N = spec.tokens
        drawn = self.order == "random"
        rank = random_ranks(start.n, N, rng) if drawn else torch.arange(N).expand(start.n, N)
        rank = rank.to(state.placed.device)
        schedule = self.schedule(N)
        for r, (before, after) in enumerate(itertools.pairwise(schedule), start=1):
            after = min(after, budget.length)
            if after <= before:
                return
            law = network(state.tokens, state.placed)
            draws = law.sample(rng)
            if self.order == "confidence":
                noise = self.temperature * (1 - r / (len(schedule) - 1))
                chosen = self._most_confident(law, draws, state.placed, after - before, noise, rng)
            else:
                chosen = (rank >= before) & (rank < after)
            state = state.write(draws, chosen)
            yield state

    def suspects(self) -> tuple[Suspect, ...]:
        """Tokens that a round draws independently, and an order that depends on what was drawn."""
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
        """Of the law that is really sampled where it can be summed; otherwise a bound."""
        if self.order == "confidence":
            return Unavailable(reason="which tokens a round commits depends on all that it drew")
        N = spec.tokens
        sizes = [m for m in self.schedule(N) if m < budget.length] + [budget.length]
        if self.order == "fixed":
            rank = torch.arange(N).expand(len(x), N)
            values = self._along_order(network, completion, sizes, x, rank.to(x.device))
            return LogDensity(values=values, method="chain rule over rounds")
        if sum(math.comb(N, m) for m in sizes) <= ENUMERATED_CALLS:
            values = self._over_orders(network, completion, sizes, x)
            return LogDensity(values=values, method="mixture over all orders of commitment")
        rank = random_ranks(len(x), N, rng)
        values = self._along_order(network, completion, sizes, x, rank.to(x.device))
        return LogDensity(
            values=values, bound=True, method="mean over orders, one drawn for each row"
        )

    def _most_confident(
        self,
        law: TokenLaw,
        draws: Tensor,
        placed: Tensor,
        count: int,
        noise: float,
        rng: Randomness,
    ) -> Tensor:
        confidence = law.log_prob(draws)
        if self.temperature > 0:
            gumbel = -(-rng.uniform(tuple(confidence.shape)).log()).log()
            confidence = confidence + noise * gumbel.to(confidence)
        best = torch.where(placed, -torch.inf, confidence).topk(count, dim=1).indices
        return torch.zeros_like(placed).scatter_(1, best, True)

    def _along_order(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        sizes: list[int],
        x: Tensor,
        rank: Tensor,
    ) -> Tensor:
        """Log q(x | order): every round's tokens given those of lower rank."""
        N = rank.shape[1]
        log_q = torch.zeros((), device=x.device)
        for before, after in itertools.pairwise([*sizes, N]):
            if before < after:
                predictor = completion if before == sizes[-1] else network
                of_round = (rank >= before) & (rank < after)
                log_p = predictor(x, rank < before).log_prob(x)
                log_q = log_q + torch.where(of_round, log_p, 0).sum(1)
        return log_q

    def _over_orders(
        self, network: TokenPredictor, completion: TokenPredictor, sizes: list[int], x: Tensor
    ) -> Tensor:
        """Log q(x), by a sum over the sets S of placed tokens, round by round.

        With F(S) the density of x_S summed over the ways to have placed S, a round that adds c
        tokens gives F(S') = sum_{S in S'} F(S) prod_{i in S'-S} p(x_i | x_S) / C(N - |S|, c).
        """
        n, N = x.shape[:2]
        everything = tuple(range(N))
        reached: dict[tuple[int, ...], Tensor] = {(): torch.zeros(n, device=x.device)}
        for before, after in itertools.pairwise([*sizes, N]):
            if before == after:
                continue
            completing = before == sizes[-1]
            ways = 1 if completing else math.comb(N - before, after - before)
            arrivals: dict[tuple[int, ...], list[Tensor]] = {}
            for S, log_F in reached.items():
                known = torch.zeros(n, N, dtype=torch.bool, device=x.device)
                known[:, list(S)] = True
                unknown = [i for i in everything if i not in S]
                law = (completion if completing else network)(x, known).select(unknown)
                log_p = dict(zip(unknown, law.log_prob(x[:, unknown]).unbind(1), strict=True))
                for added in itertools.combinations(unknown, after - before):
                    log_path = log_F + sum(log_p[i] for i in added) - math.log(ways)
                    arrivals.setdefault(tuple(sorted(S + added)), []).append(log_path)
            reached = {S: torch.stack(paths).logsumexp(0) for S, paths in arrivals.items()}
        return reached[everything]
