"""A sampler is a procedure at one budget as a function of its random numbers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from capcheck.core.errors import ControlFlow
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.unavailable import Unavailable

__all__ = ["Density", "RefusedError", "Sampler"]

Sampler = Callable[[int, Randomness], Tensor]
"""A function (n, rng) -> n sampled sequences: (n, N, d), or (n, N) integers."""

Density = Callable[[Tensor, Randomness], LogDensity | Unavailable]
"""A function (x, rng) -> log-density of sequences x under the law of a `Sampler`."""


class RefusedError(ControlFlow):
    """The reason why a method of this package does not find a law; it never leaves the package."""
