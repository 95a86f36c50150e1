"""MAR: draws masked tokens in random groups, and each token of a group by a diffusion of its own.

Source: Li et al. 2024, "Autoregressive Image Generation without Vector Quantization", section 3.4,
https://arxiv.org/abs/2406.11838
Signature: denoiser E[x_i^0 | x_i^t, known tokens]. For token i the network is shown this token at
its level, and the tokens at level 0.
Assumption: the tokens of one group are independent given the known tokens, and the denoiser's
answer does not change along a step.
Budgets: `length` is the number of tokens that are placed: the schedule of groups stops there, if
need be inside a group. `steps` is the number k of DDIM steps, uniform in t, that draw the tokens of
each group.
Order: drawn for each sequence at the start, or that of the sequence with `order=fixed`. Groups are
the rounds of MaskGIT's cosine schedule, or have a fixed size.
Given tokens: known from the start; order and groups are those of the other tokens.
KL: exact in fixed order, by inversion of every token's passes, and in random order of few tokens,
by a sum over the sets of placed tokens; otherwise bounded from above by the mean over orders, and
from below by the draws.
Known: given the order, a token whose conditional law is N(m, v) comes out as N(m, f^2), with f the
product of the k DDIM factors that `diffusion` has on N(0, v). In the limit of infinitely many steps
KL is that of MaskGIT in the same order, and 0 for groups of one token.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import AXES, Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.slopes import DenseSlope, Slope
from capcheck.core.tiles import slices
from capcheck.core.unavailable import Unavailable
from capcheck.exact.inversion import DERIVATIVES, Answers, after_a_jump, density_along
from capcheck.laws import TokenLaw
from capcheck.networks.signatures import (
    Denoiser,
    DenoiserSignature,
    OwnDenoiser,
    TokenPredictor,
)
from capcheck.noise.flow import ddim_step
from capcheck.noise.paths import PATHS, PathName
from capcheck.procedures.orders import (
    commit_schedule,
    random_ranks,
    rounds_within,
)
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row
from capcheck.procedures.sums_over_sets import (
    TokenSet,
    conditionals_asked,
    log_density_over_sets,
    rows_of_pairs,
)

__all__ = ["CONDITIONALS", "MAR", "ROWS"]

CONDITIONALS = 2000  # most conditional laws of one token over which a density is summed
ROWS = 4096  # rows whose passes are inverted at once


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class MAR(Probe[Denoiser]):
    """Draws groups of tokens in random order, each token by a diffusion of its own."""

    family: ClassVar[str] = "mar"
    row: ClassVar[Row] = "length_outer"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset(AXES)

    rounds: Annotated[int, Field(ge=1, description="number of rounds R of the cosine schedule")] = 4
    tokens_per_round: Annotated[
        int | None, Field(ge=1, description="fixed number per round in place of the schedule")
    ] = None
    order: Annotated[
        Literal["random", "fixed"], Field(description="drawn for every sequence, or left to right")
    ] = "random"
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> DenoiserSignature:
        """The denoiser (x_t, t) -> E[x_i^0 | x_i^t, tokens at level 0]."""
        return DenoiserSignature(self.path, view="own")

    def schedule(self, tokens: int) -> list[int]:
        """The number of tokens placed after each group, from 0 to all of them.

        Args:
            tokens: Number of tokens that are not given.
        """
        return commit_schedule(tokens, rounds=self.rounds, per_round=self.tokens_per_round)

    def run(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Yield the start, then k states for each group, each of which writes its tokens."""
        rank, noise = self._draws(spec, start.n, rng)
        state = start.filled(noise)
        yield state
        levels = torch.linspace(
            1, 0, budget.steps + 1, dtype=spec.mean.dtype, device=spec.mean.device
        )
        for before, after in rounds_within(self.schedule(len(spec.free)), budget.length):
            group = (rank >= before) & (rank < after)
            for t, s in itertools.pairwise(levels):
                seen = torch.where(group, t, (rank >= after).to(t))  # later groups are unseen
                x0 = network(state.tokens, seen)
                x_s = ddim_step(state.tokens, x0, t, s, PATHS[self.path])
                state = state.write(x_s, group)
                yield state

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """Every step for each group."""
        return budget.steps * (len(self._sizes(spec, budget)) - 1)

    @property
    def own_orders(self) -> bool:
        """In every order but from left to right."""
        return self.order != "fixed"

    def suspects(self) -> tuple[Suspect, ...]:
        """Independent draws within a group."""
        one_by_one = dataclasses.replace(self, tokens_per_round=1)
        by_group = Suspect(
            failure="wrong factorisation", cure="one token per round", probe=one_by_one
        )
        return () if self.tokens_per_round == 1 else (by_group,)

    def derivatives(self, spec: SequenceSpec, budget: Budget) -> float:
        """Some for every pass that is inverted, for every set of placed tokens."""
        if budget.steps == 1:  # a jump, which has no inverse
            return 0.0
        F, sizes = len(spec.free), self._sizes(spec, budget)
        laws = conditionals_asked(F, sizes) if self._sums(spec, budget) else F
        return DERIVATIVES * budget.steps * laws

    def cheaper_density(self) -> MAR | None:
        """The same procedure with the bound of one order for each row in place of the sum."""
        if self.order == "fixed":
            return None
        return _AlongOneOrder(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def log_density(
        self,
        network: Denoiser,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """By inversion of each token's passes, summed over sets of tokens, or along one order.

        The law in random order is a mixture over orders. Its log-density is exact where it is
        summed; otherwise it is bounded from below by the mean over orders.
        """
        if not isinstance(network, OwnDenoiser):
            return Unavailable(reason="the passes of a network of the caller are not inverted")
        if budget.steps == 1 and self._sizes(spec, budget)[-1] > 0:
            return after_a_jump(x)
        if self._sums(spec, budget):
            return self._over_sets(network, completion, spec, budget, x)
        rank = self._draws(spec, len(x), rng)[0]
        log_q = self._log_density_along(rank, network, completion, spec, budget, x)
        if isinstance(log_q, Unavailable):
            return log_q
        if self.order == "fixed":
            return LogDensity(values=log_q, method="inversion of every token's passes")
        method = "mean over orders, one drawn for each row, with every token's passes inverted"
        return LogDensity(values=log_q, method=method, bound=True)

    def _sizes(self, spec: SequenceSpec, budget: Budget) -> list[int]:
        """The number of tokens placed before each group, from 0, and after the last one."""
        rounds = rounds_within(self.schedule(len(spec.free)), budget.length)
        return [0, *(after for before, after in rounds if after > before)]

    def _sums(self, spec: SequenceSpec, budget: Budget) -> bool:
        """Whether the density is summed over all orders."""
        asked = conditionals_asked(len(spec.free), self._sizes(spec, budget))
        return self.order == "random" and asked <= CONDITIONALS

    def _over_sets(
        self,
        network: OwnDenoiser,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
    ) -> LogDensity | Unavailable:
        """The log-density by a sum over the sets of placed tokens."""

        def completed(S: TokenSet) -> dict[int, Tensor]:
            others = [i for i in spec.free if i not in S]
            known = torch.zeros(spec.tokens, dtype=torch.bool, device=x.device)
            known[[*spec.given, *S]] = True
            law = completion(x, known.expand(len(x), -1)).select(others)
            return dict(zip(others, law.log_prob(x[:, others]).double().unbind(1), strict=True))

        def placed(sets: list[TokenSet]) -> list[dict[int, Tensor]]:
            pairs = [(S, i) for S in sets for i in spec.free if i not in S]
            of_pairs: list[Tensor] = []
            for part in slices(len(pairs), max(1, ROWS // len(x))):
                token, repeated, noisy = rows_of_pairs(pairs[part], spec, x)
                own = repeated[torch.arange(len(token)), token]
                law = network.law(repeated, noisy).pick(token)
                density = self._density_of_token(law, own, budget.steps)
                if isinstance(density, Unavailable):
                    nothing = x.new_tensor(torch.nan)
                    return [{i: nothing for i in spec.free if i not in S} for S in sets]
                of_pairs += density.values.reshape(-1, len(x))
            of = dict(zip(pairs, of_pairs, strict=True))
            return [{i: of[S, i] for i in spec.free if i not in S} for S in sets]

        def log_p(sets: list[TokenSet], completing: bool) -> list[dict[int, Tensor]]:
            return [completed(S) for S in sets] if completing else placed(sets)

        log_q = log_density_over_sets(spec.free, self._sizes(spec, budget), log_p)
        if bool(log_q.isnan().any()):
            return Unavailable(reason="the passes of some tokens were not inverted")
        method = "sum over all orders, with every token's passes inverted"
        return LogDensity(values=log_q.to(x.device).expand(len(x)), method=method)

    def _log_density_along(
        self,
        rank: Tensor,
        network: OwnDenoiser,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
    ) -> Tensor | Unavailable:
        """The log-density (n,) of x if the tokens are placed by their ranks (n, N)."""
        log_q, rows = x.new_zeros(len(x), dtype=torch.float64), torch.arange(len(x)).to(rank)
        placed = 0
        for before, placed in rounds_within(self.schedule(len(spec.free)), budget.length):
            law = network.law(x, rank >= before)
            for r in range(before, placed):
                token = (rank == r).int().argmax(1)  # one token in each row
                found = self._density_of_token(law.pick(token), x[rows, token], budget.steps)
                if isinstance(found, Unavailable):
                    return found
                log_q = log_q + found.values
        if placed < len(spec.free):
            rest = completion(x, rank < placed).log_prob(x)
            log_q = log_q + torch.where(rank >= placed, rest, 0).sum(1)
        return log_q

    def _density_of_token(self, law: TokenLaw, x: Tensor, steps: int) -> LogDensity | Unavailable:
        """The log-density (nats) of tokens x (n, d) that k DDIM steps draw from (n, 1) laws."""
        path = PATHS[self.path]

        def of(rows: Tensor) -> TokenLaw:
            return law if len(rows) == len(x) else law.rows(rows)

        def mean(x_t: Tensor, t: Tensor, tokens: Sequence[int], rows: Tensor) -> Tensor:
            return of(rows).denoise(x_t, t, path)

        def slope(
            x_t: Tensor, t: Tensor, tokens: Sequence[int], rows: Tensor
        ) -> tuple[Tensor, Slope]:
            found, derivative = of(rows).denoise_with_derivative(x_t, t, path)
            return found.double(), DenseSlope(derivative[:, 0].double())

        levels = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:, None]
        return density_along(levels, Answers(mean, slope), x[:, None].double(), path, trusted=True)

    def _draws(self, spec: SequenceSpec, n: int, rng: Randomness) -> tuple[Tensor, Tensor]:
        """The ranks of tokens (n, N), -1 for given ones, and the starting noise (n, N, d)."""
        F, device = len(spec.free), spec.mean.device
        rank = torch.full((n, spec.tokens), -1, device=device)
        drawn = random_ranks(n, F, rng) if self.order == "random" else torch.arange(F)
        rank[:, list(spec.free)] = drawn.to(device)
        return rank, rng.normal((n, spec.tokens, spec.dim)).to(spec.mean)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class _AlongOneOrder(MAR):
    """The same procedure, whose log-density is the bound of one order for each row."""

    def cheaper_density(self) -> None:
        """There is none."""

    def _sums(self, spec: SequenceSpec, budget: Budget) -> bool:
        return False
