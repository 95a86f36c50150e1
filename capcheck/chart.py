"""A chart: the coordinates that a procedure works in, where these are not the tokens themselves.

A procedure that works in an orthonormal basis H is run on the target of c = H (x / u), whose units
u keep the transformed law in its class; its draws, laws and densities are carried back by
x = u (H^T c). KL does not change on the way; distances are taken between tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from capcheck.errors import InputError
from capcheck.exact.gaussian import GaussianLaw, MixtureLaw
from capcheck.exact.sequence_law import SequenceLaw
from capcheck.probe import AnyProbe, LogDensity, Unavailable
from capcheck.targets.target import ContinuousTarget, Target

ExactLaw = GaussianLaw | MixtureLaw | SequenceLaw


@dataclass(frozen=True, kw_only=True, eq=False)
class Chart:
    """What a procedure is run on, and the way back to the tokens.

    Attributes:
        target: The law of the coordinates.
        to: (D, D) with c = to @ x for flat sequences, or None if c = x.
        back: (D, D), its inverse.
    """

    target: Target
    to: Tensor | None = None
    back: Tensor | None = None

    def coordinates(self, x: Tensor) -> Tensor:
        """Coordinates c of sequences x, shaped alike."""
        return x if self.to is None else (x.flatten(1) @ self.to.T).reshape(x.shape)

    def tokens(self, c: Tensor) -> Tensor:
        """Sequences x of coordinates c, shaped alike."""
        return c if self.back is None else (c.flatten(1) @ self.back.T).reshape(c.shape)

    def density_of_tokens(self, found: LogDensity | Unavailable) -> LogDensity | Unavailable:
        """The log-density of x from that of its coordinates: plus log |det dc/dx|."""
        if self.to is None or isinstance(found, Unavailable):
            return found
        log_volume = torch.linalg.slogdet(self.to.double()).logabsdet
        return replace(found, values=found.values + log_volume.to(found.values))

    def law_of_tokens(self, law: ExactLaw | Unavailable) -> ExactLaw | Unavailable:
        """The exact law of x from that of its coordinates."""
        if self.back is None or isinstance(law, (Unavailable, SequenceLaw)):
            return law
        back = self.back.double().cpu()
        if isinstance(law, MixtureLaw):
            return replace(law, laws=tuple(_mapped(one, back) for one in law.laws))
        return _mapped(law, back)


def chart_of(probe: AnyProbe, target: Target) -> Chart:
    """The coordinates that a probe works in on a target.

    Raises:
        InputError: It wants a basis in which this target's law is not known exactly.
    """
    basis = probe.basis(target.spec)
    if basis is None:
        return Chart(target=target)
    if not isinstance(target, ContinuousTarget):
        raise InputError(f"{probe.family} wants a basis, which categorical tokens do not have.")
    inside, units = target.in_basis(basis)
    units = units.to(target.spec.mean).flatten()
    basis = basis.to(units)
    return Chart(target=inside, to=basis / units, back=units[:, None] * basis.T)


def _mapped(law: GaussianLaw, matrix: Tensor) -> GaussianLaw:
    covariance = matrix @ law.covariance @ matrix.T
    return GaussianLaw(mean=matrix @ law.mean, covariance=0.5 * (covariance + covariance.T))
