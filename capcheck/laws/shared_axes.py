"""Axes that several Gaussian laws share, along which their numbers are independent.

The covariance of a law in axes H (the columns of an orthonormal matrix) is H diag(c) H^T. Against
a target with covariance H diag(s) H^T every divergence is a sum over the axes. The variances s take
two products of (D, D) matrices, and are kept for the other laws with the same axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["SHARED", "SharedAxes", "diagonal"]

SHARED = 1e-8  # largest correlation along axes that two covariances share: KL moves by its square


@dataclass(frozen=True, eq=False)
class SharedAxes:
    """Orthonormal axes, and the variances of a target along them.

    Attributes:
        vectors: H, the axes as columns, (D, D) float64.
    """

    vectors: Tensor
    _told: list[tuple[Tensor, Tensor | None]] = field(default_factory=list, init=False, repr=False)

    def along(self, shift: Tensor) -> Tensor:
        """A vector (D,) along the axes."""
        return shift @ self.vectors

    def covariance(self, variances: Tensor) -> Tensor:
        """H diag(c) H^T, (D, D), of the variances c (D,)."""
        return (self.vectors * variances) @ self.vectors.T

    def variances(self, S: Tensor) -> Tensor | None:
        """The variances (D,) along the axes of a covariance S, or None if S has other axes.

        The answer is kept while the same tensor S is asked for.
        """
        if not (self._told and self._told[0][0] is S):
            s = diagonal(self.vectors.T @ S @ self.vectors)
            self._told[:] = [(S, None if s is None or float(s.min()) <= 0 else s)]
        return self._told[0][1]


def diagonal(C: Tensor) -> Tensor | None:
    """The diagonal (D,) of a covariance (D, D), or None if some correlation is above `SHARED`."""
    variances = C.diagonal().clamp(min=0)
    deviation = variances.sqrt()
    scale = torch.where(deviation > 0, deviation, 1)
    correlations = (C / scale / scale[:, None]).abs_().fill_diagonal_(0)
    return variances if float(correlations.max()) <= SHARED else None
