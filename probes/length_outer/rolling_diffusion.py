"""Rolling Diffusion: a window of tokens at rising noise levels slides over the sequence.

Source: Ruhe et al. 2024, "Rolling Diffusion Models", https://arxiv.org/abs/2402.09470
Signature: denoiser E[x_0 | x_t]. The network is shown the window and the `n_clean` clean tokens
before it, and is not told the levels that the tokens go to.
Assumption: given the clean context and the window, the tokens before the context carry no
information on the window; the denoiser's answer does not change along a pass.
Budgets: `length` is the number l of tokens, from the left, that take part. `steps` is the number k
of passes until the front token of the window is clean and the window moves on; the first window is
filled in k passes as well.
Levels: token w of a window of W tokens is at (w + t) / W, while t goes from 1 to 0. The window
shrinks at the end of the sequence.
Given tokens: the window holds W of the other tokens. Given tokens are shown at level 0 if they are
among the `n_clean` places before the window or between its tokens. Those further left are forgotten
just as drawn tokens are, and those beyond the window are not seen yet.
KL: exact, by inversion of every pass.
Known: on a target of Markov order m the law converges to the target if n_clean >= m. Otherwise a
floor is left, although any n_clean + 1 neighbours get their exact law. A window of one token costs
sum_i I(x_i; x_{<i-n_clean} | x_{i-n_clean..i-1}). A wider window costs less, since its noisy tokens
carry some of the forgotten information: of 0.271 nats on a Gaussian chain of order 2 with 6 tokens
and n_clean = 1, 0.044, 0.012 and 0.0044 nats are left at W = 2, 3 and 4.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import torch
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
from capcheck.procedures.schedules import beside_given, rolling, within

__all__ = ["RollingDiffusion"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class RollingDiffusion(Scheduled):
    """Denoises the tokens of a sliding window, behind a context of clean tokens."""

    family: ClassVar[str] = "rolling_diffusion"
    row: ClassVar[Row] = "length_outer"

    window: Annotated[int, Field(ge=1, description="number of tokens W of the window")] = 4
    n_clean: Annotated[
        int | None,
        Field(
            ge=0, description="clean tokens seen before the window; with N - 1 none is forgotten"
        ),
    ] = 4
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> DenoiserSignature:
        """The denoiser (x_t, t) -> E[x_0 | x_t], with a level for each token."""
        return DenoiserSignature(self.path)

    def levels(self, spec: SequenceSpec, budget: Budget) -> Tensor:
        """The levels of all tokens, (rows, N): 1 throughout for those past the length."""
        schedule = rolling(len(spec.free), budget.steps, window=self.window)
        return beside_given(within(schedule, budget.length), spec)

    def suspects(self) -> tuple[Suspect, ...]:
        """The limited context, unless it holds all clean tokens."""
        if self.n_clean is None:
            return ()
        remembering = dataclasses.replace(self, n_clean=None)
        return (
            Suspect(
                failure="limited emission",
                cure="all clean tokens in the context",
                probe=remembering,
            ),
        )

    def limit(
        self, oracle: Denoiser, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """The flow along the window's levels, or None if a token is ever hidden."""
        corners = beside_given(rolling(len(spec.free), self.window, window=self.window), spec)
        corners = corners.to(spec.mean)
        shown = corners[:-1]  # the last row is the result
        if not torch.equal(self.shown(shown, spec), shown):
            return None
        noise = start.filled(starting_noise(spec, start.n, rng)).tokens
        return flow_along(corners, oracle, noise=noise, path=PATHS[self.path])

    def shown(self, t: Tensor, spec: SequenceSpec) -> Tensor:
        """The levels at which tokens are shown to the network, (n, N).

        Tokens before the clean context are forgotten, and given tokens beyond the window are not
        seen yet: both are shown at level 1.
        """
        place = torch.arange(spec.tokens, device=t.device)
        free = torch.tensor(spec.free, device=t.device)
        front = (t[:, free] == 0).sum(1).clamp(max=len(free) - 1)  # (n,) finished ones come first
        last = (front + self.window - 1).clamp(max=len(free) - 1)
        hidden = place > free[last][:, None]
        if self.n_clean is not None:
            hidden = hidden | (place < free[front][:, None] - self.n_clean)
        return torch.where(hidden, 1, t)
