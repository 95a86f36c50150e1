"""Standardised units of rows: z = (x - m) / s, with the mean m and deviation s of each coordinate.

A law fitted to z does not depend on the unit of x, nor on its distance from 0, where squares that a
fit subtracts would cancel.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from capcheck.targets.continuous.diagonal_mixture import DiagonalMixture
from capcheck.targets.continuous.gaussian_mixture import GaussianMixture

__all__ = ["NOISE", "Grid", "Units"]

NOISE = 1e-12  # deviation below which a coordinate is constant, in units of its mean

Grid = tuple[int, int] | None


@dataclass(frozen=True)
class Units:
    """The standardised units of some rows, and laws of x made from laws of z."""

    rows: np.ndarray  # (n, N, d)

    @functools.cached_property
    def centre(self) -> np.ndarray:
        """Mean m of each coordinate, (D,)."""
        return np.asarray(self.rows.reshape(len(self.rows), -1).mean(0))

    @functools.cached_property
    def scale(self) -> np.ndarray:
        """Deviation s of each coordinate, (D,).

        A constant coordinate gets the smallest deviation of the others, or 1.
        """
        deviation = self.rows.reshape(len(self.rows), -1).std(0)
        varies = deviation > NOISE * np.abs(self.centre)
        smallest = deviation[varies].min() if varies.any() else 1.0
        return np.where(varies, deviation, smallest)

    def standardised(self, rows: np.ndarray) -> np.ndarray:
        """The rows in standardised units, (n, D)."""
        return np.asarray((rows.reshape(len(rows), -1) - self.centre) / self.scale)

    def full(
        self, means: np.ndarray, covariances: np.ndarray, weights: np.ndarray, grid: Grid
    ) -> GaussianMixture:
        """The law of x = m + s z for a mixture z with means (K, D) and covariances (K, D, D)."""
        return GaussianMixture(
            self._tokens(means * self.scale + self.centre),
            torch.tensor(covariances * np.outer(self.scale, self.scale)),
            torch.tensor(weights),
            grid=grid,
        )

    def diagonal(
        self, means: np.ndarray, scales: np.ndarray, weights: np.ndarray, grid: Grid = None
    ) -> DiagonalMixture:
        """The law of x = m + s z for a mixture z with means and standard deviations (K, D)."""
        return DiagonalMixture(
            self._tokens(means * self.scale + self.centre),
            self._tokens(scales * self.scale),
            torch.tensor(weights),
            grid=grid,
        )

    def _tokens(self, flat: np.ndarray) -> Tensor:
        return torch.tensor(flat.reshape(-1, *self.rows.shape[1:]))
