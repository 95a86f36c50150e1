"""Gaussian laws of whole sequences, and their divergences from a Gaussian.

Procedures whose steps are affine sample such laws. KL, W2 and MMD between Gaussians have closed
forms. A covariance may be singular, for instance if a sampler
has lost a direction.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.laws import LOG_2PI
from capcheck.laws.kernel_means import kernel_means_along, mmd_of_mixture, squares
from capcheck.laws.shared_axes import SharedAxes

__all__ = ["ROUNDINGS", "GaussianLaw"]

ROUNDINGS = 64  # distance from an atom, in machine epsilons of its position, that counts as 0


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianLaw:
    """The law N(m, C) over flat sequences of D = N d numbers, in float64; C may be singular.

    Variances are compared after every coordinate is divided by its own deviation. A direction
    whose variance is at most 16 D machine epsilons times the largest one counts as having none.

    Attributes:
        mean: Mean m, (D,), in units of the tokens.
        covariance: Covariance C, (D, D), in squared units of the tokens.
        axes: Axes along which the numbers are independent, if they are known. Divergences from a
            law with the same axes are then sums over them.
        variances: Variances along these axes, (D,); None without axes.
    """

    mean: Tensor
    covariance: Tensor
    axes: SharedAxes | None = None
    variances: Tensor | None = None

    @classmethod
    def along(cls, axes: SharedAxes, *, mean: Tensor, variances: Tensor) -> GaussianLaw:
        """The law with these variances (D,) along axes, and this mean (D,) of the tokens."""
        C = axes.covariance(variances)
        C = 0.5 * (C + C.T)
        return cls(mean=mean, covariance=C, axes=axes, variances=variances)

    @functools.cached_property
    def rank(self) -> int:
        """Dimension of the support."""
        if self.variances is not None:
            least = 16 * len(self.mean) * torch.finfo(torch.float64).eps * self.variances.max()
            return int((self.variances > least).sum())
        return int((self._spectrum[2] > 0).sum())

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) at x (n, ...): (n,).

        If C is singular, the value is +inf on the support and -inf elsewhere. A point counts as on
        the support if, in units of the deviations, its distance is at most 1e-9 of 1 plus its size,
        and if every coordinate without variance equals the mean up to rounding.
        """
        scale, axes, along = self._spectrum
        if x[:1].numel() not in (0, len(self.mean)):
            raise InputError(
                f"x must hold rows of {len(self.mean)} numbers, got shape {tuple(x.shape)}."
            )
        r = x.flatten(1).double().cpu() - self.mean  # (n, D)
        if self.rank == len(self.mean):
            square = (r / scale @ axes).square() / along
            return -0.5 * (square + along.log() + 2 * scale.log() + LOG_2PI).sum(1)
        varies = self.covariance.diagonal() > 0
        rounding = ROUNDINGS * torch.finfo(torch.float64).eps * self.mean.abs()
        off_atom = (~varies & (r.abs() > rounding)).any(1)
        standard = torch.where(varies, r / scale, 0)
        beside = (standard @ axes[:, along == 0]).abs().amax(1)
        off = off_atom | (beside > 1e-9 * (1 + standard.abs().amax(1)))
        return torch.where(off, -torch.inf, torch.inf)

    def kl_from(self, mean: Tensor, covariance: Tensor) -> float:
        """KL(N(mean, covariance) || this law), nats; infinite if this law is singular.

        With the eigenvalues v of C in the metric of the target, the divergence is
        1/2 sum(1/v - 1 + log v) + 1/2 |mean - m|^2, where the norm is in the metric of C.

        Args:
            mean: Mean of the target, D numbers of any shape.
            covariance: Covariance of the target, (D, D), positive definite.
        """
        v, shift = self._against(mean, covariance)
        if self.rank < len(v):
            return math.inf
        return float(0.5 * (1 / v - 1 + v.log() + shift.square() / v).sum().clamp(min=0))

    def kl_to(self, mean: Tensor, covariance: Tensor) -> float:
        """KL(this law || N(mean, covariance)), nats; infinite if this law is singular.

        With the eigenvalues v of C in the metric of the target, the divergence is
        1/2 sum(v - 1 - log v) + 1/2 |m - mean|^2, where the norm is in the metric of the target.

        Args:
            mean: Mean of the target, as for `kl_from`.
            covariance: Covariance of the target, as for `kl_from`.
        """
        v, shift = self._against(mean, covariance)
        if self.rank < len(v):
            return math.inf
        return float(0.5 * (v - 1 - v.log() + shift.square()).sum().clamp(min=0))

    def w2_squared(self, mean: Tensor, covariance: Tensor) -> float:
        """Squared Wasserstein distance of order 2, in squared units of the tokens.

        The formula is |m - mean|^2 + min over rotations O of |F - G O|^2, with F F^T = C and
        G G^T = S, the covariance of the target. The second term equals
        tr C + tr S - 2 tr (C^1/2 S C^1/2)^1/2, but as a sum of squares it neither cancels nor takes
        the root of a rounded 0, so that singular covariances need no special treatment.

        Args:
            mean: Mean of the target, D numbers of any shape.
            covariance: Covariance S of the target, (D, D), positive semi-definite.
        """
        mean, S = self.checked(mean, covariance)
        if (pair := self._pair(S, mean)) is not None:
            c, s, shift = pair
            return float(shift.square().sum() + (c.sqrt() - s.sqrt()).square().sum())
        F, G = _root(self._spectrum), _root(_spectrum(S))
        U, _, Vh = torch.linalg.svd(F.T @ G)
        return float((self.mean - mean).square().sum() + (F @ U - G @ Vh.T).square().sum())

    def mmd_squared(
        self, mean: Tensor, covariance: Tensor, *, bandwidths: Sequence[float]
    ) -> Tensor:
        """Squared MMD for the kernels exp(-|x - y|^2 / (2 h^2)), in closed form: (B,).

        Rounding errors are about 1e-15.

        Args:
            mean: Mean of the target, D numbers of any shape.
            covariance: Covariance of the target, (D, D), positive semi-definite.
            bandwidths: B bandwidths h, in units of the tokens.
        """
        mean, S = self.checked(mean, covariance)
        if (pair := self._pair(S, mean)) is not None:
            h2, (c, s, shift) = squares(bandwidths), pair
            still, shift = torch.zeros_like(mean)[None], shift[None]
            within, across, own = (
                kernel_means_along(d, V[None], h2)[0]
                for d, V in ((still, 2 * c), (shift, c + s), (still, 2 * s))
            )
            return within - 2 * across + own
        one = torch.ones(1, dtype=torch.float64)
        return mmd_of_mixture(one, self.mean[None], self.covariance[None], mean, S, bandwidths)

    @functools.cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor, Tensor]:
        return _spectrum(self.covariance)

    def _pair(self, S: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """The variances of this law and of S, and the shift of the means, each (D,) along the axes.

        None if S has other axes than this law.
        """
        if self.axes is None or self.variances is None or (s := self.axes.variances(S)) is None:
            return None
        return self.variances, s, self.axes.along(self.mean - mean)

    def checked(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, (D,), and covariance, (D, D), of a target in float64 on the CPU.

        Raises:
            InputError: They do not have the shapes of this law.
        """
        D = len(self.mean)
        if mean.numel() != D or tuple(covariance.shape) != (D, D):
            raise InputError(
                f"mean and covariance must be those of {D} numbers, "
                f"got shapes {tuple(mean.shape)} and {tuple(covariance.shape)}."
            )
        return mean.flatten().double().cpu(), covariance.double().cpu()

    def _against(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues (D,) of L^-1 C L^-T for S = L L^T, and L^-1 (m - mean) along them (D,)."""
        mean, S = self.checked(mean, covariance)
        if (pair := self._pair(S, mean)) is not None:
            c, s, shift = pair
            return (c / s).clamp(min=torch.finfo(c.dtype).tiny), shift / s.sqrt()
        L, failed = torch.linalg.cholesky_ex(S)
        if bool(failed):
            raise InputError("covariance must be positive definite, got one that is not.")
        left = torch.linalg.solve_triangular(L, self.covariance, upper=False)
        whitened = torch.linalg.solve_triangular(L, left.T, upper=False)
        v, axes = torch.linalg.eigh(0.5 * (whitened + whitened.T))
        shift = torch.linalg.solve_triangular(L, (self.mean - mean)[:, None], upper=False)
        return v.clamp(min=torch.finfo(v.dtype).tiny), (axes.T @ shift)[:, 0]


def _spectrum(C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations (D,), and eigenvectors (D, D) and eigenvalues (D,) of the correlation matrix.

    A coordinate without variance gets deviation 1 and correlation 0, even with itself.
    """
    deviation = C.diagonal().clamp(min=0).sqrt()
    scale = torch.where(deviation > 0, deviation, 1)
    along, axes = torch.linalg.eigh(C / scale.outer(scale))
    least = 16 * len(C) * torch.finfo(C.dtype).eps * along[-1]
    return scale, axes, torch.where(along > least, along, 0)


def _root(spectrum: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """A root F (D, D) of C, with F F^T = C, from the spectrum of C."""
    scale, axes, along = spectrum
    return scale[:, None] * axes * along.sqrt()
