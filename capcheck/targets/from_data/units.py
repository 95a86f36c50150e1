"""Units in which all coordinates of some rows are alike: z = (x - m) / s.

m is a coordinate's mean and s its standard deviation. What is fitted to z holds for x in whatever
unit it was measured, and far from 0, where the squares that a fit subtracts would cancel.
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

NOISE = 1e-12  # deviation of a coordinate, in units of its mean, that is rounding

Grid = tuple[int, int] | None


@dataclass(frozen=True)
class Units:
    """Mean and standard deviation of every coordinate of some rows, and laws in these units."""

    rows: np.ndarray  # (n, N, d)

    @functools.cached_property
    def centre(self) -> np.ndarray:
        """(D,)."""
        return np.asarray(self.rows.reshape(len(self.rows), -1).mean(0))

    @functools.cached_property
    def scale(self) -> np.ndarray:
        """(D,), of a constant coordinate the smallest of the others, or 1."""
        deviation = self.rows.reshape(len(self.rows), -1).std(0)
        varies = deviation > NOISE * np.abs(self.centre)
        smallest = deviation[varies].min() if varies.any() else 1.0
        return np.where(varies, deviation, smallest)

    def standardised(self, rows: np.ndarray) -> np.ndarray:
        """(n, D): the coordinates in these units."""
        return np.asarray((rows.reshape(len(rows), -1) - self.centre) / self.scale)

    def full(
        self, means: np.ndarray, covariances: np.ndarray, weights: np.ndarray, grid: Grid
    ) -> GaussianMixture:
        """The law of x = m + s z, for z of means (K, D) and covariances (K, D, D)."""
        return GaussianMixture(
            self._tokens(means * self.scale + self.centre),
            torch.tensor(covariances * np.outer(self.scale, self.scale)),
            torch.tensor(weights),
            grid=grid,
        )

    def diagonal(
        self, means: np.ndarray, scales: np.ndarray, weights: np.ndarray, grid: Grid = None
    ) -> DiagonalMixture:
        """The law of x = m + s z, for z of means and standard deviations (K, D)."""
        return DiagonalMixture(
            self._tokens(means * self.scale + self.centre),
            self._tokens(scales * self.scale),
            torch.tensor(weights),
            grid=grid,
        )

    def _tokens(self, flat: np.ndarray) -> Tensor:
        return torch.tensor(flat.reshape(-1, *self.rows.shape[1:]))
