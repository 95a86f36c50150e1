"""Derivatives of maps of E numbers: square matrices that are solved with and have determinants.

Up to some hundred numbers a matrix is held as it is. In more, the derivative of a denoiser of a
mixture has a form that is cheaper: a diagonal and few directions, one for each component that
carries weight, or a diagonal and the covariance of many component means. Such forms are added to a
diagonal, solved and measured without ever being written out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["LARGE", "DenseSlope", "FewDirections", "SharedMeans", "Slope"]

LARGE = 256  # numbers from which on matrices are not written out where they have another form
PROBES = 4  # random vectors of a row for its stochastic log-determinant
EVERY = 4  # Lanczos steps between two looks at the log-determinant
MOST_STEPS = 80  # most steps of conjugate gradients or of Lanczos
SETTLED = 1e-4  # change of a log-determinant, in nats, that ends the Lanczos steps
SOLVED = 1e-11  # residual, relative to the right-hand side, that ends conjugate gradients
TINY = 1e-30  # keeps square roots of diagonals that vanish invertible


class Slope(ABC):
    """The derivatives at n points, matrices A of (E, E)."""

    @abstractmethod
    def affine(self, r: Tensor, c: Tensor) -> Slope:
        """The matrices diag(r) + diag(c) A, for r and c of (E,)."""

    @abstractmethod
    def solve(self, b: Tensor) -> Tensor:
        """The solutions y of A y = b, (n, E); not finite where a matrix is singular."""

    @abstractmethod
    def log_det(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sign and log |det A| at some of the points, both (m,).

        Args:
            rows: Which points, (n,) bool.
            generator: Random numbers, for an unbiased estimate where the value would take long.
        """

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrices, (n, E, E)."""


@dataclass(frozen=True, eq=False)
class DenseSlope(Slope):
    """Matrices that are held as they are.

    Attributes:
        matrix: (n, E, E).
    """

    matrix: Tensor

    def affine(self, r: Tensor, c: Tensor) -> DenseSlope:
        """Writes the new matrices."""
        matrix = c[:, None] * self.matrix
        matrix.diagonal(dim1=1, dim2=2).add_(r)
        return DenseSlope(matrix)

    def solve(self, b: Tensor) -> Tensor:
        """By LU decomposition."""
        y, info = torch.linalg.solve_ex(self.matrix, b)
        return torch.where((info == 0)[:, None], y, torch.nan)

    def log_det(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """By LU decomposition."""
        found = torch.linalg.slogdet(self.matrix[rows])
        return found.sign, found.logabsdet

    def dense(self) -> Tensor:
        """The matrices themselves."""
        return self.matrix


@dataclass(frozen=True, eq=False)
class FewDirections(Slope):
    """diag(own) + left @ right, with k < E directions, by the Woodbury identity.

    Attributes:
        own: (n, E), positive wherever a system is solved.
        left: (n, E, k).
        right: (n, k, E).
    """

    own: Tensor
    left: Tensor
    right: Tensor

    def affine(self, r: Tensor, c: Tensor) -> FewDirections:
        """Again a diagonal and the same number of directions."""
        return FewDirections(r + c * self.own, c[:, None] * self.left, self.right)

    def solve(self, b: Tensor) -> Tensor:
        """own^-1 (b - left (1 + right own^-1 left)^-1 right own^-1 b)."""
        first = b / self.own
        inner = (self.right @ first[..., None])[..., 0]
        z, info = torch.linalg.solve_ex(self._core(slice(None)), inner)
        y = first - (self.left @ z[..., None])[..., 0] / self.own
        return torch.where((info == 0)[:, None], y, torch.nan)

    def log_det(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The log-determinant of own plus that of 1 + right own^-1 left."""
        found = torch.linalg.slogdet(self._core(rows))
        return found.sign, found.logabsdet + self.own[rows].log().sum(1)

    def dense(self) -> Tensor:
        """The matrices, written out."""
        return self.own.diag_embed() + self.left @ self.right

    def _core(self, rows: Tensor | slice) -> Tensor:
        core = self.right[rows] @ (self.left[rows] / self.own[rows][..., None])
        core.diagonal(dim1=1, dim2=2).add_(1)
        return core


