"""Flow map: carries the whole sequence from noise to data in k calls that are told where to land.

Source: Boffi, Albergo & Vanden-Eijnden 2024, "Flow Map Matching", https://arxiv.org/abs/2406.07507;
Kim et al. 2024, "Consistency Trajectory Models", https://arxiv.org/abs/2310.02279
Signature: flow map (x_t, t, s) -> x_s along the probability flow. All tokens share one level t,
except given tokens, which are shown at level 0.
Assumption: none; the flow carries N(0, I) exactly to the law of the data given the given tokens.
Budgets: `steps` is the number k of calls, on levels uniform in t; `length` is ignored.
KL: that of the probability flow, which carries noise to the target.
Known: every number of steps is exact, one included, because the map from t to s followed by the map
from s to 0 is the map from t to 0. On N(0, v) the map from t to s multiplies by
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
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.networks.signatures import ExactFlow, FlowMap, FlowMapSignature, TokenPredictor
from capcheck.noise.paths import PathName
from capcheck.procedures.denoising import starting_noise
from capcheck.procedures.probe import OPTIONS, Probe, State
from capcheck.procedures.rows import Row

__all__ = ["FlowMapSampler"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class FlowMapSampler(Probe[FlowMap]):
    """Carries noise to data in steps of a flow map that is told where to land."""

    family: ClassVar[str] = "flow_map"
    row: ClassVar[Row] = "steps"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    rotates: ClassVar[bool] = True

    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> FlowMapSignature:
        """The flow map (x_t, t, s) -> x_s."""
        return FlowMapSignature(self.path)

    def run(
        self, network: FlowMap, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Yield the start, then one state per step; a step writes all tokens not given."""
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
    ) -> LogDensity | Unavailable:
        """That of the probability flow with the oracle; a network's map would have to be inverted.

        The oracle's steps are parts of one flow, so that the law is the same at every budget.
        """
        if isinstance(network, ExactFlow):
            return network.log_density(x, spec)
        return Unavailable(
            reason="the result is a deterministic map of the starting noise, "
            "and the density of its image needs the map's inverse"
        )

    def limit(self, oracle: FlowMap, spec: SequenceSpec, start: State, rng: Randomness) -> Tensor:
        """The end of the probability flow from the same noise, by one call of the oracle."""
        noise = start.filled(starting_noise(spec, start.n, rng)).tokens
        levels = (~start.placed).to(noise)
        return oracle(noise, levels, torch.zeros_like(levels))
