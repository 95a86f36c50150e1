"""Noise paths: x_t = alpha(t) x_0 + sigma(t) e with e ~ N(0, I), from t = 0 (clean) to 1 (noise).

A path is stated by its end points: alpha(0) = sigma(1) = 1 and alpha(1) = sigma(0) = 0, exactly, so
level 0 means known and level 1 means unseen on every path.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

PathName = Literal["linear", "cosine"]


class NoisePath(ABC):
    """Signal and noise amplitudes as functions of the level t in [0, 1], and their derivatives."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Amplitude of the clean token."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """Derivative of alpha."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor:
        """Derivative of sigma."""


class LinearPath(NoisePath):
    """alpha = 1 - t, sigma = t."""

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """T."""
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        """-1."""
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)


class CosinePath(NoisePath):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2)."""

    def alpha(self, t: Tensor) -> Tensor:
        """cos(pi t / 2), written as a sine so that it is exactly 0 at t = 1."""
        return torch.sin(0.5 * math.pi * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        """sin(pi t / 2)."""
        return torch.sin(0.5 * math.pi * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        """-pi/2 sin(pi t / 2)."""
        return -0.5 * math.pi * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """pi/2 cos(pi t / 2)."""
        return 0.5 * math.pi * self.alpha(t)


PATHS: dict[PathName, NoisePath] = {"linear": LinearPath(), "cosine": CosinePath()}
