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
from capcheck.targets.continuous.product_mixture import moments
from capcheck.targets.means import Means
from capcheck.targets.parameters import Grid

__all__ = ["NOISE", "TILE", "Standardised", "Units", "mean_and_deviation"]

NOISE = 1e-12  # deviation below which a coordinate is constant, in units of its mean
TILE = 1 << 19  # most numbers held at once: 4 MiB, small enough for the cache


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
        return _positive(self.rows.reshape(len(self.rows), -1).std(0), self.centre)

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


class Standardised:
    """Rows that are centred and divided by their standard deviation when read, (c, D) float64."""

    def __init__(self, rows: np.ndarray, weights: np.ndarray) -> None:
        self._rows = rows
        self._mean, self.scale = (m.reshape(-1) for m in mean_and_deviation(rows, weights))
        self.dim = len(self._mean)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice | Tensor) -> Tensor:
        return torch.from_numpy(
            self.of(self._rows[part if isinstance(part, slice) else part.numpy()])
        )

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Other rows in the same units, (m, D)."""
        return np.asarray((rows.reshape(len(rows), -1) - self._mean) / self.scale)


def mean_and_deviation(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each coordinate, (N, d).

    A constant coordinate gets the smallest deviation of the others, or 1.
    """
    w = torch.from_numpy(weights / weights.sum())
    mean, variance = (moment.numpy() for moment in moments(Means(torch.from_numpy(rows)), w))
    return mean, _positive(np.sqrt(variance), mean)


def _positive(deviation: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The deviations, where constant coordinates have the smallest of the others, or 1."""
    varies = deviation > NOISE * np.abs(mean)
    smallest = deviation[varies].min() if varies.any() else 1.0
    return np.where(varies, deviation, smallest)
