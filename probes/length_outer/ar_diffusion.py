"""AR-Diffusion: denoises all tokens at levels of their own; tokens further left finish earlier.

Source: Wu et al. 2023, "AR-Diffusion: Auto-Regressive Diffusion Model for Text Generation",
https://arxiv.org/abs/2305.09515
Signature: denoiser E[x_0 | x_t]. The network is shown all tokens at their levels, and is not told
the levels that they go to.
Assumption: the denoiser's answer does not change along a pass.
Budgets: `length` is the number l of tokens, from the left, that take part. `steps` is the number k
of passes that bring the first token to level 0, on levels that are multiples of 1/k.
Given tokens: at level 0 from the start; the schedule is that of the other tokens.
Schedules: `published` follows the line through two moving anchors (see
`capcheck.procedures.schedules`); `sequential` makes k passes for each token before the next token
starts.
KL: exact, by inversion of every pass.
Known: the published schedule does not converge as k grows. Once the first token is clean, N - 1
passes are left for the second half of the last token's noise, whatever k is, so that the longest
jump of a level tends to 1 / (N + 2) and not to 0. On an AR(1) Gaussian of correlation 0.9 and the
cosine path KL tends to 0.065, 0.040, 0.013, 0.0038 and 0.0010 nats per token for N = 2, 4, 8, 16
and 32, and on the linear path to half of that. The sequential schedule converges: KL is of order 2
in 1 / k.
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
from capcheck.procedures.schedules import anchors, autoregressive, beside_given, within

__all__ = ["ARDiffusion"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class ARDiffusion(Scheduled):
    """Denoises many tokens at a time, and finishes them from left to right."""

    family: ClassVar[str] = "ar_diffusion"
    row: ClassVar[Row] = "length_outer"

    schedule: Annotated[
        Literal["published", "sequential"], Field(description="rule for the levels of tokens")
    ] = "published"
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> DenoiserSignature:
        """The denoiser (x_t, t) -> E[x_0 | x_t], with a level for each token."""
        return DenoiserSignature(self.path)

    def levels(self, spec: SequenceSpec, budget: Budget) -> Tensor:
        """The levels of all tokens, (rows, N): 1 throughout for those past the length."""
        make = anchors if self.schedule == "published" else autoregressive
        schedule = within(make(len(spec.free), budget.steps), budget.length)
        return beside_given(schedule, spec)

    def suspects(self) -> tuple[Suspect, ...]:
        """The missing argument: the network is not told where steps land, which stay long."""
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
        """The probability flow of each token given those before it, if `sequential`, or None."""
        if self.schedule == "published":
            return None
        corners = beside_given(autoregressive(len(spec.free), 1), spec)
        noise = start.filled(starting_noise(spec, start.n, rng)).tokens
        return flow_along(corners, oracle, noise=noise, path=PATHS[self.path])
