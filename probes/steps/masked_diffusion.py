"""Masked diffusion: the whole sequence is predicted k times, and masked again ever less.

Source: Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models"; remasking as in
Wang et al. 2025, "Remasking Discrete Diffusion Models with Inference-Time Scaling", with
sigma_t = 1 - alpha_s; one token at a time as in Zheng et al. 2024, "Masked Diffusion Models are
Secretly Time-Agnostic Masked Models" (first-hitting sampler).
Signature: token predictor, shown the tokens that are not masked.
Assumption: the tokens revealed in one step are independent given the known ones.
Budgets: `steps` is k, on levels t uniform in [0, 1], of which a share t of the tokens is masked;
`length` is ignored.
A step from t to s draws every masked token from the network's answer; a known token keeps its
value, whatever the network says of it. With `remask` every token is then masked with chance s,
known or not, so that no value is final before the last step and each step counts as a write of all
tokens; without, a masked one is revealed with chance (t - s) / t and a known one stays, so that
each token is written once.
`reveal=one` reveals one token per step in random order, in as many steps as there are tokens.
`draw=gumbel` draws a token and whether it is masked at once, as published: the largest of the
logarithms of their chances plus Gumbel noise, which is made in the working precision.
Given tokens: known in every step, and never masked; N counts the others.
Known: one step is the product of the marginals; without remasking the law is a sum over the sets
revealed, q_j(S) = sum_{S' in S} q_{j-1}(S') c^|S-S'| (1-c)^(N-|S|) prod p(x_i | x_S') with
c = (t - s) / t, and its distance from the target falls as 1/k; with exact marginals remasking has
nothing to mend, and is slower; one token at a time is exact. Uniforms of p bits make Gumbel noise
of at most p ln 2: what has a chance below 2^-p in a step is drawn too rarely, so that in fewer
digits more steps lose the rarer symbols.
"""

from __future__ import annotations

import dataclasses
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
from capcheck.laws import log_table
from capcheck.networks.signatures import TokenPredictor, TokenPredictorSignature
from capcheck.procedures.orders import random_ranks, ranks_among_all
from capcheck.procedures.probe import OPTIONS, Probe, Row, State, Suspect

__all__ = ["MaskedDiffusion"]

