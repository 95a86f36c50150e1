"""One affine layer: x = m + R z, with R R^T = C.

The best of all in KL has the target's mean m and covariance C; what it leaves is the negentropy
1/2 ln((2 pi e)^D |C|) - h(p*), which is 0 for a Gaussian only. Where tokens are given, m and C are
those of the others given them, row by row.
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


def best_affine(target: Target) -> Affine:
    """The affine map that is nearest to a target in KL.

    Raises:
        UnfitError: Its covariance cannot be had.
    """
    assert isinstance(target, ContinuousTarget)
    mean, covariance = mean_and_covariance(target)
    root = torch.linalg.cholesky(covariance)
    return Affine(mean=mean.to(target.dtype), root=root.to(target.dtype))


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionedAffine:
    """The best affine map of a target, and of what is left of it when tokens are given.

    Attributes:
        maps: Both.
    """

    maps: Conditioned[Affine]

    @classmethod
    def of(cls, target: ContinuousTarget) -> ConditionedAffine:
        """The maps of a target.

        Raises:
            UnfitError: Its covariance cannot be had.
        """
        maps = Conditioned(target=target, make=best_affine)
        _ = maps.whole  # what cannot be had is told at once
        return cls(maps=maps)

    def __call__(self, z: Tensor, *given: Tensor) -> Tensor:
        """X of z, (n, N, d); given tokens keep their values."""
        if not given:
            return self.maps.whole(z)
        tokens, known = given
        layer, rest = self.maps.of_rest(tokens, known)
        x = tokens.to(z.dtype, copy=True)
        x[:, rest] = layer(z[:, rest])
        return x

    def log_prob(self, x: Tensor, *known: Tensor) -> Tensor:
        """Log-density (nats) of the tokens that are not known given those that are: (n,)."""
        if not known:
            return self.maps.whole.log_prob(x)
        layer, rest = self.maps.of_rest(x, *known)
        return layer.log_prob(x[:, rest])
