"""A procedure at one budget, as the exact routes see it: a function of its random numbers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from capcheck.core.errors import ControlFlow
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.unavailable import Unavailable

Sampler = Callable[[int, Randomness], Tensor]
"""(n, rng) -> what n rows return: (n, N, d), or (n, N) integers."""

Density = Callable[[Tensor, Randomness], LogDensity | Unavailable]
"""(x, rng) -> the log-density at sequences x of what a `Sampler` returns."""


class RefusedError(ControlFlow):
    """The reason why an exact route does not lead to a law; it never leaves this package."""
