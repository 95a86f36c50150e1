"""Coordinates are the affine transform c of the tokens x that a procedure works in.

    c = H ((x - m) / u)

The origin m is the mean of every coordinate, the unit u is one number that makes the mean variance
1, and H is an orthonormal basis if the probe names one.

Procedures that add noise of a fixed size use these coordinates, so that noise of size 1 is as large
as the data in any unit of measurement. Other procedures work on the tokens themselves, as do those
that ask for it (`Probe.raw_tokens`). Draws, laws
and densities are transformed back to x. KL is invariant under the transform; distances are computed
between tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from capcheck.core.errors import InputError, UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian import GaussianLaw
from capcheck.laws.gaussian_orders import MixtureLaw
from capcheck.laws.shared_axes import SharedAxes, diagonal
from capcheck.procedures.probe import Probe
from capcheck.targets.categorical.sequence_law import SequenceLaw
from capcheck.targets.target import ContinuousTarget, Target

__all__ = ["Coordinates", "ExactLaw", "coordinates_of"]

ExactLaw = GaussianLaw | MixtureLaw | SequenceLaw


@dataclass(frozen=True, kw_only=True, eq=False)
class Coordinates:
    """The law of a procedure's coordinates, and the transform between coordinates and tokens.

    Attributes:
        target: The law of the coordinates.
        origin: m, (N, d), or None if the coordinates are the tokens themselves.
        units: u, (N, d), or None if the coordinates are the tokens themselves.
        basis: H, (N d, N d), or None if it is the identity.
    """

    target: Target
    origin: Tensor | None = None
    units: Tensor | None = None
    basis: Tensor | None = None

    def coordinates(self, x: Tensor) -> Tensor:
        """Coordinates c of sequences x, of equal shape."""
        if self.origin is None or self.units is None:
            return x
        c = (x - self.origin) / self.units
        return c if self.basis is None else (c.flatten(1) @ self.basis.T).reshape(x.shape)

    def tokens(self, c: Tensor) -> Tensor:
        """Sequences x of coordinates c, of equal shape."""
        if self.origin is None or self.units is None:
            return c
        z = c if self.basis is None else (c.flatten(1) @ self.basis).reshape(c.shape)
        return self.origin + self.units * z

    def density_of_tokens(self, found: LogDensity | Unavailable) -> LogDensity | Unavailable:
        """The log-density of x: that of its coordinates minus the sum of log u."""
        if self.units is None or isinstance(found, Unavailable):
            return found
        return found.plus(-self.units.double().log().sum())

    def law_of_tokens(self, law: ExactLaw | Unavailable) -> ExactLaw | Unavailable:
        """The exact law of x from the exact law of its coordinates."""
        if isinstance(law, MixtureLaw):
            return replace(law, laws=tuple(self._mapped(one) for one in law.laws))
        return self._mapped(law) if isinstance(law, GaussianLaw) else law

    def _mapped(self, law: GaussianLaw) -> GaussianLaw:
        if self.origin is None or self.units is None:
            return law
        origin, units = (x.flatten().double().cpu() for x in (self.origin, self.units))
        mean, covariance = law.mean, law.covariance
        if self._axes is not None:
            basis = self._axes.vectors
            mean = basis @ mean
            even = bool((units == units[0]).all())
            if even and (variances := diagonal(covariance)) is not None:
                return GaussianLaw.along(
                    self._axes, mean=origin + units * mean, variances=units**2 * variances
                )
            covariance = basis @ covariance @ basis.T
        covariance = units[:, None] * covariance * units
        covariance = 0.5 * (covariance + covariance.T)
        return GaussianLaw(mean=origin + units * mean, covariance=covariance)

    @functools.cached_property
    def _axes(self) -> SharedAxes | None:
        """The axes of the coordinates, the columns of (D, D); None if they are the tokens' own."""
        return None if self.basis is None else SharedAxes(self.basis.double().cpu().T)


def coordinates_of(probe: Probe[Any], target: Target, given: Sequence[int] = ()) -> Coordinates:
    """The coordinates that a probe works in on a target.

    Args:
        probe: The probe, which may name an orthonormal basis.
        target: The law of the tokens.
        given: Indices of tokens that are known from the start.

    Raises:
        UnfitError: The probe needs a basis in which this target's law is not known exactly.
    """
    basis = probe.basis(replace(target.spec, given=tuple(given)))
    if not isinstance(target, ContinuousTarget):
        if basis is not None:
            raise UnfitError(f"{probe.family} needs a basis, which categorical tokens do not have.")
        return Coordinates(target=target)
    if basis is None and (probe.raw_tokens or not probe.signature.noisy):
        return Coordinates(target=target)
    inside, origin, units = target.standardised
    if basis is None:
        return Coordinates(target=inside, origin=origin, units=units)
    try:
        inside, further = inside.in_basis(basis)
    except InputError as error:
        raise UnfitError(str(error)) from error
    return Coordinates(
        target=inside, origin=origin, units=units * further.to(units), basis=basis.to(units)
    )