MOST_TOKENS = 6  # whose sets are summed, by 64 calls
ROWS = 256  # whose 64 x 64 pairs of sets are held at once


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class MaskedDiffusion(Probe[TokenPredictor]):
    """Discrete diffusion with masks, and with remasking."""

    family: ClassVar[str] = "masked_diffusion"
    row: ClassVar[Row] = "steps"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})

    remask: Annotated[bool, Field(description="known tokens may be masked again")] = True
    reveal: Annotated[
        Literal["independent", "one"], Field(description="tokens that a step reveals")
    ] = "independent"
    draw: Annotated[
        Literal["inverse_cdf", "gumbel"],
        Field(description="how what a step reveals is drawn; gumbel in the working precision"),
    ] = "inverse_cdf"

    @property
    def signature(self) -> TokenPredictorSignature:
        """Known tokens -> the law of every token."""
        return TokenPredictorSignature()

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """One state per step that writes anything."""
        state = start
        yield state
        if self.reveal == "one":
            yield from self._one_by_one(network, spec, start, rng)
            return
        known = start.placed
        for j in range(budget.steps):
            log_p = _carried(log_table(network(state.tokens, known)), state.tokens, known)
            chance = torch.full(known.shape, self._chance(j, budget.steps), dtype=torch.float64)
            stays = start.placed if self.remask else known
            chance = torch.where(stays, 1, chance.to(known.device))
            if self.draw == "gumbel":
                tokens, revealed = _by_gumbel(log_p, chance, spec, rng)
            else:
                tokens = rng.categorical(log_p.exp(), (*known.shape, 1)).squeeze(-1)
                weights = torch.stack([1 - chance, chance], -1)
                revealed = rng.categorical(weights, (*known.shape, 1)).squeeze(-1).bool()
            written = ~start.placed if self.remask else revealed & ~known
            known = revealed
            if bool(written.any()):
                state = state.write(tokens, written)
                yield state

    def _one_by_one(
        self, network: TokenPredictor, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Iterator[State]:
        """One token per state, in random order."""
        state, F = start, len(spec.free)
        rank = ranks_among_all(random_ranks(start.n, F, rng), spec)
        for r in range(F):
            log_p = log_table(network(state.tokens, rank < r))
            log_p = _carried(log_p, state.tokens, rank < r)
            tokens = rng.categorical(log_p.exp(), (*rank.shape, 1)).squeeze(-1)
            state = state.write(tokens, rank == r)
            yield state

    def suspects(self) -> tuple[Suspect, ...]:
        """Tokens that a step reveals together."""
        one = dataclasses.replace(self, reveal="one")
        found = Suspect(
            failure="wrong factorisation", cure="one token revealed per step", probe=one
        )
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
        """A sum over the sets of known tokens where they are few; otherwise a bound."""
        N = len(spec.free)
        if self.draw == "gumbel" and spec.mean.dtype != torch.float64:
            return Unavailable(reason=f"the grid of Gumbel noise in {spec.mean.dtype} is coarse")
        if self.reveal == "independent" and self.remask:
            return Unavailable(reason="a remasked token's value may be any before its last")
        if N <= MOST_TOKENS:
            sets = (torch.arange(2**N)[:, None] >> torch.arange(N) & 1).bool().to(x.device)
            log_ways = self._log_ways(sets, budget.steps).to(spec.mean)
            parts = [_over_sets(network, spec, rows, sets, log_ways) for rows in x.split(ROWS)]
            return LogDensity(values=torch.cat(parts), method="sum over all sets revealed")
        if self.reveal == "one":
            when, count = random_ranks(len(x), N, rng), N
        else:
            count = budget.steps
            even = torch.ones(count, dtype=torch.float64)
            when = rng.categorical(even, (len(x), N))  # each step reveals the same share
        values = _along(network, x, ranks_among_all(when, spec), count)
        method = "mean over the orders of revelation, one drawn for each row"
        return LogDensity(values=values, bound=True, method=method)

    def _chance(self, j: int, k: int) -> float:
        """Chance that step j of k leaves a token known: a masked one, or any if it remasks."""
        return (j + 1) / k if self.remask else 1 / (k - j)

    def _log_ways(self, sets: Tensor, k: int) -> Tensor:
        """Log-chance that a step turns set S into S', but for values: (steps, 2^N, 2^N)."""
        N = sets.shape[1]
        inside = (sets[:, None] <= sets[None]).all(2)
        size = sets.sum(1).double()
        added = size[None] - size[:, None]
        if self.reveal == "one":
            log_chance = torch.where(added == 1, -(N - size[:, None]).log(), -torch.inf)
            ways = log_chance.expand(N, -1, -1)
        else:
            chances = [torch.tensor(self._chance(j, k), dtype=torch.float64) for j in range(k)]
            ways = torch.stack(
                [
                    torch.special.xlogy(added, c) + torch.special.xlogy(N - size[None], 1 - c)
                    for c in chances
                ]
            )
        return torch.where(inside, ways, -torch.inf)


def _carried(log_p: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
    """Log-probabilities (n, N, V) in which known tokens have the value that they have."""
    held = torch.full_like(log_p, -torch.inf).scatter(-1, tokens[..., None], 0)
    return torch.where(known[..., None], held, log_p)


def _by_gumbel(
    log_p: Tensor, chance: Tensor, spec: SequenceSpec, rng: Randomness
) -> tuple[Tensor, Tensor]:
    """Values (n, N), and which of them are revealed, each with its chance (n, N)."""
    dtype = spec.mean.dtype
    revealed = log_p.double() + chance.log()[..., None]
    choices = torch.cat([revealed, (1 - chance).log()[..., None]], -1).to(dtype)
    # Uniforms as libraries make them: multiples of 2^-p below 1, of which 0 is raised a little.
    grid = 2 / torch.finfo(dtype).eps
    u = (rng.uniform(tuple(choices.shape)) * grid).floor().div(grid).to(dtype)
    u = u.clamp(min=torch.finfo(dtype).tiny)
    noisy = choices - (-u.log()).log()
    return noisy[..., :-1].argmax(-1), noisy.argmax(-1) < spec.dim


def _over_sets(
    network: TokenPredictor, spec: SequenceSpec, x: Tensor, sets: Tensor, log_ways: Tensor
) -> Tensor:
    """Log q(x) by the recursion over the sets (2^F, F) of free tokens that are known: (n,)."""
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
    log_F[:, 0] = 0  # nothing is known
    for of_step in log_ways:
        log_F = (log_F[:, :, None] + log_path + of_step).logsumexp(1)
    everything: Tensor = log_F[:, -1]
    return everything


def _along(network: TokenPredictor, x: Tensor, when: Tensor, count: int) -> Tensor:
    """Log-density of x (n, N) if token i is revealed in step when_i < count."""
    log_q = torch.zeros((), device=x.device)
    for j in range(count):
        log_p = network(x, when < j).log_prob(x)
        log_q = log_q + torch.where(when == j, log_p, 0).sum(1)
    return log_q
