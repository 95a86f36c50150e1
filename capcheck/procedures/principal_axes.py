"""The principal axes of a Gaussian target, in which the oracle's answers are elementwise.

A procedure that treats all numbers of a sequence alike commutes with rotations: run on rotated
noise it returns rotated sequences. In the principal axes of its covariance a Gaussian has
independent numbers. A step of n rows of D numbers then costs n D operations in place of the
4 n D^2 of two products with the eigenvectors; only noise and results are rotated.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.procedures.coordinates import Coordinates
from capcheck.targets.continuous.diagonal_mixture import DiagonalMixture
from capcheck.targets.continuous.gaussian_mixture import GaussianMixture

__all__ = ["LEAST", "RotatedNoise", "in_principal_axes"]

LEAST = 64  # fewest numbers of a sequence for which rotating it saves time


def in_principal_axes(plain: Coordinates) -> Coordinates | None:
    """The coordinates along the principal axes of a Gaussian.

    Args:
        plain: Coordinates without a basis.

    Returns:
        Their rotation, or None if the law is not one Gaussian of at least `LEAST` dependent
        numbers, or has variances so different that eigenvectors lose half of their digits.
    """
    law = plain.target
    if plain.basis is not None or not isinstance(law, GaussianMixture):
        return None
    if law.spec.mean.numel() < LEAST or (principal := law.principal_axes()) is None:
        return None
    variances, axes = principal
    shape = (1, law.spec.tokens, law.spec.dim)
    mean = law.spec.mean.flatten() @ axes
    inside = DiagonalMixture(mean.reshape(shape), variances.sqrt().reshape(shape))
    return replace(plain, target=inside, basis=axes.T.contiguous())


class RotatedNoise(Randomness):
    """A source whose normal numbers of whole sequences are rotated; all others stay as they are.

    Args:
        rng: The source.
        basis: Orthonormal basis, (D, D).
    """

    def __init__(self, rng: Randomness, basis: Tensor) -> None:
        self._rng, self._basis = rng, basis.double()

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Draw as the source does."""
        return self._rng.uniform(shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Draw standard normals (n, ...) of D numbers a row, and rotate each row."""
        z = self._rng.normal(shape)
        return (z.flatten(1).to(self._basis) @ self._basis.T).reshape(shape)

    def stream(self, name: str) -> RotatedNoise:
        """The stream of the source with this name, rotated as well."""
        return RotatedNoise(self._rng.stream(name), self._basis)
