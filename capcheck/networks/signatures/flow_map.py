"""Flow maps: noisy tokens -> where the probability flow carries them.

A flow map is told the level s to land at, (x_t, t, s) -> x_s; a consistency function lands at the
clean end, (x_t, t) -> x_0. Their oracle is the exact map of the probability flow; that of a
consistency function may be one that a few DDIM steps make, as a short distillation gives. In one
call all tokens share a level.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.networks.signatures.denoiser import require_continuous
from capcheck.networks.signatures.signature import Signature, require_like
from capcheck.noise.flow import ddim_step
from capcheck.noise.flow_map import flow_map, gaussian_flow_map
from capcheck.noise.paths import PATHS, PathName
from capcheck.targets.target import ContinuousTarget, Target


class FlowMap(Protocol):
    """Noisy tokens, their level and another -> the tokens at that other level."""

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor, /) -> Tensor:
        """Carry.

        Args:
            x_t: (n, N, d), every token alpha(t) x_0 + sigma(t) e.
            t: (n, N), one level in (0, 1] for all.
            s: (n, N), one level in [0, t] for all.

        Returns:
            x_s, (n, N, d).
        """


class ConsistencyFunction(Protocol):
    """Noisy tokens and their level -> clean tokens."""

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Tensor:
        """Carry.

        Args:
            x_t: (n, N, d), every token alpha(t) x_0 + sigma(t) e.
            t: (n, N), one level in (0, 1] for all.

        Returns:
            x_0, (n, N, d).
        """


@dataclass(frozen=True)
class FlowMapSignature(Signature[FlowMap]):
    """(x_t, t, s) -> x_s along the probability flow of a noise path.

    Attributes:
        path: Noise path that the network was trained on.
    """

    noisy: ClassVar[bool] = True
    path: PathName

    def oracle(self, target: Target) -> FlowMap:
        """The exact map."""
        carry = _exact(require_continuous(target, "a flow map"), self.path)

        def along(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return carry(x_t, _shared(t), _shared(s))

        return along

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a tensor of the tokens' shape."""
        require_like(answer, shown, "the tokens at level s")


@dataclass(frozen=True)
class ConsistencySignature(Signature[ConsistencyFunction]):
    """(x_t, t) -> x_0 along the probability flow of a noise path.

    Attributes:
        path: Noise path that the network was trained on.
        solver_steps: DDIM steps over [0, 1] that the network learned the map of: from t to the next
            level of their uniform grid below t, and then along the grid. None for the exact map.
    """

    noisy: ClassVar[bool] = True
    path: PathName
    solver_steps: int | None = None

    def oracle(self, target: Target) -> ConsistencyFunction:
        """The exact map, or that of the DDIM steps."""
        continuous = require_continuous(target, "a consistency function")
        if self.solver_steps is None:
            carry = _exact(continuous, self.path)
            return lambda x_t, t: carry(x_t, _shared(t), 0.0)
        path, m = PATHS[self.path], self.solver_steps

        def solve(x_t: Tensor, t: Tensor) -> Tensor:
            level, x = _shared(t), x_t
            # The epsilon keeps levels that lie on the grid on the grid.
            below = range(math.ceil(level * m - 1e-6) - 1, -1, -1)
            for u, s in itertools.pairwise([level, *(j / m for j in below)]):
                here = t.new_full(t.shape, u)
                x0 = continuous.denoise(x, here, path)
                x = ddim_step(x, x0, t.new_tensor(u), t.new_tensor(s), path)
            return x

        return solve

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a tensor of the tokens' shape."""
        require_like(answer, shown, "the clean tokens")


def _exact(target: ContinuousTarget, name: PathName) -> Callable[[Tensor, float, float], Tensor]:
    """(x_t, t, s) -> x_s: a matrix for one Gaussian, otherwise integrated."""
    path = PATHS[name]
    if (moments := target.gaussian()) is not None:
        return gaussian_flow_map(*moments, path)

    def carry(x_t: Tensor, t: float, s: float) -> Tensor:
        def denoise(x: Tensor, levels: Tensor) -> Tensor:
            return target.denoise(x, levels, path)

        return flow_map(denoise, x_t, t, s, path=path, spec=target.spec)

    return carry


def _shared(levels: Tensor) -> float:
    """The level that all tokens of a call have."""
    level = float(levels.flatten()[0])
    if not bool((levels == level).all()):
        raise InputError(
            "levels must be the same for all tokens that a flow map is shown, got "
            f"{float(levels.min()):g} to {float(levels.max()):g}; call it once for each level."
        )
    return level
