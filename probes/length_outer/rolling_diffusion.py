"""Rolling Diffusion: a window of tokens at rising noise levels slides over the sequence.

Source: Ruhe et al. 2024, "Rolling Diffusion Models".
Signature: denoiser E[x_0 | x_t], shown the window and the `n_clean` clean tokens before it, and not
told the next levels.
Assumption: tokens before the clean context tell nothing of the window that the context and the
window itself do not; the denoiser's answer does not change along a pass.
Budgets: `length` lets the first l tokens take part; `steps` is k, the passes until the front token
of the window is clean and the window moves on (the first window is filled in k passes as well).
Levels: token w of W is at (w + t) / W, while t goes from 1 to 0; the window shrinks at the end.
Given tokens: the window holds W of the others. The network is shown given tokens at level 0 among
the `n_clean` places before the window and between its tokens; those further left are forgotten just
as drawn ones, and those beyond the window are not seen yet.
Known: on a target of Markov order m the law goes to the target if n_clean >= m; otherwise a floor
is left, although any n_clean + 1 neighbours get their exact law. A window of one token costs
sum_i I(x_i; x_{<i-n_clean} | x_{i-n_clean..i-1}). A wider one costs less, since its noisy tokens
carry some of what is forgotten: of 0.271 nats on a Gaussian chain of order 2 with 6 tokens and
n_clean = 1, 0.044, 0.012 and 0.0044 are left at W = 2, 3 and 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
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
    beside_given,
    denoised_along,
    rolling,
    starting_noise,
    within,
)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class RollingDiffusion(Probe[Denoiser]):
    """Denoising in a sliding window."""

    family: ClassVar[str] = "rolling_diffusion"
    row: ClassVar[Row] = "length_outer"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset(AXES)

    window: Annotated[int, Field(ge=1, description="tokens W that are noisy at a time")] = 4
    n_clean: Annotated[
        int | None,
        Field(
            ge=0, description="clean tokens before the window that are seen; N - 1 forget nothing"
        ),
    ] = 4
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> DenoiserSignature:
        """(x_t, t) -> E[x_0 | x_t], every token at its own level."""
        return DenoiserSignature(self.path)

    def run(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """One state per pass over the window."""
        schedule = rolling(len(spec.free), budget.steps, window=self.window)

        def remembering(x_t: Tensor, t: Tensor) -> Tensor:
            return network(x_t, self._seen(t, spec))

        yield from denoised_along(
            beside_given(within(schedule, budget.length), spec),
            remembering,
            start=start,
            noise=starting_noise(spec, start.n, rng),
            path=PATHS[self.path],
        )

    def suspects(self) -> tuple[Suspect, ...]:
        """What lies before the clean context, if anything may."""
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
        """The flow along the window's levels, if nothing is ever out of sight."""
        corners = beside_given(rolling(len(spec.free), self.window, window=self.window), spec)
        corners = corners.to(spec.mean)
        shown = corners[:-1]  # the last row is the result
        if not torch.equal(self._seen(shown, spec), shown):
            return None
        noise = start.filled(starting_noise(spec, start.n, rng)).tokens
        return flow_along(corners, oracle, noise=noise, path=PATHS[self.path])

    def _seen(self, t: Tensor, spec: SequenceSpec) -> Tensor:
        """Levels (n, N) at which tokens are shown.

        Those before the clean context are forgotten; given ones beyond the window are not seen yet.
        """
        place = torch.arange(spec.tokens, device=t.device)
        free = torch.tensor(spec.free, device=t.device)
        front = (t[:, free] == 0).sum(1).clamp(max=len(free) - 1)  # (n,) finished ones come first
        last = (front + self.window - 1).clamp(max=len(free) - 1)
        hidden = place > free[last][:, None]
        if self.n_clean is not None:
            hidden = hidden | (place < free[front][:, None] - self.n_clean)
        return torch.where(hidden, 1, t)
