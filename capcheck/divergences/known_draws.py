"""Draws of a target with their log-densities, as many as an estimator asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.targets.target import Target

__all__ = ["PART", "KnownDraws"]

PART = 1024  # draws that are added at once


class KnownDraws:
    """Draws of a target; the first of them are the same however many are asked for.

    Args:
        target: The target.
        samples: Number of draws to begin with.
        from_row: Function that returns the random numbers of the draws from a row on.
    """

    def __init__(self, target: Target, samples: int, from_row: Callable[[int], Randomness]) -> None:
        self._target, self._from_row = target, from_row
        self._draws = target.sample(samples, from_row(0))
        self._log_prob = target.log_prob(self._draws)

    def draws(self, n: int) -> Tensor:
        """The first n draws, (n, N, d) or (n, N)."""
        self._hold(n)
        return self._draws[:n]

    def log_prob(self, n: int) -> Tensor:
        """Log-densities of the first n draws under the target, (n,), in nats."""
        self._hold(n)
        return self._log_prob[:n]

    def _hold(self, n: int) -> None:
        # Parts of one size: a sum over components may round by the number of rows that it is made
        # for, and the same draws must not differ by what was asked for before.
        while len(self._draws) < n:
            more = self._target.sample(PART, self._from_row(len(self._draws)))
            self._draws = torch.cat([self._draws, more])
            self._log_prob = torch.cat([self._log_prob, self._target.log_prob(more)])
