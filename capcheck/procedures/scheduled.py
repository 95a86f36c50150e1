"""A scheduled procedure denoises tokens along a schedule of levels, each token at its own.

A family of this kind only says at which levels its tokens are in each pass, and at which of them
the network is shown the tokens; see `schedules` and `denoising`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from capcheck.core.budget import AXES, Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.inversion import DERIVATIVES
from capcheck.networks.signatures import Denoiser, DenoiserSignature, TokenPredictor
from capcheck.noise.paths import PATHS
from capcheck.procedures.denoising import denoised_along, density_along_schedule, starting_noise
from capcheck.procedures.probe import Probe, State

__all__ = ["Scheduled"]


@dataclass(frozen=True, kw_only=True)
class Scheduled(Probe[Denoiser]):
    """A procedure whose passes are DDIM steps along a schedule of levels."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset(AXES)

    @property
    @abstractmethod
    def signature(self) -> DenoiserSignature:
        """The denoiser (x_t, t) -> E[x_0 | x_t], with a level for each token."""

    @abstractmethod
    def levels(self, spec: SequenceSpec, budget: Budget) -> Tensor:
        """The levels of all tokens before and after every pass, (rows, N).

        Args:
            spec: Specification of the sequences; tokens `spec.given` are at level 0 throughout.
            budget: Largest number of tokens that leave level 1, and the number of steps.
        """

    def shown(self, t: Tensor, spec: SequenceSpec) -> Tensor:
        """The levels at which tokens at levels t are shown to the network, both (n, N)."""
        return t

    def fresh_noise(self) -> float:
        """The share eta of fresh noise in a pass, in [0, 1]."""
        return 0.0

    def run(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Yields the start, then one state per pass along the schedule."""

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return network(x_t, self.shown(t, spec))

        yield from denoised_along(
            self.levels(spec, budget),
            denoise,
            start=start,
            noise=starting_noise(spec, start.n, rng),
            path=PATHS[self.signature.path],
            eta=self.fresh_noise(),
            rng=rng,
        )

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """One for each pass along the schedule."""
        return len(self.levels(spec, budget)) - 1

    def log_density(
        self,
        network: Denoiser,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """Exact, by inversion of every pass, unless passes draw fresh noise."""
        if self.fresh_noise() > 0:
            return Unavailable(
                reason="the last pass adds no noise, and given all noise before it the result is "
                "a point mass"
            )
        return density_along_schedule(
            self.levels(spec, budget),
            network,
            completion,
            x=x,
            path=PATHS[self.signature.path],
            shown=lambda t: self.shown(t, spec),
        )

    def derivatives(self, spec: SequenceSpec, budget: Budget) -> float:
        """Some for every pass that is inverted."""
        return DERIVATIVES * len(self.levels(spec, budget))
