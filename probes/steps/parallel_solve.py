"""Parallel solve: an autoregressive sample as the fixed point of k parallel updates.

Source: Song, Meng, Liao & Ermon 2021, "Accelerating Feedforward Computation via Parallel Nonlinear
Equation Solving", algorithms 1 (Jacobi) and 4 (Jacobi-GS), https://arxiv.org/abs/2002.03629
Signature: prefix predictor. The network is shown all tokens, and one call returns every
p(x_i | x_<i).
Assumption: the tokens before i have reached their final values, which is true of the first k tokens
after k iterations.
Budgets: `steps` is the number k of iterations; `length` is ignored.
Iteration: x_i <- h_i(u_i, x_<i) for all i at once, with noise u that stays the same. For continuous
tokens h draws the mixture component by inverse CDF and then its Gaussian, for token ids h is the
inverse CDF. Tokens start at their means, or at their most probable values. With `block` = b every
iteration makes b calls: the tokens of each block of b are updated one after another, all blocks at
once.
Given tokens: never updated, and shown to the tokens after them only; blocks consist of the F other
tokens.
KL: exact after one step and when all tokens have settled; between the two exact for few token ids,
by the intervals of the noise that all iterations share, and otherwise bounded from below by the
draws.
Known: after k iterations the first b k tokens equal the autoregressive sample exactly, so that
ceil(F / b) iterations suffice. On a symmetric binary chain so does 1 + the longest run of tokens
whose update depends on the token before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.jacobi import jacobi_law
from capcheck.laws import TokenLaw
from capcheck.networks.signatures import PrefixPredictor, PrefixPredictorSignature, TokenPredictor
from capcheck.procedures.probe import OPTIONS, Probe, State
from capcheck.procedures.rows import Row
from capcheck.targets.categorical.sequence_law import numbers

__all__ = ["ParallelSolve"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class ParallelSolve(Probe[PrefixPredictor]):
    """Solves for an autoregressive sample by Jacobi iterations with fixed noise."""

    family: ClassVar[str] = "parallel_solve"
    row: ClassVar[Row] = "steps"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    anytime: ClassVar[frozenset[Axis]] = frozenset({"steps"})

    block: Annotated[
        int, Field(ge=1, description="number of tokens that an iteration updates one by one")
    ] = 1

    @property
    def signature(self) -> PrefixPredictorSignature:
        """The prefix predictor: known tokens -> the law of every token given those before it."""
        return PrefixPredictorSignature()

    def run(
        self,
        network: PrefixPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Yield the start, then one state per iteration, which writes all tokens not given."""
        state = start.filled(_first_guess(spec, start.n))
        yield state
        free = self._free(spec).expand_as(start.placed)
        for _ in range(budget.steps):
            state = state.write(self._iterate(network, state.tokens, spec, rng), free)
            yield state

    def log_density(
        self,
        network: PrefixPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """The exact log-density of final tokens, of a single iteration, or of few token ids."""
        free = self._free(spec)
        if budget.steps * self.block >= len(spec.free):
            values = torch.where(free, _conditionals(network, x).log_prob(x), 0).sum(1)
            return LogDensity(values=values, method="chain rule, all tokens settled")
        if budget.steps > 1:
            return self._between(network, spec, budget, x)
        log_q = x.new_zeros(len(x), dtype=spec.mean.dtype)
        shown = _where(free, _first_guess(spec, len(x)), x)
        for now in self._turns(spec):
            log_q = log_q + torch.where(now, _conditionals(network, shown).log_prob(x), 0).sum(1)
            shown = _where(now, x, shown)
        return LogDensity(values=log_q, method="product over tokens, each drawn once")

    def _between(
        self, network: PrefixPredictor, spec: SequenceSpec, budget: Budget, x: Tensor
    ) -> LogDensity | Unavailable:
        """The log-density of token ids some of which have been updated and have not settled."""
        reason = "tokens that have not settled share their noise with the draws that they depend on"
        if spec.kind != "categorical":
            return Unavailable(reason=reason)
        turns = [turn.nonzero()[:, 0].tolist() for turn in self._turns(spec)]
        guess = _first_guess(spec, 1)[0]
        law = jacobi_law(network, spec, guess, turns, iterations=budget.steps)
        if isinstance(law, Unavailable):
            return Unavailable(reason=f"{reason}, and {law.reason}")
        values = law.to(x.device)[numbers(x, spec.dim)]
        return LogDensity(values=values, method="intervals of the noise that iterations share")

    def limit(
        self, oracle: PrefixPredictor, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """The autoregressive sample that the same noise gives, drawn token by token.

        It is a draw of the target unless a token is drawn before a given one that it cannot see.
        """
        if spec.given and spec.given[-1] > spec.free[0]:
            return None
        x = start.filled(_first_guess(spec, start.n)).tokens
        for i in spec.free:
            x[:, i] = _conditionals(oracle, x).sample(rng.stream("noise"))[:, i]
        return x

    def _turns(self, spec: SequenceSpec) -> list[Tensor]:
        """The tokens that each call of an iteration updates, as (N,) bool masks."""
        turns = torch.zeros(min(self.block, len(spec.free)), spec.tokens, dtype=torch.bool)
        for number, i in enumerate(spec.free):
            turns[number % self.block, i] = True
        return list(turns.to(spec.mean.device))

    def _free(self, spec: SequenceSpec) -> Tensor:
        """The tokens that are not given, (N,) bool."""
        return torch.stack(self._turns(spec)).any(0)

    def _iterate(
        self, network: PrefixPredictor, x: Tensor, spec: SequenceSpec, rng: Randomness
    ) -> Tensor:
        for now in self._turns(spec):
            # Opening the stream again restarts it, so that the noise stays the same.
            x = _where(now, _conditionals(network, x).sample(rng.stream("noise")), x)
        return x


def _first_guess(spec: SequenceSpec, n: int) -> Tensor:
    """The means or most probable values of all tokens: (n, N, d), or (n, N) integers."""
    mean = spec.mean if spec.kind == "continuous" else spec.mean.argmax(1)
    return mean.expand(n, *mean.shape)


def _conditionals(network: PrefixPredictor, x: Tensor) -> TokenLaw:
    """The laws p(x_i | x_<i) of all tokens, an (n, N) token law."""
    return network(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))


def _where(tokens: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The values `new` at the tokens of an (N,) mask, and `old` elsewhere."""
    return torch.where(tokens.reshape(-1, *[1] * (new.dim() - 2)), new, old)
