"""A decoding strategy of `transformers` as an inference procedure of token ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.errors import UnfitError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.laws import log_table
from capcheck.networks.signatures import PrefixPredictor, PrefixPredictorSignature
from capcheck.procedures.probe import OPTIONS, Probe, State
from capcheck.procedures.rows import Row
from capcheck.samplers.from_transformers import Generation
from capcheck.targets.categorical.sequence_law import sequences

__all__ = ["GenerationProbe", "generation_probe", "table_of"]

SEQUENCES = 4096  # most sequences of a target


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class GenerationProbe(Probe[PrefixPredictor]):
    """The inference procedure that a decoding strategy is; made by `generation_probe`.

    A row is one outcome of all draws of `generate`, drawn with its probability. After each call of
    the target model the state has the tokens that `generate` has by then.

    Attributes:
        name: Name of the strategy.
        config: Its settings.
    """

    family: ClassVar[str] = "generation"
    row: ClassVar[Row] = "length"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    rounding: ClassVar[float] = 2.0**-19
    generation: ClassVar[Generation]

    name: str
    config: dict[str, Any]

    @property
    def signature(self) -> PrefixPredictorSignature:
        """The prefix predictor: known tokens -> the law of each given those before it."""
        return PrefixPredictorSignature()

    def run(
        self,
        network: PrefixPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Yield the start, and the tokens after each call of the target model."""
        yield start
        table = table_of(network, spec.dim, spec.tokens)
        found = self.generation.outcomes(table, budget.steps)
        p = torch.tensor([each.probability for each in found], dtype=torch.float64)
        chosen = rng.categorical(p, (start.n, 1))[:, 0].cpu()  # (n,)
        x = torch.tensor([each.tokens for each in found])[chosen]  # (n, N)
        rounds = max(len(each.placed) for each in found)
        ends = [(*each.placed, *[spec.tokens] * (rounds - len(each.placed))) for each in found]
        after, state, place = torch.tensor(ends)[chosen], start, torch.arange(spec.tokens)
        for j in range(rounds):
            if j > 0:  # generate asks once a round; the first answer is in the table
                network(state.tokens, state.placed)
            where = (place < after[:, j : j + 1]).to(state.placed) & ~state.placed
            state = state.write(x.to(state.tokens), where)
            yield state

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """At most one for each token."""
        return spec.tokens


def generation_probe(generation: Generation) -> GenerationProbe:
    """The probe of a decoding strategy, whose options name it."""
    made = {"generation": generation, "__doc__": generation.name}
    kind = type("GenerationProbe", (GenerationProbe,), made)
    probe: GenerationProbe = kind(name=generation.name, config=generation.config)
    return probe


def table_of(network: PrefixPredictor, vocabulary: int, tokens: int) -> Tensor:
    """p(x_i | x_<i) for token i of every sequence x in the order of `sequences`, (V^N, N, V).

    Behind a prefix that the target cannot have, tokens are uniform.

    Args:
        network: The prefix predictor, which is called once.
        vocabulary: Number V of values of a token.
        tokens: Number N of tokens.

    Raises:
        UnfitError: There are too many sequences.
    """
    V, N = vocabulary, tokens
    if V**N > SEQUENCES:
        raise UnfitError(
            f"generate is run on targets of at most {SEQUENCES} sequences, not {V}^{N}."
        )
    x = torch.cat(list(sequences(V, N)))  # (V^N, N)
    table = log_table(network(x, torch.ones_like(x, dtype=torch.bool))).double().cpu().exp()
    sums = table.sum(-1, keepdim=True)
    return torch.where((sums - 1).abs() < 1e-6, table, 1 / V)
