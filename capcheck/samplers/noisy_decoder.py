"""A decoder whose network is shown noisy tokens: `decode(model, tokens, steps) -> tokens`.

`tokens` (n, N) holds the known ids, and the mask id V elsewhere, as for `from_decoder`.
`model(x, keep).logits` are the log-probabilities (n, N, V) of every clean token given all of x,
where a token of x is the clean one with probability `keep` (n, N), and uniform otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import log_table
from capcheck.networks.signatures import NoisyPredictor, NoisyPredictorSignature
from capcheck.procedures.probe import OPTIONS, State
from capcheck.samplers.from_decoder import Decoding, decoded

__all__ = ["NoisyDecoderProbe"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class NoisyDecoderProbe(Decoding[NoisyPredictor]):
    """A decoder whose network is shown noisy tokens; see `Decoding`."""

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
