"""AR-Diffusion: every token has its own noise level, and tokens further left finish earlier.

Source: Wu et al. 2023, "AR-Diffusion: Auto-Regressive Diffusion Model for Text Generation".
Signature: denoiser E[x_0 | x_t], shown all tokens at their levels, and not told the next levels.
Assumption: the denoiser's answer does not change along a pass.
Budgets: `length` lets the first l tokens take part; `steps` is k, the passes that bring the first
token to level 0, on levels that are multiples of 1/k.
Given tokens: at level 0 from the start; the schedule is that of the others.
Schedules: `published`, along the line through two moving anchors (see
`capcheck.procedures.schedules`); `sequential`, k passes for each token before the next one
starts.
Known: the published schedule does not converge as k grows. Once the first token is clean, N - 1
passes are left for the second half of the last token's noise, whatever k is: its longest jump goes
to 1 / (N + 2) and not to 0. On an AR(1) Gaussian of correlation 0.9 and the cosine path KL stops
at 0.065, 0.040, 0.013, 0.0038 and 0.0010 nats per token for N = 2, 4, 8, 16 and 32, on the linear
path at half of that. The sequential schedule converges, KL being of order 2 in 1 / k.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import AXES, Axis, Budget
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.networks.signatures import Denoiser, DenoiserSignature
from capcheck.noise.flow import flow_along
from capcheck.noise.paths import PATHS, PathName
from capcheck.procedures.probe import OPTIONS, Probe, Row, State, Suspect
from capcheck.procedures.schedules import (
    anchors,
    autoregressive,
    beside_given,
    denoised_along,
    starting_noise,
    within,
)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class ARDiffusion(Probe[Denoiser]):
    """Denoising from left to right, many tokens at a time."""

    family: ClassVar[str] = "ar_diffusion"
    row: ClassVar[Row] = "length_outer"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset(AXES)

    schedule: Annotated[
        Literal["published", "sequential"], Field(description="how levels fall from left to right")
    ] = "published"
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> DenoiserSignature:
        """(x_t, t) -> E[x_0 | x_t], every token at its own level."""
        return DenoiserSignature(self.path)

    def run(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """One state per pass over the first tokens."""
        make = anchors if self.schedule == "published" else autoregressive
        schedule = within(make(len(spec.free), budget.steps), budget.length)
        schedule = beside_given(schedule, spec)
        noise = starting_noise(spec, start.n, rng)
        yield from denoised_along(
            schedule, network, start=start, noise=noise, path=PATHS[self.path]
        )

    def suspects(self) -> tuple[Suspect, ...]:
        """Steps that stay long however large k is, with no word of where they land."""
        if self.schedule == "sequential":
            return ()
        in_turn = dataclasses.replace(self, schedule="sequential")
        return (
            Suspect(
                failure="missing argument",
                cure="one token after another, in steps that shrink as their number grows",
                probe=in_turn,
            ),
        )

    def limit(
        self, oracle: Denoiser, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """Of the sequential schedule: each token's probability flow given the ones before it."""
        if self.schedule == "published":
            return None
        corners = beside_given(autoregressive(len(spec.free), 1), spec)
        noise = start.filled(starting_noise(spec, start.n, rng)).tokens
        return flow_along(corners, oracle, noise=noise, path=PATHS[self.path])
