"""Flow maps: carry noisy tokens along the probability flow in one call.

A flow map is told the level s to land at, (x_t, t, s) -> x_s, and a consistency function lands at
the clean end, (x_t, t) -> x_0. Their oracle is the exact map of the probability flow; the oracle of
a consistency function may instead be the map of a few DDIM steps, as a short distillation gives.

In one call all tokens share a level, except tokens at level 0. These are known and stay unchanged,
and the flow is that of the other tokens' law given them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.log_density import LogDensity
from capcheck.core.sequences import SequenceSpec
from capcheck.networks.signatures.denoiser import require_continuous
from capcheck.networks.signatures.signature import Signature, require_like
from capcheck.noise.flow import ddim_step
from capcheck.noise.flow_map import flow_map, gaussian_flow_map
from capcheck.noise.paths import PATHS, PathName
from capcheck.targets.conditional import log_prob_of
from capcheck.targets.target import ContinuousTarget, Target

__all__ = [
    "ConsistencyFunction",
    "ConsistencySignature",
    "DistilledFlow",
    "ExactFlow",
    "FlowMap",
    "FlowMapSignature",
]


class FlowMap(Protocol):
    """Noisy tokens, their level t and another level s -> the tokens at level s."""

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor, /) -> Tensor:
        """Carry tokens along the probability flow from level t to level s.

        Args:
            x_t: Noisy tokens alpha(t) x_0 + sigma(t) e, (n, N, d).
            t: Levels of the tokens, (n, N): one level in (0, 1], and 0 for known tokens.
            s: Levels to land at, (n, N): one level in [0, t], and 0 for known tokens.

        Returns:
            The tokens x_s, (n, N, d).
        """


class ConsistencyFunction(Protocol):
    """Noisy tokens and their level -> clean tokens."""

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Tensor:
        """Carry tokens along the probability flow from level t to level 0.

        Args:
            x_t: Noisy tokens alpha(t) x_0 + sigma(t) e, (n, N, d).
            t: Levels of the tokens, (n, N): one level in (0, 1], and 0 for known tokens.

        Returns:
            The clean tokens x_0, (n, N, d).
        """


@dataclass(frozen=True, eq=False)
class ExactFlow:
    """The exact map of a target's probability flow: a flow map, and a consistency function.

    Attributes:
        target: Law that the flow carries noise to.
        path: Name of the noise path.
    """

    target: ContinuousTarget
    path: PathName

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, /) -> Tensor:
        """The tokens at level s, or at level 0 if none is given, (n, N, d); see `FlowMap`."""
        level, clean = _shared(t)
        to = 0.0 if s is None else float(s.max())
        if s is not None and not bool((s == torch.where(clean, 0, s.max())).all()):
            raise InputError(
                "levels to land at must be the same for all tokens but those at level 0, got "
                f"{float(s.min()):g} to {to:g}; call it once for each level."
            )
        return self._carry(x_t, level, to, clean)

    @functools.cached_property
    def _carry(self) -> Callable[[Tensor, float, float, Tensor], Tensor]:
        return _exact(self.target, self.path)

    def log_density(self, x: Tensor, spec: SequenceSpec) -> LogDensity:
        """Log-density (nats) of what the flow carries noise to, given the tokens `spec.given`.

        It is that of the target, whose noisy laws the flow joins. The numerical map differs from
        the flow by the error of its integration.
        """
        values = self.target.log_prob(x)
        if given := list(spec.given):
            values = values - log_prob_of(self.target, given, x[:, given])
        return LogDensity(values=values, method="the probability flow carries noise to the target")


@dataclass(frozen=True, eq=False)
class DistilledFlow:
    """The consistency function that a few DDIM steps of a target's denoiser make.

    Attributes:
        target: Law that the denoiser knows.
        path: Name of the noise path.
        steps: Number m of steps over [0, 1].
    """

    target: ContinuousTarget
    path: PathName
    steps: int

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Tensor:
        """The clean tokens, (n, N, d); see `ConsistencyFunction`."""
        (level, clean), x, path = _shared(t), x_t, PATHS[self.path]
        for u, s in itertools.pairwise(self.levels(level)):
            here = torch.where(clean, 0, t.new_tensor(u)).expand(t.shape)
            x0 = self.target.denoise(x, here, path)
            x_s = ddim_step(x, x0, t.new_tensor(u), t.new_tensor(s), path)
            x = torch.where(clean[:, None], x_t, x_s)
        return x

    def levels(self, level: float) -> list[float]:
        """The levels from which and to which the steps go, from `level` to 0."""
        # The epsilon makes up for rounding of levels that lie on the grid.
        below = range(math.ceil(level * self.steps - 1e-6) - 1, -1, -1)
        return [level, *(j / self.steps for j in below)]


@dataclass(frozen=True)
class FlowMapSignature(Signature[FlowMap]):
    """(x_t, t, s) -> x_s along the probability flow of a noise path.

    Attributes:
        path: Noise path that the network was trained on.
    """

    noisy: ClassVar[bool] = True
    path: PathName

    def oracle(self, target: Target) -> FlowMap:
        """The exact map of the target's probability flow."""
        return ExactFlow(require_continuous(target, "a flow map"), self.path)

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a tensor of the tokens' shape."""
        require_like(answer, shown, "the tokens at level s")


