"""Masked diffusion: predicts the whole sequence k times, and masks fewer tokens again each time.

Source: Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models",
https://arxiv.org/abs/2406.07524; for remasking Wang et al. 2025, "Remasking Discrete Diffusion
Models with Inference-Time Scaling" (ReMDM), https://arxiv.org/abs/2503.00307; for one token at a
time Zheng et al. 2024, "Masked Diffusion Models are Secretly Time-Agnostic Masked Models"
(first-hitting sampler), https://arxiv.org/abs/2409.02908
Signature: token predictor. The network is shown the tokens that are not masked.
Assumption: the tokens that one step reveals are independent given the known tokens.
Budgets: `steps` is the number k of steps, on levels t uniform in [0, 1]; at level t a share t of
the tokens is masked. `length` is ignored.
Procedure: a step from t to s draws the masked tokens that it reveals, and a known token keeps its
value whatever the network answers. With `remask` a known token is then masked with probability
sigma_t, and a masked one is revealed with (alpha_s - (1 - sigma_t) alpha_t) / t, where
alpha_t = 1 - t, so that no value is final before the last step, and each step counts as a write of
all tokens. `remasking` sets sigma_t: to s (`full`, by which every token is masked with probability
s, known or not), to the largest possible sigma_max = min(1, s / alpha_t) (`max`), to min(eta,
sigma_max) (`cap`) or to eta sigma_max (`rescale`). With `loop` alpha_t rises to `loop_known` until
t = `loop_from`, is held there until `loop_to` while tokens are masked again as with `cap`, and
rises to 1 in the steps that are left. Without `remask` a masked token is revealed with
probability (t - s) / t and a known token stays known, so that each token is written once. With
`reveal=one` a step reveals one token, in random order, and there are as many steps as tokens. With
`draw=gumbel` one draw decides the value of a token and whether it is masked, as published: the
largest of the log-probabilities plus Gumbel noise, which is made in the working precision.
Given tokens: known in every step and never masked; N counts the others.
KL: exact in one step, and for few tokens by the sum over all sets revealed, or with remasking by
the probabilities of all partly masked sequences. Of more tokens it is bounded from below by the
draws, and without remasking also from above, by the mean over orders.
Known: one step is the product of the marginals. Without remasking the law is a sum over the sets of
revealed tokens, q_j(S) = sum_{S' in S} q_{j-1}(S') c^|S-S'| (1-c)^(N-|S|) prod p(x_i | x_S') with
c = (t - s) / t, and its distance from the target falls as 1/k. With exact marginals remasking has
no errors to correct, and converges more slowly: `full` and `max` as 1/sqrt(k). In up to two steps
no rule masks a token again. One token at a time is exact. Uniforms of p bits make Gumbel noise of
at most p ln 2, so that events with a probability below 2^-p in a step are drawn too rarely: in
fewer digits, more steps lose the rarer symbols.
"""

from __future__ import annotations

import dataclasses
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
from capcheck.laws import log_table
from capcheck.networks.signatures import TokenPredictor, TokenPredictorSignature
from capcheck.procedures.gumbel import carried, revealed_by_gumbel
from capcheck.procedures.orders import random_ranks, ranks_among_all
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.remasking import Chances, Remasking, RemaskingRule
from capcheck.procedures.remasking_law import density_by_remasking
from capcheck.procedures.rows import Row

__all__ = ["MaskedDiffusion"]

