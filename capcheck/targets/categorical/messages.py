"""Messages of the recursions over the states of a chain: their storage, products and sums.

If every transition is possible, messages are probabilities, normalised often enough that nothing
underflows. Otherwise they are logarithms, since later evidence can make a state of vanishing mass
matter again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

__all__ = [
    "LOG_COST",
    "LONGEST",
    "Arithmetic",
    "Logarithmic",
    "Scaled",
    "SparseSteps",
    "arithmetic_for",
    "scaled_evidence",
    "sparse_steps",
]

LONGEST = 8  # most steps between normalisations; 16 gives NaN on peaked models
LOG_COST = 100.0  # time of a logarithmic multiply-add, in ordinary multiply-adds


class Arithmetic(ABC):
    """The storage of messages, and their multiplication and summation."""

    @abstractmethod
    def of(self, probabilities: Tensor) -> Tensor:
        """Probabilities in stored form."""

    @abstractmethod
    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Elementwise product."""

    @abstractmethod
    def product(self, messages: Tensor, matrix: Tensor) -> Tensor:
        """Matrix product of messages (..., n, S) and a matrix (..., S, S') of the stored form."""

    @abstractmethod
    def normalised(self, messages: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """Normalised messages (..., n, S) and log (..., n) of their divisor, None if unchanged."""

    @abstractmethod
    def log_sum(self, messages: Tensor) -> Tensor:
        """Logarithm of the sum over the last dimension."""


class Scaled(Arithmetic):
    """Probabilities, normalised every `window` steps."""

    def __init__(self, window: int) -> None:
        self._window = window

    def of(self, probabilities: Tensor) -> Tensor:
        """The probabilities themselves."""
        return probabilities

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Product."""
        return a * b

    def product(self, messages: Tensor, matrix: Tensor) -> Tensor:
        """Matrix product."""
        return messages @ matrix

    def is_due(self, step: int) -> bool:
        """Whether a step ends with a normalisation."""
        return step % self._window == 0

    def normalised(self, messages: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """Messages divided by their sums if a normalisation is due, else unchanged."""
        if not self.is_due(step):
            return messages, None
        total = messages.sum(-1, keepdim=True)
        total = torch.where(total > 0, total, 1)  # an impossible row stays 0
        return messages / total, total.log()[..., 0]

    def log_sum(self, messages: Tensor) -> Tensor:
        """Logarithm of the sum."""
        return messages.sum(-1).log()


class Logarithmic(Arithmetic):
    """Logarithms of probabilities."""

    def of(self, probabilities: Tensor) -> Tensor:
        """Logarithms."""
        return probabilities.log()

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum."""
        return a + b

    def product(self, messages: Tensor, matrix: Tensor) -> Tensor:
        """Logarithm of the matrix product of the exponentials."""
        return torch.logsumexp(messages[..., :, :, None] + matrix[..., None, :, :], -2)

    def normalised(self, messages: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """The messages unchanged, as logarithms do not underflow."""
        return messages, None

    def log_sum(self, messages: Tensor) -> Tensor:
        """Logarithm of the sum of exponentials."""
        return messages.logsumexp(-1)


@dataclass(frozen=True)
class SparseSteps:
    """Log-domain products with sparse transition matrices T: each s' is reached from few s.

    Attributes:
        places: States s from which each s' can be reached in some step, (K, S').
        logs: Log T(s, s') of these states, (K, S'), or (N - 1, K, S') with one table per step; -inf
            if impossible.
    """

    places: Tensor
    logs: Tensor

    @property
    def degree(self) -> int:
        """Largest number K of states from which one state can be reached."""
        return len(self.places)

    def product(self, messages: Tensor, i: int) -> Tensor:
        """Messages (n, S) after step i, (n, S')."""
        logs = self.logs if self.logs.dim() == 2 else self.logs[i]
        terms = (messages[:, s] + log for s, log in zip(self.places, logs, strict=True))
        total: Tensor = reduce(torch.logaddexp, terms)
        return total


def sparse_steps(tables: Tensor) -> tuple[SparseSteps, SparseSteps] | None:
    """Sparse steps forward and back for probabilities (S, S) or (N - 1, S, S).

    Returns None unless at most half of the transitions into and out of every state are possible.
    """
    possible = (tables > 0).reshape(-1, *tables.shape[-2:]).any(0)
    degree = int(torch.maximum(possible.sum(0).max(), possible.sum(1).max()))
    if 2 * degree > len(possible):
        return None
    return _gathered(tables, possible), _gathered(tables.mT, possible.mT)


def _gathered(tables: Tensor, possible: Tensor) -> SparseSteps:
    degree = max(int(possible.sum(0).max()), 1)
    places = possible.to(torch.uint8).topk(degree, dim=0).indices  # padded with impossible states
    return SparseSteps(places, tables.gather(-2, places.expand(*tables.shape[:-2], -1, -1)).log())


def arithmetic_for(least_transition: float, memory: int, dtype: torch.dtype) -> Arithmetic:
    """The fastest arithmetic that is safe.

    Every transition has at least the probability tau, and evidence is 1 for some state, so the sum
    of a message shrinks by at most a factor of tau per step. The weight of a state that underflows
    between two normalisations can grow by at most 1 / tau for each step of the chain's memory.

    Args:
        least_transition: Least transition probability tau; 0 if a transition is impossible.
        memory: Steps after which any state can follow any other.
        dtype: Precision of the messages.
    """
    if least_transition > 0:
        facts = torch.finfo(dtype)
        digits = (math.log10(facts.eps) - math.log10(facts.tiny)) / 2  # F and B are multiplied
        per_step = max(-math.log10(least_transition), 1e-9)
        window = min(LONGEST, int(digits / per_step) - memory)
        if window >= 1:
            return Scaled(window)
    return Logarithmic()


def scaled_evidence(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Evidence (.., S) divided by that of the best state, and these divisors (..)."""
    unit = evidence.amax(-1)
    unit = torch.where(unit > 0, unit, 1)  # an impossible token stays impossible
    return evidence / unit[..., None], unit
