"""A control variate for means over draws of a continuous target.

The log-density of the Gaussian with the target's mean m and covariance C varies with a draw x as
f(x) = (|x - m|^2_C - D) / 2 does, in the metric of C^-1, and the mean of f is 0. Where log-ratios
go along with it, as those of a sampler do that is too narrow or too wide, b f is subtracted.
The factor b of each half of the rows is fitted to the other half, so that the mean stays unbiased.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.networks.oracles.moments import mean_and_covariance
from capcheck.targets.target import ContinuousTarget, Target

__all__ = ["FEWEST", "GaussianControl"]

LARGEST = 256  # most numbers of a sequence for which the covariance is factorised
MEANS = 1 << 23  # most numbers in the means of all components from which it is summed
FEWEST = 50  # fewest rows of a half to which a factor is fitted


class GaussianControl:
    """The function f of a target.

    Args:
        mean: The target's mean, (D,) float64.
        root: Cholesky factor of its covariance, (D, D).
    """

    def __init__(self, mean: Tensor, root: Tensor) -> None:
        self._mean, self._root = mean, root

    @staticmethod
    def of(target: Target) -> GaussianControl | None:
        """The control variate of a target, or None if its moments are not known at little cost."""
        if not isinstance(target, ContinuousTarget) or target.rows is not None:
            return None
        numbers, products = math.prod(target.spec.mean.shape), target.products()
        components = 1 if products is None else products.log_weights.shape[1]
        if numbers > LARGEST or components * numbers > MEANS:
            return None
        try:
            mean, covariance = mean_and_covariance(target)
        except UnfitError:
            return None
        root, info = torch.linalg.cholesky_ex(covariance[0])
        return None if int(info) else GaussianControl(mean[0], root)

    def __call__(self, x: Tensor) -> Tensor:
        """The values f(x), of mean 0 over draws of the target: (n, N, d) -> (n,), float64."""
        residual = (x.to(self._mean).flatten(1) - self._mean).T
        z = torch.linalg.solve_triangular(self._root, residual, upper=False)
        values: Tensor = 0.5 * (z.square().sum(0) - len(z))
        return values

    def subtracted(self, values: Tensor, x: Tensor) -> Tensor:
        """Values (n,) at draws x with the part that goes along with f taken out; the mean stays.

        Values that are not finite, or too few, are returned as they are.
        """
        if len(values) < 2 * FEWEST or not bool(values.isfinite().all()):
            return values
        f, rest = self(x), values.double().clone()
        for half in range(2):
            own, other = slice(half, None, 2), slice(1 - half, None, 2)
            centred = f[other] - f[other].mean()
            factor = (centred @ values[other].double()) / centred.square().sum()
            rest[own] -= factor * f[own]
        return rest
