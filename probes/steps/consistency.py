"""Consistency: a function that ends the probability flow in one call, applied k times.

Source: Song, Dhariwal, Chen & Sutskever 2023, "Consistency Models", algorithm 1.
Signature: consistency function (x_t, t) -> x_0; all tokens share a level but the given ones, which
are shown at level 0.
Assumption: the function is that of the flow; one distilled from m = `solver_steps` DDIM steps is
that of those steps instead.
Budgets: `steps` is k calls, at levels 1, (k-1)/k, .., 1/k; `length` is ignored. `times` lists the
levels after the first call; that many calls and one more take them as they are, other numbers
interpolate between 1, these and 0.
From noise x = f(e, 1); then again and again x = f(alpha_t x + sigma_t e, t) with fresh noise e.
The map of m steps goes from t to the next level j/m below it, and then along these.
Known: the exact function is exact at every k, and one call is that of `flow_map`. At k = 1 a
distilled one is m steps of DDIM, so that m = 1 returns the mean; on N(0, v) more calls are a
recursion of variances, F_t^2 (alpha_t^2 V + sigma_t^2) with F_t the product of the DDIM factors
from t on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.networks.signatures import ConsistencyFunction, ConsistencySignature, TokenPredictor
from capcheck.noise.paths import PATHS, PathName
from capcheck.procedures.probe import OPTIONS, Probe, Row, State, Suspect
from capcheck.procedures.schedules import InnerLevels, resampled, starting_noise


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Consistency(Probe[ConsistencyFunction]):
    """Multistep consistency sampling."""

    family: ClassVar[str] = "consistency"
    row: ClassVar[Row] = "steps"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    near_oracle: ClassVar[bool] = True

    solver_steps: Annotated[
        Annotated[int, Field(ge=1)] | Literal["exact"],
        Field(description="DDIM steps over [0, 1] whose map the network learned, or `exact`"),
    ] = 2
    times: Annotated[
        InnerLevels | None,
        Field(description="falling levels, below 1, at which noise is added again, as in 0.7/0.3"),
    ] = None
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> ConsistencySignature:
        """(x_t, t) -> x_0."""
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
        """K calls, with noise added again between them; every one writes all but given tokens."""
        path = PATHS[self.path]
        state = start.filled(starting_noise(spec, start.n, rng))
        yield state
        whole = (1.0, *(self.times or ()), 0.0)
        for j, t in enumerate(spec.mean.new_tensor(resampled(whole, budget.steps)[:-1])):
            x_t = state.tokens
            if j > 0:
                noise = starting_noise(spec, start.n, rng)
                noisy = path.alpha(t) * x_t + path.sigma(t) * noise
                x_t = torch.where(start.placed[..., None], x_t, noisy)
            x_0 = network(x_t, torch.where(start.placed, 0, t))
            state = state.write(x_0, ~start.placed)
            yield state

    def suspects(self) -> tuple[Suspect, ...]:
        """The few steps that the network was distilled from."""
        if self.solver_steps == "exact":
            return ()
        exact = dataclasses.replace(self, solver_steps="exact")
        cure = "the exact map of the flow for the network"
        return (Suspect(failure="limited emission", cure=cure, probe=exact),)

    def limit(
        self, oracle: ConsistencyFunction, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """Of the exact function its first call, whose law is the target's already."""
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
    ) -> Unavailable:
        """Not to be had: the last call's map would have to be inverted."""
        return Unavailable(
            reason="the result is a deterministic map of noisy tokens, "
            "and the density of its image needs the map's inverse"
        )
