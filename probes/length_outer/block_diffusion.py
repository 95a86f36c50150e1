"""Block diffusion: blocks of tokens from left to right, each unmasked in k steps.

Source: Arriola et al. 2025, "Block Diffusion: Interpolating Between Autoregressive and Diffusion
Language Models", https://arxiv.org/abs/2503.09573
Signature: token predictor. The network is shown the blocks before, and the tokens of the block that
are placed.
Assumption: the tokens of a block that one step places are independent given the known tokens.
Budgets: `length` is the number of tokens that are placed, from the left; the procedure stops there,
if need be inside a block. `steps` is the number k of steps for each block of `block` tokens, of
which no more are made than the block has tokens.
Procedure: that of `parallel_decoder` with blocks. Every step places an equal share of the block's
tokens, up to rounding, in random order.
Given tokens: known in every step; blocks consist of the other tokens.
KL: as for `parallel_decoder`.
Known: with one step per block it is `multi_token`, and with as many steps as tokens in a block it
is exact. For any number of steps KL is at most the sum over blocks of the mean over orders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.networks.signatures import TokenPredictor, TokenPredictorSignature
from capcheck.probes.length.parallel_decoder import ParallelDecoder
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row

__all__ = ["BlockDiffusion"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class BlockDiffusion(Probe[TokenPredictor]):
    """Unmasks blocks of tokens one after the other, each in several steps."""

    family: ClassVar[str] = "block_diffusion"
    row: ClassVar[Row] = "length_outer"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"length", "steps"})

    block: Annotated[int, Field(ge=1, description="number of tokens of a block")] = 4

    @property
    def signature(self) -> TokenPredictorSignature:
        """The token predictor: known tokens -> the law of every token."""
        return TokenPredictorSignature()

    @property
    def _decoder(self) -> ParallelDecoder:
        return ParallelDecoder(order="random", block=self.block)

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Yield the start, then one state per step of each block."""
        yield from self._decoder.run(network, spec, budget, start, rng)

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """One for each step of each block."""
        return self._decoder.iterations(spec, budget)

    def suspects(self) -> tuple[Suspect, ...]:
        """Independent draws of the tokens that a step places together."""
        one = dataclasses.replace(self, block=1)
        found = Suspect(failure="wrong factorisation", cure="blocks of one token", probe=one)
        return () if self == one else (found,)

    def conditional_calls(self, spec: SequenceSpec, budget: Budget) -> float:
        """As for `parallel_decoder`, whose calls stop at the end of a block."""
        share = min(self.block, spec.tokens) / spec.tokens
        return self._decoder.conditional_calls(spec, budget) * share

    def density_calls(self, spec: SequenceSpec, budget: Budget) -> float:
        """As for `parallel_decoder`, whose calls stop at the end of a block."""
        share = min(self.block, spec.tokens) / spec.tokens
        return self._decoder.density_calls(spec, budget) * share

    def log_density(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """The log-density of the sampled law, exact for few tokens, otherwise a lower bound."""
        return self._decoder.log_density(network, completion, spec, budget, x, rng)
