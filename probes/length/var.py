"""VAR: next-scale prediction, all tokens of one scale at once given the coarser scales.

Source: Tian et al. 2024, "Visual Autoregressive Modeling", section 3.
Signature: token predictor, shown the tokens of the coarser scales.
Assumption: the tokens of one scale are independent given the coarser scales.
Budgets: `length` counts tokens of scales that are finished: one that does not fit is left out;
`steps` is ignored.
Scales: continuous tokens in an orthonormal Haar pyramid of the sequence or grid, after each is
divided by its unit (the target's bandwidth); states, length and completion are then in
coefficients. Categorical tokens, sides that are no powers of two and parts of a larger grid take
interlaced subsets, every 2^m-th place of each side.
Known: KL is the sum over scales of E[total correlation of the scale given the coarser ones].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.budget import Axis, Budget
from capcheck.probe import OPTIONS, LogDensity, Probe, Row, State, Suspect
from capcheck.probes.length.gpt import GPT
from capcheck.randomness import Randomness
from capcheck.scales import haar, interlaced, is_dyadic
from capcheck.sequences import Kind, SequenceSpec
from capcheck.signatures import TokenPredictor, TokenPredictorSignature


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class VAR(Probe[TokenPredictor]):
    """Scale after scale, each in parallel."""

    family: ClassVar[str] = "var"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    anytime: ClassVar[frozenset[Axis]] = frozenset({"length"})

    pyramid: Annotated[
        Literal["haar", "interlaced"], Field(description="scales of continuous tokens")
    ] = "haar"

    @property
    def signature(self) -> TokenPredictorSignature:
        """Known tokens -> the law of every token."""
        return TokenPredictorSignature()

    def basis(self, spec: SequenceSpec) -> Tensor | None:
        """The Haar pyramid, each coordinate of a token by itself."""
        if not self._in_coefficients(spec):
            return None
        eye = torch.eye(spec.dim, dtype=torch.float64)
        return torch.kron(haar(*_sides(spec))[0], eye).to(spec.mean)

    def scales(self, spec: SequenceSpec) -> list[list[int]]:
        """Indices of the tokens, or coefficients, of each scale."""
        if self._in_coefficients(spec):
            ends = torch.tensor(haar(*_sides(spec))[1]).cumsum(0).tolist()
            return [list(range(a, b)) for a, b in zip([0, *ends], ends, strict=False)]
        plain = spec.grid is None and spec.places is None
        return interlaced(tuple((0, i) for i in range(spec.tokens)) if plain else spec.layout)

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        n: int,
        rng: Randomness,
    ) -> Iterator[State]:
        """One scale per state."""
        state = State.blank(spec, n)
        yield state
        for scale in self._placed(spec, budget):
            tokens = state.tokens.clone()
            tokens[:, scale] = network(state.tokens, state.placed).select(scale).sample(rng)
            where = torch.zeros_like(state.placed)
            where[:, scale] = True
            state = state.write(tokens, where)
            yield state

    def log_density(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity:
        """The sum over placed scales, and over what is completed."""
        known = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        log_q = x.new_zeros(len(x), dtype=spec.mean.dtype)
        for scale in self._placed(spec, budget):
            law = network(x, known).select(scale)
            log_q = log_q + law.log_prob(x[:, scale]).sum(1)
            known = known.clone()
            known[:, scale] = True
        if not bool(known.all()):
            rest = (~known[0]).nonzero()[:, 0].tolist()
            log_q = log_q + completion(x, known).select(rest).log_prob(x[:, rest]).sum(1)
        return LogDensity(values=log_q, method="chain rule over scales, completed by marginals")

    def suspects(self) -> tuple[Suspect, ...]:
        """Tokens of a scale, drawn independently."""
        return (
            Suspect(failure="wrong factorisation", cure="one token after another", probe=GPT()),
        )

    def _placed(self, spec: SequenceSpec, budget: Budget) -> Iterator[list[int]]:
        left = budget.length
        for scale in self.scales(spec):
            if len(scale) > left:
                return
            left -= len(scale)
            yield scale

    def _in_coefficients(self, spec: SequenceSpec) -> bool:
        whole = spec.kind == "continuous" and spec.places is None
        return self.pyramid == "haar" and whole and is_dyadic(*_sides(spec))


def _sides(spec: SequenceSpec) -> tuple[int, int]:
    return spec.grid or (1, spec.tokens)
