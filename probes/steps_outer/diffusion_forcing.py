"""Diffusion Forcing: denoises tokens at levels of their own, which fall along a chosen schedule.

Source: Chen et al. 2024, "Diffusion Forcing: Next-token Prediction Meets Full-Sequence Diffusion",
https://arxiv.org/abs/2407.01392
Signature: denoiser E[x_0 | x_t]. The network is shown all tokens at their levels (bidirectional)
or, for token i, the tokens up to i (causal). It is not told the levels that the tokens go to.
Assumption: the denoiser's answer does not change along a pass; with a causal network, noisy tokens
to the right carry no information on a token.
Budgets: `length` is the number l of tokens, from the left, that take part. `steps` is the number k
of passes that each token takes.
Given tokens: at level 0 from the start; the schedule is that of the other tokens.
Passes: a pass is a DDIM step. An `eta` above 0 replaces a part of the noise by fresh noise, as in
`diffusion`, and `eta` = 1 is ancestral DDPM.
Schedules: K[m, i] = clip(k + floor(i u) - m, 0, k) with u = 0 (`full_sequence`), u = `uncertainty`
(`pyramid`) or u = k (`autoregressive`); the level of token i after m passes is K[m, i] / k.
KL: exact, by inversion of every pass; with `eta` bounded from below by the draws.
Known: a bidirectional network converges to the target along every schedule whose longest jump tends
to 0, with KL of order 2 in 1 / k. A causal network converges only if earlier tokens are clean while
a token moves: on an AR(1) Gaussian of 4 tokens and correlation 0.9, KL tends to 0.58 nats both for
`full_sequence` and for `pyramid`, since the delays of a pyramid vanish beside k, and to 0 for
`autoregressive`. The loop over steps is outside for `full_sequence`. The loop over the length is
outside for `autoregressive` and for pyramids whose last token waits two passes or more, since these
finish tokens one after another.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.networks.signatures import Denoiser, DenoiserSignature
from capcheck.noise.flow import flow_along
from capcheck.noise.paths import PATHS, PathName
from capcheck.procedures.denoising import starting_noise
from capcheck.procedures.probe import OPTIONS, State, Suspect
from capcheck.procedures.rows import Row
from capcheck.procedures.scheduled import Scheduled
from capcheck.procedures.schedules import (
    autoregressive,
    beside_given,
    full_sequence,
    pyramid,
    within,
)

__all__ = ["DiffusionForcing"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class DiffusionForcing(Scheduled):
    """Denoises all tokens in passes along a schedule of levels for each token."""

    family: ClassVar[str] = "diffusion_forcing"
    row: ClassVar[Row] = "steps_outer"

    schedule: Annotated[
        Literal["full_sequence", "pyramid", "autoregressive"],
        Field(description="rule for the levels of tokens"),
    ] = "full_sequence"
    uncertainty: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="u, number of passes between the starts of two tokens in a pyramid",
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
        """The denoiser (x_t, t) -> E[x_0 | tokens that token i sees], with a level for each."""
        return DenoiserSignature(self.path, "causal" if self.causal else "all")

    def fresh_noise(self) -> float:
        """The share `eta`."""
        return self.eta

    def levels(self, spec: SequenceSpec, budget: Budget) -> Tensor:
        """The levels of all tokens, (rows, N): 1 throughout for those past the length."""
        schedule = within(self._matrix(len(spec.free), budget.steps), budget.length)
        return beside_given(schedule, spec)

    def suspects(self) -> tuple[Suspect, ...]:
        """The causal network, unless earlier tokens are clean while a token moves."""
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
        """The probability flow from the same noise, or None with fresh noise or a causal network.

        The flow is that of all tokens together, since the delays of a pyramid vanish beside k; for
        `autoregressive` it is that of one token after another.
        """
        in_turn = self.schedule == "autoregressive"
        if (self.causal and not in_turn) or self.eta > 0:
            return None
        corners = (autoregressive if in_turn else full_sequence)(len(spec.free), 1)
        corners = beside_given(corners, spec)
        noise = start.filled(starting_noise(spec, start.n, rng)).tokens
        return flow_along(corners, oracle, noise=noise, path=PATHS[self.path])

    def _matrix(self, tokens: int, steps: int) -> Tensor:
        """The levels of the schedule, (rows, N)."""
        if self.schedule == "pyramid":
            return pyramid(tokens, steps, uncertainty=self.uncertainty)
        return (full_sequence if self.schedule == "full_sequence" else autoregressive)(
            tokens, steps
        )
