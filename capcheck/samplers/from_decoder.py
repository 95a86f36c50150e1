"""A user's own decoder of token ids: `decode(model, tokens, steps) -> tokens`.

`tokens` (n, N) holds the known ids, and the mask id V elsewhere. `model(x).logits` are the
log-probabilities (n, N, V + 1) of every token given those of x that are not masked; that of the
mask is -inf. This is how published generation functions of masked diffusion models call theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.laws import log_table
from capcheck.networks.signatures import NetworkT, TokenPredictor, TokenPredictorSignature
from capcheck.procedures.probe import OPTIONS, Probe, State
from capcheck.procedures.rows import Row
from capcheck.samplers.drawing import Drawing, others_code

__all__ = ["Decode", "DecoderProbe", "Decoding", "decoded", "decoder_probe"]

Decode = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Decoding(Probe[NetworkT]):
    """The inference procedure that a decoder of others is; made by `decoder_probe`.

    Attributes:
        decode: The decoder, in a list of its own.
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

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """One, whatever the number of steps inside."""
        return 1


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class DecoderProbe(Decoding[TokenPredictor]):
    """A decoder whose network is shown the known tokens; see `Decoding`."""

    two_sided: ClassVar[bool] = True

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
        """Yield the start and the tokens that the decoder returns; the others are unplaced."""
        yield start
        mask, (decode,) = spec.dim, self.decode

        def model(x: Tensor, *_: Any, **__: Any) -> SimpleNamespace:
            known = x != mask
            log_p = log_table(network(torch.where(known, x, 0), known))
            never = torch.full_like(log_p[..., :1], -torch.inf)
            return SimpleNamespace(logits=torch.cat([log_p, never], -1))

        shown = torch.where(start.placed, start.tokens, mask)
        found, _ = decoded(decode, model, shown, budget.steps, self.config, rng)
        written = (found != mask) & ~start.placed
        yield start.write(torch.where(found == mask, 0, found), written)

    def conditional_calls(self, spec: SequenceSpec, budget: Budget) -> float:
        """One for each step, about."""
        return float(budget.steps)


def decoded(
    decode: Decode,
    model: Callable[..., SimpleNamespace],
    tokens: Tensor,
    steps: int,
    config: dict[str, Any],
    rng: Randomness,
) -> tuple[Tensor, Drawing]:
    """The tokens (n, N) that a decoder returns, and what it drew.

    Raises:
        InputError: They are no tokens of the shape that it was given.
        Exception: Whatever the decoder raises.
    """
    with others_code(rng.stream("decoder"), len(tokens)) as drawing:
        found = decode(model, tokens.clone(), steps, **config)
    if not isinstance(found, Tensor) or found.shape != tokens.shape or found.is_floating_point():
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"a decoder must return token ids {tuple(tokens.shape)}, got {shape}.")
    return found, drawing


def decoder_probe(
    decode: Decode,
    name: str,
    config: dict[str, Any],
    of: type[Decoding[Any]] = DecoderProbe,
) -> Decoding[Any]:
    """The probe of a decoder, whose options name it.

    Args:
        decode: The decoder.
        name: Its name.
        config: Keywords that it is called with.
        of: What runs it, by the network that it needs.
    """
    kind = type(of.__name__, (of,), {"decode": [decode], "__doc__": name})
    probe: Decoding[Any] = kind(name=name, config=config)
    return probe
