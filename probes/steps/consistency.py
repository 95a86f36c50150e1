"""Consistency: a function that ends the probability flow in one call, applied k times.

Source: Song, Dhariwal, Chen & Sutskever 2023, "Consistency Models", algorithm 1,
https://arxiv.org/abs/2303.01469
Signature: consistency function (x_t, t) -> x_0. All tokens share one level t, except given tokens,
which are shown at level 0.
Assumption: the function is the exact map of the flow. A function distilled from m = `solver_steps`
DDIM steps is the map of these m steps instead.
Budgets: `steps` is the number k of calls, at levels 1, (k-1)/k, .., 1/k; `length` is ignored. An
option `times` lists the levels after the first call. It is used as it is if k - 1 levels are
listed; other numbers of calls interpolate between 1, the listed levels and 0.
Procedure: from noise e the first call is x = f(e, 1), and every further call is
x = f(alpha_t x + sigma_t e, t) with fresh noise e.
Distillation: the map of m steps goes from t to the next level j/m below t, and then along these
levels to 0.
KL: with the exact map that of the flow, which is 0. With the map of DDIM steps exact at k = 1, by
inversion of every step, and bounded from above at more calls. With any other network bounded from
below by the draws.
Known: the exact function is exact at every k, and its first call is that of `flow_map`. At k = 1 a
distilled function is m steps of DDIM, so that m = 1 returns the mean. On N(0, v) more calls follow
a recursion of the variance, V -> F_t^2 (alpha_t^2 V + sigma_t^2), with F_t the product of the DDIM
factors from t to 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.inversion import DERIVATIVES
from capcheck.networks.signatures import (
    ConsistencyFunction,
    ConsistencySignature,
    DistilledFlow,
    ExactFlow,
    TokenPredictor,
)
from capcheck.noise.paths import PATHS, PathName
from capcheck.procedures.denoising import starting_noise
from capcheck.procedures.levels import InnerLevels, resampled
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.renoising import density_of_calls
from capcheck.procedures.rows import Row

__all__ = ["Consistency"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Consistency(Probe[ConsistencyFunction]):
    """Maps noise to data in one call, and adds noise again between further calls."""

    family: ClassVar[str] = "consistency"
    row: ClassVar[Row] = "steps"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    rotates: ClassVar[bool] = True
    near_oracle: ClassVar[bool] = True

    solver_steps: Annotated[
        Annotated[int, Field(ge=1, le=10_000)] | Literal["exact"],
        Field(description="DDIM steps over [0, 1] that the network was distilled from, or `exact`"),
    ] = 2
    times: Annotated[
        InnerLevels | None,
        Field(description="falling levels, below 1, at which noise is added again, as in 0.7/0.3"),
    ] = None
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> ConsistencySignature:
        """The consistency function (x_t, t) -> x_0."""
        m = self.solver_steps
        return ConsistencySignature(self.path, solver_steps=None if m == "exact" else m)

    def run(
        self,
        network: ConsistencyFunction,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Yield the start, then one state per call; a call writes all tokens not given."""
        path = PATHS[self.path]
        state = start.filled(starting_noise(spec, start.n, rng))
        yield state
        for j, t in enumerate(spec.mean.new_tensor(self._levels(budget.steps))):
            x_t = state.tokens
            if j > 0:
                noise = starting_noise(spec, start.n, rng)
                noisy = path.alpha(t) * x_t + path.sigma(t) * noise
                x_t = torch.where(start.placed[..., None], x_t, noisy)
            x_0 = network(x_t, torch.where(start.placed, 0, t))
            state = state.write(x_0, ~start.placed)
            yield state

    def suspects(self) -> tuple[Suspect, ...]:
        """The few DDIM steps that the network was distilled from."""
        if self.solver_steps == "exact":
            return ()
        exact = dataclasses.replace(self, solver_steps="exact")
        cure = "the exact map of the flow for the network"
        return (Suspect(failure="limited emission", cure=cure, probe=exact),)

    def limit(
        self, oracle: ConsistencyFunction, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """The first call of the exact function, whose law is the target's, or None."""
        if self.solver_steps != "exact":
            return None
        noise = start.filled(starting_noise(spec, start.n, rng)).tokens
        return oracle(noise, (~start.placed).to(noise))

    def log_density(
        self,
        network: ConsistencyFunction,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """That of the probability flow with the exact map; by inversion with that of DDIM steps.

        A call of the exact map on tokens of the target with new noise returns tokens of the target,
        so that the law is the same at every budget.
        """
        if isinstance(network, ExactFlow):
            return network.log_density(x, spec)
        if isinstance(network, DistilledFlow):
            return density_of_calls(network, self._levels(budget.steps), spec, x, rng)
        return Unavailable(
            reason="the result is a deterministic map of noisy tokens, "
            "and the density of its image needs the map's inverse"
        )

    def derivatives(self, spec: SequenceSpec, budget: Budget) -> float:
        """Some for every DDIM step that is inverted."""
        if self.solver_steps == "exact":
            return 0.0
        steps = (math.ceil(t * self.solver_steps) for t in self._levels(budget.steps))
        return DERIVATIVES * sum(steps)

    def _levels(self, calls: int) -> list[float]:
        """The level that each call starts from."""
        return resampled((1.0, *(self.times or ()), 0.0), calls)[:-1]
