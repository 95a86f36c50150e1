"""Log-densities of sequences under the law that a procedure samples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LogDensity:
    """Log-density (nats) of sequences under the law that a procedure samples.

    Attributes:
        values: (n,).
        bound: True if the values bound the log-density from below (in expectation), so that the KL
            divergence computed from them is an upper bound.
        method: How they were had, in a few words.
    """

    values: Tensor
    method: str
    bound: bool = False