MAX_TOKENS = 6  # largest number of tokens whose 2^6 sets are summed, with one call for each set
ROWS = 256  # number of rows whose 64 x 64 pairs of sets are held in memory at once


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class MaskedDiffusion(Probe[TokenPredictor]):
    """Unmasks a sequence of token ids in steps that may mask known tokens again."""

    family: ClassVar[str] = "masked_diffusion"
    row: ClassVar[Row] = "steps"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    two_sided: ClassVar[bool] = True

    remask: Annotated[bool, Field(description="whether known tokens may be masked again")] = True
    remasking: Annotated[
        RemaskingRule, Field(description="rule for the share of known tokens that is masked again")
    ] = "full"
    eta: Annotated[
        float | None,
        Field(ge=0, le=1, description="cap or factor of remasking by cap, rescale or loop"),
    ] = None
    loop_from: Annotated[
        float, Field(gt=0, lt=1, description="time t from which loop masks known tokens again")
    ] = 0.55
    loop_to: Annotated[float, Field(gt=0, lt=1, description="time t at which loop ends")] = 0.05
    loop_known: Annotated[
        float, Field(gt=0, lt=1, description="share of known tokens that loop holds")
    ] = 0.9
    reveal: Annotated[
        Literal["independent", "one"], Field(description="rule for the tokens that a step reveals")
    ] = "independent"
    draw: Annotated[
        Literal["inverse_cdf", "gumbel"],
        Field(description="method of the draws; gumbel noise has the working precision"),
    ] = "inverse_cdf"

    @model_validator(mode="after")
    def _one_rule(self) -> MaskedDiffusion:
        remasks = self.remask and self.reveal == "independent"
        if self.remasking != "full" and not remasks:
            raise ValueError(
                f"remasking={self.remasking} needs remask=yes and reveal=independent, as no known "
                "token is masked again otherwise"
            )
        if (self.remasking in ("cap", "rescale", "loop")) != (self.eta is not None):
            raise ValueError(
                "eta must be set with remasking=cap, rescale and loop, and with no other rule"
            )
        if self.loop_from <= self.loop_to:
            raise ValueError("loop_from must be above loop_to, as t falls from 1 to 0")
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
        """Yield the start, then one state for each step that writes a token."""
        state = start
        yield state
        if self.reveal == "one":
            yield from self._one_by_one(network, spec, start, rng)
            return
        known = start.placed
        for chances in self._chances(budget.steps):
            law = network(state.tokens, known)
            revealing = torch.full(known.shape, chances.reveal, dtype=torch.float64)
            chance = torch.where(known, chances.keep, revealing.to(known.device))
            chance = torch.where(start.placed, 1, chance)
            if self.draw == "gumbel":
                log_p = carried(log_table(law), state.tokens, known)
                tokens, revealed = revealed_by_gumbel(log_p, chance, spec, rng)
                written = ~start.placed if self.remask else revealed & ~known
            else:
                weights = torch.stack([1 - chance, chance], -1)
                revealed = rng.categorical(weights, (*known.shape, 1)).squeeze(-1).bool()
                written = ~start.placed if self.remask else revealed & ~known
                draws = law.sample_where(rng, revealed & ~known)  # others are masked again
                tokens = torch.where(known, state.tokens, draws)
            known = revealed
            if bool(written.any()):
                state = state.write(tokens, written)
                yield state

    def _one_by_one(
        self, network: TokenPredictor, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Yield one state per token, in random order."""
        state, F = start, len(spec.free)
        rank = ranks_among_all(random_ranks(start.n, F, rng), spec)
        for r in range(F):
            law = network(state.tokens, rank < r)
            state = state.write(law.sample_where(rng, rank == r), rank == r)
            yield state

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """One for each step, or for each token in random order."""
        return len(spec.free) if self.reveal == "one" else budget.steps

    def suspects(self) -> tuple[Suspect, ...]:
        """Independent draws of the tokens that a step reveals together."""
        one = dataclasses.replace(self, reveal="one", remasking="full", eta=None)
        cure = "one token revealed per step"
        found = Suspect(failure="wrong factorisation", cure=cure, probe=one)
        return () if self.reveal == "one" else (found,)

    def log_density(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """The exact log-density if the tokens are few, or bounds on it without remasking."""
        N = len(spec.free)
        if self.draw == "gumbel" and spec.mean.dtype != torch.float64:
            return Unavailable(reason=f"the grid of Gumbel noise in {spec.mean.dtype} is coarse")
        if self.reveal == "independent" and budget.steps == 1:
            at_once = ranks_among_all(torch.zeros(len(x), N, dtype=torch.int64), spec)
            method = "independent tokens of one step"
            return LogDensity(values=_along(network, x, at_once, 1), method=method)
        if self.reveal == "independent" and self.remask:
            return density_by_remasking(self._chances(budget.steps), network, spec, x)
        if N <= MAX_TOKENS:
            sets = (torch.arange(2**N)[:, None] >> torch.arange(N) & 1).bool().to(x.device)
            log_ways = self._log_ways(sets, budget.steps).to(spec.mean)
            parts = [_over_sets(network, spec, rows, sets, log_ways) for rows in x.split(ROWS)]
            return LogDensity(values=torch.cat(parts), method="sum over all sets revealed")

        def along_order(x: Tensor, rng: Randomness) -> Tensor:
            if self.reveal == "one":
                when, count = random_ranks(len(x), N, rng), N
            else:
                count = budget.steps
                even = torch.ones(count, dtype=torch.float64)
                when = rng.categorical(even, (len(x), N))  # each step reveals the same share
            return _along(network, x, ranks_among_all(when, spec), count)

        return over_hidden_draws(along_order, x, rng, "orders of revelation")

    def density_calls(self, spec: SequenceSpec, budget: Budget) -> float:
        """One for each set of known tokens, or each step of each order that is drawn."""
        N = len(spec.free)
        if self.remask and self.reveal == "independent":
            return 0.0
        return 2.0**N if N <= MAX_TOKENS else DRAWS * self.iterations(spec, budget)

    def _chances(self, k: int) -> list[Chances]:
        """The probabilities with which each of k steps masks known tokens and reveals others."""
        loop = (self.loop_from, self.loop_to, self.loop_known)
        rule = Remasking(rule=self.remasking if self.remask else "none", eta=self.eta, loop=loop)
        return [rule.chances(j, k) for j in range(k)]

    def _log_ways(self, sets: Tensor, k: int) -> Tensor:
        """The log-probability that a step turns the set S of known tokens into S'.

        It leaves out the probabilities of the values: (steps, 2^N, 2^N), with S before S'.
        """
        N = sets.shape[1]
        inside = (sets[:, None] <= sets[None]).all(2)
        size = sets.sum(1).double()
        added = size[None] - size[:, None]
        if self.reveal == "one":
            log_chance = torch.where(added == 1, -(N - size[:, None]).log(), -torch.inf)
            ways = log_chance.expand(N, -1, -1)
        else:
            reveal = [step.reveal for step in self._chances(k)]
            chances = torch.tensor(reveal, dtype=torch.float64)
            ways = torch.stack(
                [
                    torch.special.xlogy(added, c) + torch.special.xlogy(N - size[None], 1 - c)
                    for c in chances
                ]
            )
        return torch.where(inside, ways, -torch.inf)


def _over_sets(
    network: TokenPredictor, spec: SequenceSpec, x: Tensor, sets: Tensor, log_ways: Tensor
) -> Tensor:
    """The log-density log q(x), (n,), by recursion over sets of known tokens.

    Args:
        network: Token predictor.
        spec: Spec of the sequences, with F tokens that are not given.
        x: Sequences, (n, N) integers.
        sets: All sets of the F tokens, (2^F, F) bool.
        log_ways: Log-probability of each change of the set, (steps, 2^F, 2^F).
    """
    free, answers = list(spec.free), []
    for S in sets:
        known = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        known[:, free] = S
        answers.append(network(x, known).log_prob(x)[:, free])  # log p(x_i | x_S)
    log_p = torch.stack(answers, 1)  # (n, 2^F, F)
    log_path = log_p.new_zeros(())
    for i in range(len(free)):
        added = ~sets[:, None, i] & sets[None, :, i]
        log_path = log_path + torch.where(added, log_p[:, :, None, i], 0)  # (n, 2^F, 2^F)
    log_F = log_p.new_full(log_p.shape[:2], -torch.inf)
    log_F[:, 0] = 0  # at the start no free token is known
    for of_step in log_ways:
        log_F = (log_F[:, :, None] + log_path + of_step).logsumexp(1)
    everything: Tensor = log_F[:, -1]
    return everything


def _along(network: TokenPredictor, x: Tensor, when: Tensor, count: int) -> Tensor:
    """The log-density (n,) of x (n, N) if token i is revealed in step when_i < count."""
    log_q = torch.zeros((), device=x.device)
    for j in range(count):
        log_q = log_q + network(x, when < j).log_prob_where(x, when == j).sum(1)
    return log_q
