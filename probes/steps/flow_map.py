"""Flow map: the whole sequence at once, in k steps of a network that is told where to land.

Source: Boffi, Albergo & Vanden-Eijnden 2024, "Flow Map Matching"; Kim et al. 2024, "Consistency
Trajectory Models".
Signature: flow map (x_t, t, s) -> x_s along the probability flow; all tokens share a level but the
given ones, which are shown at level 0.
Assumption: none; the flow carries N(0, I) to the law of the data, given those tokens, exactly.
Budgets: `steps` is k, on levels uniform in t; `length` is ignored.
Known: one step is exact, and so is every other number of them: the map from t to s followed by that
from s to 0 is the map from t to 0. On N(0, v) it multiplies by
sqrt((alpha_s^2 v + sigma_s^2) / (alpha_t^2 v + sigma_t^2)).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.networks.signatures import FlowMap, FlowMapSignature, TokenPredictor
from capcheck.noise.paths import PathName
from capcheck.procedures.probe import OPTIONS, Probe, Row, State
from capcheck.procedures.schedules import starting_noise


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class FlowMapSampler(Probe[FlowMap]):
    """Sampling with a flow map."""

    family: ClassVar[str] = "flow_map"
    row: ClassVar[Row] = "steps"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})

    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> FlowMapSignature:
        """(x_t, t, s) -> x_s."""
        return FlowMapSignature(self.path)

    def run(
        self, network: FlowMap, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """K steps from t = 1 to t = 0; every one writes all tokens that are not given."""
        state = start.filled(starting_noise(spec, start.n, rng))
        yield state
        levels = torch.linspace(1, 0, budget.steps + 1, device=spec.mean.device)
        for t, s in itertools.pairwise(levels.to(state.tokens)):
            shown, landing = (torch.where(start.placed, 0, level) for level in (t, s))
            state = state.write(network(state.tokens, shown, landing), ~start.placed)
            yield state

    def log_density(
        self,
        network: FlowMap,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> Unavailable:
        """Not to be had: the map would have to be inverted."""
        return Unavailable(
            reason="the result is a deterministic map of the starting noise, "
            "and the density of its image needs the map's inverse"
        )

    def limit(self, oracle: FlowMap, spec: SequenceSpec, start: State, rng: Randomness) -> Tensor:
        """The whole flow from the same noise, in one call."""
        noise = start.filled(starting_noise(spec, start.n, rng)).tokens
        levels = (~start.placed).to(noise)
        return oracle(noise, levels, torch.zeros_like(levels))
