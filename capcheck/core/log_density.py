"""A log-density states how probable sequences are under the law that a procedure samples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["LogDensity"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LogDensity:
    """Log-densities (nats) of n sequences under the law that a procedure samples.

    Attributes:
        values: (n,) log-densities, or lower bounds on them.
        method: The method of computation, in a few words.
        bound: Whether the values are lower bounds on the log-density (in expectation). KL(target to
            model) computed from lower bounds is an upper bound.
        shared: For each set of draws that all rows share, the influence of every draw on the mean
            of the values, (M,).
    """

    values: Tensor
    method: str
    bound: bool = False
    shared: tuple[Tensor, ...] = ()