@dataclass(frozen=True)
class ConsistencySignature(Signature[ConsistencyFunction]):
    """(x_t, t) -> x_0 along the probability flow of a noise path.

    Attributes:
        path: Noise path that the network was trained on.
        solver_steps: Number of DDIM steps over [0, 1] that the network was distilled from, or None
            for the exact map. The map of these steps goes from t to the next level of their uniform
            grid below t, and then along the grid.
    """

    noisy: ClassVar[bool] = True
    path: PathName
    solver_steps: int | None = None

    def oracle(self, target: Target) -> ConsistencyFunction:
        """The exact map of the target's probability flow, or the map of the DDIM steps."""
        continuous = require_continuous(target, "a consistency function")
        if self.solver_steps is None:
            return ExactFlow(continuous, self.path)
        return DistilledFlow(continuous, self.path, self.solver_steps)

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a tensor of the tokens' shape."""
        require_like(answer, shown, "the clean tokens")


def _exact(
    target: ContinuousTarget, name: PathName
) -> Callable[[Tensor, float, float, Tensor], Tensor]:
    """The exact map (x_t, t, s, clean tokens (N,) bool) -> x_s of a target's probability flow.

    The map is a matrix if the target is one Gaussian, and is integrated numerically otherwise.
    """
    path, spec = PATHS[name], target.spec
    if (moments := target.gaussian()) is not None:

        @functools.cache
        def matrix(clean: tuple[bool, ...]) -> Callable[[Tensor, float, float], Tensor]:
            known = [
                i * spec.dim + j for i in range(spec.tokens) if clean[i] for j in range(spec.dim)
            ]
            return gaussian_flow_map(*moments, path, clean=known)

        return lambda x_t, t, s, clean: matrix(tuple(clean.tolist()))(x_t, t, s)

    def denoise(x: Tensor, levels: Tensor) -> Tensor:
        return target.denoise(x, levels, path)

    def carry(x_t: Tensor, t: float, s: float, clean: Tensor) -> Tensor:
        return flow_map(denoise, x_t, t, s, path=path, spec=spec, clean=clean)

    return carry


def _shared(levels: Tensor) -> tuple[float, Tensor]:
    """The level that the tokens of a call share, and a mask (N,) of the tokens at level 0.

    Raises:
        InputError: The tokens have several levels other than 0, or the mask differs between rows.
    """
    level, clean = float(levels.max()), levels[0] == 0
    if not bool((levels == torch.where(clean, 0, levels.max())).all()):
        raise InputError(
            "levels must be the same for all tokens that a flow map is shown, but for those at "
            f"level 0, which are so in every row, got {float(levels.min()):g} to {level:g}; call "
            "it once for each level."
        )
    return level, clean
