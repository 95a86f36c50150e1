"""A noise path defines noisy tokens at every level t from 0 (clean) to 1 (pure noise).

    x_t = alpha(t) x_0 + sigma(t) e,    e ~ N(0, I)

Every path has exactly alpha(0) = sigma(1) = 1 and alpha(1) = sigma(0) = 0, so that a token is known
at level 0 and unseen at level 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

__all__ = ["PATHS", "CosinePath", "LinearPath", "NoisePath", "PathName"]

PathName = Literal["linear", "cosine"]


class NoisePath(ABC):
    """The amplitudes of signal and noise at a level t in [0, 1], and their derivatives in t."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Amplitude of the clean token."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """Derivative of alpha with respect to t."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor:
        """Derivative of sigma with respect to t."""


class LinearPath(NoisePath):
    """The linear path with alpha = 1 - t and sigma = t."""

    def alpha(self, t: Tensor) -> Tensor:
        """Amplitude 1 - t of the clean token."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation t of the noise."""
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        """Derivative -1 of alpha."""
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Derivative 1 of sigma."""
        return torch.ones_like(t)


class CosinePath(NoisePath):
    """The cosine path with alpha = cos(pi t / 2) and sigma = sin(pi t / 2)."""

    def alpha(self, t: Tensor) -> Tensor:
        """Amplitude cos(pi t / 2), computed as a sine so that it is exactly 0 at t = 1."""
        return torch.sin(0.5 * math.pi * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation sin(pi t / 2) of the noise."""
        return torch.sin(0.5 * math.pi * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        """Derivative -pi/2 sin(pi t / 2) of alpha."""
        return -0.5 * math.pi * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Derivative pi/2 cos(pi t / 2) of sigma."""
        return 0.5 * math.pi * self.alpha(t)


PATHS: dict[PathName, NoisePath] = {"linear": LinearPath(), "cosine": CosinePath()}
