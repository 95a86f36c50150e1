"""Parallel solve: an autoregressive sample as the fixed point of k parallel updates.

Source: Song, Meng, Liao & Ermon 2021, "Accelerating Feedforward Computation via Parallel Nonlinear
Equation Solving", algorithms 1 (Jacobi) and 4 (Jacobi-GS).
Signature: prefix predictor; shown all tokens, one call returns every p(x_i | x_<i).
Assumption: the tokens before i have settled; true of the first k tokens after k iterations.
Budgets: `steps` is k; `length` is ignored.
Iteration: x_i <- h_i(u_i, x_<i) for all i at once, with noise u that stays the same. h is the
component by inverse CDF and then its Gaussian; of integers the inverse CDF. It starts at the means
of the tokens; of integers at each one's most probable value. With `block` = b an iteration makes b
calls: inside each block of b tokens one after the other is updated, all blocks at once.
Given tokens: kept, and seen by what follows them only; blocks are of the F others.
Known: after k iterations the first b k tokens are the autoregressive ones, exactly, so ceil(F / b)
iterations suffice; on a symmetric binary chain so does 1 + the longest run of tokens whose map
depends on the token before.
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
from capcheck.laws import TokenLaw
from capcheck.networks.signatures import PrefixPredictor, PrefixPredictorSignature, TokenPredictor
from capcheck.procedures.probe import OPTIONS, Probe, Row, State

__all__ = ["ParallelSolve"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class ParallelSolve(Probe[PrefixPredictor]):
    """Jacobi iterations of an autoregressive model with fixed noise."""

    family: ClassVar[str] = "parallel_solve"
    row: ClassVar[Row] = "steps"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    anytime: ClassVar[frozenset[Axis]] = frozenset({"steps"})

    block: Annotated[
        int, Field(ge=1, description="tokens that an iteration updates one after the other")
    ] = 1

    @property
    def signature(self) -> PrefixPredictorSignature:
        """Known tokens -> the law of every token given the known ones before it."""
        return PrefixPredictorSignature()

    def run(
        self,
        network: PrefixPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """One state per iteration; every one writes all tokens but the given ones."""
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
        """Of the autoregressive law once all tokens have settled, and of a single iteration."""
        free = self._free(spec)
        if budget.steps * self.block >= len(spec.free):
            values = torch.where(free, _conditionals(network, x).log_prob(x), 0).sum(1)
            return LogDensity(values=values, method="chain rule, all tokens settled")
        if budget.steps > 1:
            return Unavailable(
                reason="tokens that have not settled are drawn from laws that depend on draws made "
                "from the same noise"
            )
        log_q = x.new_zeros(len(x), dtype=spec.mean.dtype)
        shown = _where(free, _first_guess(spec, len(x)), x)
        for now in self._turns(spec):
            log_q = log_q + torch.where(now, _conditionals(network, shown).log_prob(x), 0).sum(1)
            shown = _where(now, x, shown)
        return LogDensity(values=log_q, method="product over tokens, each drawn once")

    def limit(
        self, oracle: PrefixPredictor, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor:
        """The autoregressive sample from the same noise, token by token."""
        x = start.filled(_first_guess(spec, start.n)).tokens
        for i in spec.free:
            x[:, i] = _conditionals(oracle, x).sample(rng.stream("noise"))[:, i]
        return x

    def _turns(self, spec: SequenceSpec) -> list[Tensor]:
        """(N,) masks of the tokens that each call of an iteration updates."""
        turns = torch.zeros(min(self.block, len(spec.free)), spec.tokens, dtype=torch.bool)
        for number, i in enumerate(spec.free):
            turns[number % self.block, i] = True
        return list(turns.to(spec.mean.device))

    def _free(self, spec: SequenceSpec) -> Tensor:
        """(N,) bool, all tokens but the given ones."""
        return torch.stack(self._turns(spec)).any(0)

    def _iterate(
        self, network: PrefixPredictor, x: Tensor, spec: SequenceSpec, rng: Randomness
    ) -> Tensor:
        for now in self._turns(spec):
            # A stream that is opened again starts again: the noise stays the same.
            x = _where(now, _conditionals(network, x).sample(rng.stream("noise")), x)
        return x


def _first_guess(spec: SequenceSpec, n: int) -> Tensor:
    """The means, or the most probable values, of all tokens: (n, N, d), or (n, N) integers."""
    mean = spec.mean if spec.kind == "continuous" else spec.mean.argmax(1)
    return mean.expand(n, *mean.shape)


def _conditionals(network: PrefixPredictor, x: Tensor) -> TokenLaw:
    """p(x_i | x_<i) of every token, (n, N)."""
    return network(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))


def _where(tokens: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` at the tokens of an (N,) mask."""
    return torch.where(tokens.reshape(-1, *[1] * (new.dim() - 2)), new, old)
