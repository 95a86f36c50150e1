"""Diffusion Forcing: every token has its own noise level, and a schedule says how levels fall.

Source: Chen et al. 2024, "Diffusion Forcing: Next-token Prediction Meets Full-Sequence Diffusion".
Signature: denoiser E[x_0 | x_t], shown all tokens at their levels (bidirectional) or, for token i,
those up to i (causal), and not told the next levels.
Assumption: the denoiser's answer does not change along a pass; if causal, noisy tokens to the right
tell nothing of a token.
Budgets: `length` lets the first l tokens take part; `steps` is k, the passes that each token takes.
Given tokens: at level 0 from the start; the schedule is that of the others.
Passes are DDIM, of which `eta` above 0 replaces a part of the noise by fresh noise, as in
`diffusion`; 1 is ancestral DDPM.
Schedules: K[m, i] = clip(k + floor(i u) - m, 0, k) with u = 0 (`full_sequence`), u = `uncertainty`
(`pyramid`) or u = k (`autoregressive`).
Known: a bidirectional network reaches the target along every schedule whose longest jump goes to 0,
KL being of order 2 in 1 / k. A causal one does only where earlier tokens are clean while a token
moves: on an AR(1) Gaussian of 4 tokens and correlation 0.9, KL stops at 0.58 nats for
`full_sequence` and for `pyramid` alike, as delays vanish beside k, and goes to 0 for
`autoregressive`. `full_sequence` sweeps; pyramids whose last token waits two passes or more, and
`autoregressive`, finish tokens first, so that length is outside.
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
    autoregressive,
    beside_given,
    denoised_along,
    full_sequence,
    pyramid,
    starting_noise,
    within,
)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class DiffusionForcing(Probe[Denoiser]):
    """Denoising passes over a schedule of levels per token."""

    family: ClassVar[str] = "diffusion_forcing"
    row: ClassVar[Row] = "steps_outer"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset(AXES)

    schedule: Annotated[
        Literal["full_sequence", "pyramid", "autoregressive"],
        Field(description="how levels fall from token to token"),
    ] = "full_sequence"
    uncertainty: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="u, passes from one token's start to the next one's in a pyramid",
        ),
    ] = 1.0
    causal: Annotated[bool, Field(description="whether token i sees the tokens up to i only")] = (
        False
    )
    eta: Annotated[
        float, Field(ge=0, le=1, description="share of fresh noise in a pass; 1 is ancestral DDPM")
    ] = 0.0
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> DenoiserSignature:
        """(x_t, t) -> E[x_0 | what token i sees of x_t], every token at its own level."""
        return DenoiserSignature(self.path, "causal" if self.causal else "all")

    def run(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """One state per row of the schedule matrix."""
        schedule = within(self._matrix(len(spec.free), budget.steps), budget.length)
        schedule = beside_given(schedule, spec)
        noise = starting_noise(spec, start.n, rng)
        yield from denoised_along(
            schedule,
            network,
            start=start,
            noise=noise,
            path=PATHS[self.path],
            eta=self.eta,
            rng=rng,
        )

    def suspects(self) -> tuple[Suspect, ...]:
        """A causal network, unless earlier tokens are clean while a token moves."""
        if not self.causal or self.schedule == "autoregressive":
            return ()
        seeing = dataclasses.replace(self, causal=False)
        return (
            Suspect(
                failure="missing argument", cure="later tokens shown to the network", probe=seeing
            ),
        )

    def limit(
        self, oracle: Denoiser, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """The probability flow of all tokens, since delays vanish beside k, or token by token.

        There is none with fresh noise.
        """
        in_turn = self.schedule == "autoregressive"
        if (self.causal and not in_turn) or self.eta > 0:
            return None
        corners = (autoregressive if in_turn else full_sequence)(len(spec.free), 1)
        corners = beside_given(corners, spec)
        noise = start.filled(starting_noise(spec, start.n, rng)).tokens
        return flow_along(corners, oracle, noise=noise, path=PATHS[self.path])

    def _matrix(self, tokens: int, steps: int) -> Tensor:
        """(rows, N) levels."""
        if self.schedule == "pyramid":
            return pyramid(tokens, steps, uncertainty=self.uncertainty)
        return (full_sequence if self.schedule == "full_sequence" else autoregressive)(
            tokens, steps
        )
