"""A log-density states how probable sequences are under the law that a procedure samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        above: (n,) upper bounds on the log-density (in expectation), or None.
        shared: For each set of draws that all rows share, the influence of every draw on the mean
            of the values, (M,).
    """

    values: Tensor
    method: str
    bound: bool = False
    above: Tensor | None = None
    shared: tuple[Tensor, ...] = ()

    def plus(self, log_density: Tensor) -> LogDensity:
        """The log-density with a known one (nats) added, (n,) or a single number."""
        added = log_density.to(self.values)
        above = None if self.above is None else self.above + added
        return replace(self, values=self.values + added, above=above)
