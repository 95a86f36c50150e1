"""A decoder whose network is shown noisy tokens: `decode(model, tokens, steps) -> tokens`.

`tokens` (n, N) holds the known ids, and the mask id V elsewhere, as for `from_decoder`.
`model(x, keep).logits` are the log-probabilities (n, N, V) of every clean token given all of x,
where a token of x is the clean one with probability `keep` (n, N), and uniform otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.laws import log_table
from capcheck.networks.signatures import NoisyPredictor, NoisyPredictorSignature
from capcheck.procedures.probe import OPTIONS, Probe, State
from capcheck.procedures.rows import Row
from capcheck.samplers.from_decoder import Decode, decoded

__all__ = ["NoisyDecoderProbe", "noisy_decoder_probe"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class NoisyDecoderProbe(Probe[NoisyPredictor]):
    """The inference procedure of a decoder of noisy tokens; made by `noisy_decoder_probe`.

    Attributes:
        name: Name of the decoder.
        config: Keywords that it is called with.
    """

    family: ClassVar[str] = "decoder"
    row: ClassVar[Row] = "length"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    decode: ClassVar[list[Decode]]

    name: str
    config: dict[str, Any]

    @property
    def signature(self) -> NoisyPredictorSignature:
        """The noisy predictor: tokens and their keep-probabilities -> the law of every token."""
        return NoisyPredictorSignature()

    def run(
        self,
        network: NoisyPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Yield the start and the tokens that the decoder returns."""
        yield start
        (decode,) = self.decode

        def model(x: Tensor, keep: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=log_table(network(x, keep)))

        shown = torch.where(start.placed, start.tokens, spec.dim)
        found, _ = decoded(decode, model, shown, budget.steps, self.config, rng)
        yield start.write(found, ~start.placed)

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """One, whatever the number of steps inside."""
        return 1


def noisy_decoder_probe(decode: Decode, name: str, config: dict[str, Any]) -> NoisyDecoderProbe:
    """The probe of a decoder, whose options name it."""
    kind = type("NoisyDecoderProbe", (NoisyDecoderProbe,), {"decode": [decode], "__doc__": name})
    probe: NoisyDecoderProbe = kind(name=name, config=config)
    return probe
