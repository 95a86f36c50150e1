"""One affine layer: x = m + R z, with R R^T = C.

The best of all in KL has the target's mean m and covariance C; what it leaves is the negentropy
1/2 ln((2 pi e)^D |C|) - h(p*), which is 0 for a Gaussian only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.laws import LOG_2PI
from capcheck.networks.oracles.moments import mean_and_covariance
from capcheck.targets.target import ContinuousTarget


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """x = m + R z over flat sequences of D numbers.

    Attributes:
        mean: m, (1, D), or (n, D) where rows have laws of their own.
        root: R, (1|n, D, D), lower triangular with a positive diagonal.
    """

    mean: Tensor
    root: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """X of z, (n, N, d)."""
        moved = self.root @ z.to(self.root).flatten(1)[..., None]  # (n, D, 1)
        return (self.mean + moved[..., 0]).reshape(z.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log N(x; m, R R^T), nats: (n,)."""
        residual = (x.to(self.root).flatten(1) - self.mean)[..., None]
        z = torch.linalg.solve_triangular(self.root, residual, upper=False)[..., 0]
        log_det = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_q: Tensor = -0.5 * (z.square() + LOG_2PI).sum(-1) - log_det
        return log_q


def best_affine(target: ContinuousTarget) -> Affine:
    """The affine map that is nearest to a target in KL.

    Raises:
        InputError: Its covariance cannot be had.
    """
    mean, covariance = mean_and_covariance(target)
    root = torch.linalg.cholesky(covariance)
    return Affine(mean=mean.to(target.dtype), root=root.to(target.dtype))
