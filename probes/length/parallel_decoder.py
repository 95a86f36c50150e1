"""Parallel decoder: places several masked tokens per step, which a rule picks.

Source: the decoders of masked diffusion language models; the source of each rule stands in
`capcheck.procedures.unmasking`. Blocks: Nie et al. 2025, "Large Language Diffusion Models",
section 2.4, https://arxiv.org/abs/2502.09992
Signature: token predictor. The network is shown the known tokens, wherever they stand.
Assumption: the tokens of one step are independent given the known tokens, and the order in which
tokens are placed tells nothing of their values.
Budgets: `length` is the number of tokens that are placed: the procedure stops there, if need be
inside a step. `steps` is the number of steps for a block of tokens, or for all tokens if there are
no blocks; with a threshold, a factor or an entropy bound it is the most that a block takes, and
with `tokens_per_step` it is ignored. Tokens that are not placed by then are completed in one more
call.
Procedure: every step ranks the masked tokens of the block (`order`), takes the first of them (by
the schedule, `tokens_per_step`, `threshold`, `factor` or `entropy_bound`), and draws their values
(`temperature`, `top_p`, `greedy`). Known tokens keep their values. With `block` the tokens are
decoded in blocks of so many, from the left, each to its end. Of equal scores the left token comes
first.
Given tokens: known in every step; blocks consist of the other tokens.
KL: exact where the order follows from the known tokens (fixed, top_probability, margin, entropy),
as the steps that lead to a sequence are then known, and where one step places all tokens. In random
order and by sampled confidence exact for few tokens, by the probabilities of all partly masked
sequences. Otherwise random order is bounded from above by the mean over orders, and from below by
the draws, and sampled confidence from below only.
Known: in an order that follows from the known tokens, one token per step is exact, by the chain
rule. By sampled confidence it is not, since likely values are placed first. A greedy decoder
returns one sequence, or one for each order, so that KL is infinite on most targets; so is it where
`top_p` leaves out a value that occurs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.hidden_draws import DRAWS, over_hidden_draws
from capcheck.exact.partly_masked import STATES, states_of
from capcheck.networks.signatures import TokenPredictor, TokenPredictorSignature
from capcheck.procedures.orders import (
    commit_schedule,
    random_ranks,
    ranks_among_all,
    uniform_schedule,
)
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row
from capcheck.procedures.unmasking import Drawing, Order, Picking, Step
from capcheck.procedures.unmasking_law import law_by_steps

__all__ = ["ParallelDecoder"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class ParallelDecoder(Probe[TokenPredictor]):
    """Places several masked tokens per step, which a rule picks."""

    family: ClassVar[str] = "parallel_decoder"
    row: ClassVar[Row] = "length"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"length", "steps"})
    two_sided: ClassVar[bool] = True

    order: Annotated[Order, Field(description="order in which masked tokens are placed")] = (
        "top_probability"
    )
    schedule: Annotated[
        Literal["uniform", "cosine"], Field(description="division of the tokens among the steps")
    ] = "uniform"
    tokens_per_step: Annotated[
        int | None, Field(ge=1, description="fixed number per step in place of the schedule")
    ] = None
    threshold: Annotated[
        float | None,
        Field(gt=0, le=1, description="place all tokens whose best value is so likely"),
    ] = None
    factor: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="bound of the factor rule")
    ] = None
    entropy_bound: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="bound on the entropies placed at once, nats"),
    ] = None
    block: Annotated[
        int | None,
        Field(ge=1, description="number of tokens that are decoded before the next ones"),
    ] = None
    temperature: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="temperature of the draws")
    ] = 1.0
    top_p: Annotated[
        float, Field(gt=0, le=1, description="mass of the most likely values that are drawn from")
    ] = 1.0
    greedy: Annotated[bool, Field(description="whether the most likely value is taken")] = False

    @model_validator(mode="after")
    def _one_rule(self) -> ParallelDecoder:
        rules = (self.tokens_per_step, self.threshold, self.factor, self.entropy_bound)
        if sum(rule is not None for rule in rules) > 1:
            raise ValueError(
                "at most one of tokens_per_step, threshold, factor and entropy_bound can be set"
            )
        return self

    @property
    def signature(self) -> TokenPredictorSignature:
        """The token predictor: known tokens -> the law of every token."""
        return TokenPredictorSignature()

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Yield the start, then one state per step that places a token."""
        state = start
        yield state
        ranks = self._ranks(start.n, spec, rng)
        for step in self._plan(spec, budget):
            free = step.free(state.placed, budget.length + len(spec.given))
            if not bool(free.tokens.any()):
                continue
            law, draw = network(state.tokens, state.placed), rng.stream(step.name)
            if self.order == "sampled_confidence":
                draws = self._drawing.sample_where(law, draw, free.tokens)
                own = law.log_prob_where(draws, free.tokens).exp()
                chosen = self._picking.chosen(free, step.count, law, own)
            else:
                order = self._order(ranks, draw.stream("order"))
                chosen = self._picking.chosen(free, step.count, law, order)
                draws = self._drawing.sample_where(law, draw, chosen)
            state = state.write(draws, chosen)
            yield state

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """One for each step of each block, at most."""
        return len(list(self._plan(spec, budget)))

    def suspects(self) -> tuple[Suspect, ...]:
        """Independent draws within a step and the order, and draws from another law."""
        plain = dataclasses.replace(self, temperature=1.0, top_p=1.0, greedy=False)
        one_by_one = dataclasses.replace(
            self,
            order="random",
            tokens_per_step=1,
            threshold=None,
            factor=None,
            entropy_bound=None,
        )
        found = []
        if self != one_by_one:
            found.append(
                Suspect(
                    failure="wrong factorisation",
                    cure="one token per step in random order",
                    probe=one_by_one,
                )
            )
        if self != plain:
            found.append(
                Suspect(failure="limited emission", cure="draws from the law itself", probe=plain)
            )
        return tuple(found)

    def log_density(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """The log-density of the sampled law where it is known, otherwise a lower bound."""

        def along_order(x: Tensor, rng: Randomness) -> Tensor:
            return self._along(network, completion, spec, budget, x, rng)

        if self.order not in ("random", "sampled_confidence"):
            method = "chain rule over steps, which the values decide"
            return LogDensity(values=along_order(x, rng), method=method)
        F, counts = len(spec.free), [step.count for step in self._plan(spec, budget)]
        if not counts or (counts == [F] and budget.length >= F):
            method = "independent tokens of one step"  # in which no order matters
            return LogDensity(values=along_order(x, rng), method=method)
        if not spec.given and states_of(spec, ordered=self._picking.by_laws) <= STATES:
            law = law_by_steps(
                self._plan(spec, budget),
                self._picking,
                self._drawing,
                network,
                completion,
                spec,
                most=budget.length,
            )
            values = law.log_prob(x)
            return LogDensity(values=values, method="probabilities of all partly masked sequences")
        if self.order == "sampled_confidence":
            return Unavailable(reason="which tokens a step places depends on all that it drew")
        return over_hidden_draws(along_order, x, rng, "orders")

    def density_calls(self, spec: SequenceSpec, budget: Budget) -> float:
        """One for each step of each order that is drawn."""
        if self.order == "sampled_confidence":
            return 0.0
        return self.iterations(spec, budget) * (DRAWS if self.order == "random" else 1)

    def _plan(self, spec: SequenceSpec, budget: Budget) -> Iterator[Step]:
        """The steps of all blocks up to the length budget."""
        F, by_laws = len(spec.free), self._picking.by_laws
        # Where the laws decide, a block may end before all of its tokens are placed.
        most = F if by_laws and budget.length > 0 else min(budget.length, F)
        for first in range(0, most, self.block or F):
            tokens = spec.free[first : first + (self.block or F)]
            counts: list[int | None] = [None] * budget.steps
            if not by_laws:
                sizes = self._sizes(len(tokens), min(budget.steps, len(tokens)))
                counts = [b - a for a, b in itertools.pairwise(sizes) if first + a < most]
            for j, count in enumerate(counts):
                yield Step(tokens=tokens, count=count, name=f"block {first}, step {j}")

    def _sizes(self, tokens: int, steps: int) -> list[int]:
        """The number of tokens placed before each step of a block, and after the last one."""
        if self.tokens_per_step is not None:
            return commit_schedule(tokens, rounds=1, per_round=self.tokens_per_step)
        if self.schedule == "cosine":
            return commit_schedule(tokens, rounds=steps)
        return uniform_schedule(tokens, steps)

    @property
    def _picking(self) -> Picking:
        return Picking(
            order=self.order,
            threshold=self.threshold,
            factor=self.factor,
            entropy_bound=self.entropy_bound,
        )

    @property
    def _drawing(self) -> Drawing:
        return Drawing(temperature=self.temperature, top_p=self.top_p, greedy=self.greedy)

    def _ranks(self, n: int, spec: SequenceSpec, rng: Randomness) -> Tensor:
        """The rank of each token in a random or fixed order, (n, N), -1 for given tokens."""
        F = len(spec.free)
        drawn = self.order == "random"
        ranks = random_ranks(n, F, rng) if drawn else torch.arange(F).expand(n, F)
        return ranks_among_all(ranks, spec)

    def _order(self, ranks: Tensor, rng: Randomness) -> Tensor:
        """The scores of a random or fixed order in a step, (n, N).

        Where the laws decide how many tokens are placed, a random order is drawn anew: that the
        next token did not fit would otherwise tell of the order.
        """
        if self.order == "random" and self._picking.by_laws:
            ranks = rng.permutation(*ranks.shape)
        return -ranks.double()

    def _along(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> Tensor:
        """The log-density log q(x), or log q(x | order) in an order that is drawn, (n,)."""
        ranks = self._ranks(len(x), spec, rng)
        known = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
        known[:, list(spec.given)] = True
        log_q = torch.zeros(len(x), dtype=spec.mean.dtype, device=x.device)
        for step in self._plan(spec, budget):
            free, order = step.free(known, budget.length + len(spec.given)), self._order(ranks, rng)
            if not bool(free.tokens.any()):
                continue
            law = network(x, known)
            chosen = self._picking.chosen(free, step.count, law, order)
            log_q = log_q + self._drawing.log_prob_where(law, x, chosen).sum(1)
            known = known | chosen
        if not bool(known.all()):
            log_q = log_q + completion(x, known).log_prob_where(x, ~known).sum(1)
        return log_q