@dataclass(frozen=True, eq=False)
class SharedMeans(Slope):
    """diag(own) + diag(gain) Cov[mu_c] diag(pull), over many means that all points share.

    It is similar to a symmetric positive definite matrix: systems are solved by conjugate
    gradients, and the log-determinant is estimated without bias by stochastic Lanczos quadrature
    (Ubaru, Chen & Saad 2017).

    Attributes:
        own: (n, E), positive wherever a system is solved.
        gain: (n, E), positive.
        pull: (n, E), not negative.
        share: Weights of the means at each point, (n, K).
        means: (K, E).
        mean: Weighted mean at each point, (n, E).
    """

    own: Tensor
    gain: Tensor
    pull: Tensor
    share: Tensor
    means: Tensor
    mean: Tensor

    def affine(self, r: Tensor, c: Tensor) -> SharedMeans:
        """Again of this form."""
        return replace(self, own=r + c * self.own, gain=c * self.gain)

    def solve(self, b: Tensor) -> Tensor:
        """By conjugate gradients in coordinates in which the matrix is 1 plus a covariance."""
        root = self.own.sqrt()
        turn = (self.gain.clamp(min=TINY) / self.pull.clamp(min=TINY)).sqrt()
        w = self._weights()
        residual = (b / turn / root)[:, None]
        y, p = torch.zeros_like(residual), residual
        square = residual.square().sum(2, keepdim=True)
        enough = SOLVED**2 * square
        for _ in range(MOST_STEPS):
            if bool((square <= enough).all()):
                break
            image = self._times(p, w)
            step = square / (p * image).sum(2, keepdim=True).clamp(min=TINY**2)
            y, residual = y + step * p, residual - step * image
            before, square = square, residual.square().sum(2, keepdim=True)
            p = residual + square / before.clamp(min=TINY**2) * p
        solved = turn * y[:, 0] / root
        return torch.where(square[:, 0].isfinite(), solved, torch.nan)

    def log_det(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The mean of z^T log(A) z over random signs z, each by Lanczos steps."""
        part = replace(
            self,
            own=self.own[rows],
            gain=self.gain[rows],
            pull=self.pull[rows],
            share=self.share[rows],
            mean=self.mean[rows],
        )
        found = part._log_det_of_unit(generator) + part.own.log().sum(1)
        return torch.ones_like(found), found

    def dense(self) -> Tensor:
        """The matrices, written out."""
        spread = (self.means.T * self.share[:, None]) @ self.means
        covariance = spread - self.mean[:, :, None] * self.mean[:, None]
        return self.own.diag_embed() + self.gain[:, :, None] * covariance * self.pull[:, None]

    def _weights(self) -> Tensor:
        return (self.gain.clamp(min=TINY) * self.pull.clamp(min=TINY) / self.own).sqrt()

    def _times(self, v: Tensor, w: Tensor) -> Tensor:
        """(1 + diag(w) Cov diag(w)) v for v (n, P, E)."""
        u = v * w[:, None]
        along = (u @ self.means.T) * self.share[:, None]
        inner = along @ self.means - (u @ self.mean[..., None]) * self.mean[:, None]
        image: Tensor = v + w[:, None] * inner
        return image

    def _log_det_of_unit(self, generator: torch.Generator) -> Tensor:
        """An unbiased estimate of log det (1 + diag(w) Cov diag(w)), (n,)."""
        n, E = self.own.shape
        signs = torch.randint(0, 2, (n, PROBES, E), generator=generator).to(self.own) * 2 - 1
        w, steps = self._weights(), min(MOST_STEPS, E)
        basis = [signs / E**0.5]
        diagonal: list[Tensor] = []
        beside: list[Tensor] = []
        found = torch.full((n,), torch.inf).to(self.own)
        for step in range(1, steps + 1):
            image = self._times(basis[-1], w)
            diagonal.append((image * basis[-1]).sum(2))
            held = torch.stack(basis, 2)  # (n, P, steps, E): rounding would lose orthogonality
            for _ in range(2):
                along = held @ image[..., None]
                image = image - (held.mT @ along)[..., 0]
            if step % EVERY == 0 or step == steps:
                before, found = found, _quadrature(diagonal, beside).mean(1) * E
                if bool(((found - before).abs() <= SETTLED).all()):
                    break
            length = torch.linalg.vector_norm(image, dim=2)
            beside.append(length)
            basis.append(image / length.clamp(min=TINY)[..., None])
        return found


def _quadrature(diagonal: list[Tensor], beside: list[Tensor]) -> Tensor:
    """Gauss quadrature of log over the spectral measures of tridiagonal matrices, (n, P)."""
    tri = torch.stack(diagonal, -1).diag_embed()
    if beside:
        off = torch.stack(beside, -1)
        tri = tri + off.diag_embed(1) + off.diag_embed(-1)
    values, vectors = torch.linalg.eigh(tri)
    total: Tensor = (vectors[..., 0, :].square() * values.clamp(min=1).log()).sum(-1)
    return total
