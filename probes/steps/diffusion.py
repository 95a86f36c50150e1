"""Diffusion: the whole sequence at once, from noise to data in k deterministic steps.

Source: Song, Meng & Ermon 2021 (DDIM); Karras et al. 2022, algorithm 1 (Heun).
Signature: denoiser E[x_0 | x_t], told the level t of its input and not the next level s.
Assumption: the denoiser's answer does not change along a step; true only of infinitely many.
Budgets: `steps` is k, on levels uniform in t; `length` is ignored.
DDIM from t to s: x_s = alpha_s x0 + (sigma_s / sigma_t) (x_t - alpha_t x0).
Heun: the trapezoid of dx/dt = alpha' x0 + sigma' e with e = (x - alpha x0) / sigma; its last step
is DDIM, so k steps make 2k - 1 calls.
Known: on N(0, v) one DDIM step multiplies by (alpha_s alpha_t v + sigma_s sigma_t) / (alpha_t^2 v +
sigma_t^2); one step from pure noise returns the mean; DDIM is of order 1 and Heun of order 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.budget import Budget
from capcheck.flow import ddim_step, probability_flow, velocity
from capcheck.paths import PATHS, PathName
from capcheck.probe import OPTIONS, Probe, Row, State, Unavailable
from capcheck.randomness import Randomness
from capcheck.sequences import Kind, SequenceSpec
from capcheck.signatures import Denoiser, DenoiserSignature, TokenPredictor


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Diffusion(Probe[Denoiser]):
    """Probability-flow sampling with a denoiser."""

    family: ClassVar[str] = "diffusion"
    row: ClassVar[Row] = "steps"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})

    solver: Annotated[Literal["ddim", "heun"], Field(description="rule that makes one step")] = (
        "ddim"
    )
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> DenoiserSignature:
        """(x_t, t) -> E[x_0 | x_t]."""
        return DenoiserSignature(self.path)

    def run(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget, n: int, rng: Randomness
    ) -> Iterator[State]:
        """K steps from t = 1 to t = 0; every one writes all tokens."""
        state = State.start(self._noise(spec, n, rng))
        yield state
        levels = torch.linspace(
            1, 0, budget.steps + 1, dtype=spec.mean.dtype, device=spec.mean.device
        )
        step = self._ddim if self.solver == "ddim" else self._heun
        for t, s in itertools.pairwise(levels):
            state = state.write(step(network, state.tokens, t, s))
            yield state

    def log_density(
        self,
        network: Denoiser,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> Unavailable:
        """Not to be had: the k-step map would have to be inverted."""
        return Unavailable(
            reason="the result is a deterministic map of the starting noise, "
            "and the density of its image needs the map's inverse"
        )

    def limit(self, oracle: Denoiser, spec: SequenceSpec, n: int, rng: Randomness) -> Tensor | None:
        """The probability flow from the same noise."""
        return probability_flow(oracle, self._noise(spec, n, rng), PATHS[self.path])

    def _noise(self, spec: SequenceSpec, n: int, rng: Randomness) -> Tensor:
        return rng.normal((n, spec.tokens, spec.dim)).to(spec.mean)

    def _ddim(self, network: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        x0 = network(x_t, t.expand(x_t.shape[:2]))
        return ddim_step(x_t, x0, t, s, PATHS[self.path])

    def _heun(self, network: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if s == 0:
            return self._ddim(network, x_t, t, s)
        slope_t = self._slope(network, x_t, t)
        slope_s = self._slope(network, x_t + (s - t) * slope_t, s)
        return x_t + 0.5 * (s - t) * (slope_t + slope_s)

    def _slope(self, network: Denoiser, x: Tensor, t: Tensor) -> Tensor:
        return velocity(x, network(x, t.expand(x.shape[:2])), t, PATHS[self.path])
