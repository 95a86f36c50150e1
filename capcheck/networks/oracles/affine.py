"""The best affine layer x = m + R z, with R R^T = C, has the target's mean m and covariance C.

It is the best in KL, and leaves the negentropy 1/2 ln((2 pi e)^D |C|) - h(p*), which is 0 only if
the target p* is Gaussian. If tokens are given, m and C are the mean and covariance of the other
tokens given them, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.laws import LOG_2PI
from capcheck.networks.oracles.conditioned import Conditioned
from capcheck.networks.oracles.moments import mean_and_covariance
from capcheck.targets.target import ContinuousTarget, Target

__all__ = ["Affine", "ConditionedAffine", "best_affine"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """The affine map x = m + R z over flat sequences of D numbers.

    Attributes:
        mean: Mean m, (1, D), or (n, D) if rows have different laws.
        root: Root R, (1|n, D, D), lower triangular with a positive diagonal.
    """

    mean: Tensor
    root: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """The sequences x for normals z, (n, N, d)."""
        moved = self.root @ z.to(self.root).flatten(1)[..., None]  # (n, D, 1)
        return (self.mean + moved[..., 0]).reshape(z.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density log N(x; m, R R^T) (nats) of sequences x (n, N, d): (n,)."""
        residual = (x.to(self.root).flatten(1) - self.mean)[..., None]
        z = torch.linalg.solve_triangular(self.root, residual, upper=False)[..., 0]
        log_det = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_q: Tensor = -0.5 * (z.square() + LOG_2PI).sum(-1) - log_det
        return log_q


def best_affine(target: Target) -> Affine:
    """The affine map that is nearest to a target in KL.

    Raises:
        UnfitError: The target's covariance is not available.
    """
    assert isinstance(target, ContinuousTarget)
    mean, covariance = mean_and_covariance(target)
    root = torch.linalg.cholesky(covariance)
    return Affine(mean=mean.to(target.dtype), root=root.to(target.dtype))


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionedAffine:
    """The best affine maps of a target and of its conditional laws given some tokens.

    Attributes:
        maps: Maps of the whole law and of the conditional laws.
    """

    maps: Conditioned[Affine]

    @classmethod
    def of(cls, target: ContinuousTarget) -> ConditionedAffine:
        """The maps of a target.

        Raises:
            UnfitError: The target's covariance is not available.
        """
        maps = Conditioned(target=target, make=best_affine)
        _ = maps.whole  # raises UnfitError now, not at the first call
        return cls(maps=maps)

    def __call__(self, z: Tensor, *given: Tensor) -> Tensor:
        """The sequences x for normals z, (n, N, d); given tokens keep their values."""
        if not given:
            return self.maps.whole(z)
        tokens, known = given
        layer, rest = self.maps.of_rest(tokens, known)
        x = tokens.to(z.dtype, copy=True)
        x[:, rest] = layer(z[:, rest])
        return x

    def log_prob(self, x: Tensor, *known: Tensor) -> Tensor:
        """Log-density (nats) of the unknown tokens given the known ones, (n,)."""
        if not known:
            return self.maps.whole.log_prob(x)
        layer, rest = self.maps.of_rest(x, *known)
        return layer.log_prob(x[:, rest])
