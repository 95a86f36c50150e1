"""The map of one normal number whose slope is at most L, nearest to the target in W2.

With T = F^-1(Phi(z)) the monotone map of the target, it minimises E[(g(z) - T(z))^2]. As g - L z
must fall, it is g = L z + h with h the antitonic regression of T(z) - L z: equal to T where that is
not steep, and straight across the steep places. Between two atoms at -m and m it is the centred
clip, min(max(L z, -m), m).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.networks.oracles.rosenblatt import Rosenblatt
from capcheck.targets.target import Target, require_one_law

REACH = 6.0  # of the knots: beyond it Phi(z) has too few digits, and one draw in 10^9 lies
KNOTS = 4097


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundedSlope:
    """A map of one number that is straight between its knots.

    Attributes:
        z: (M,) knots, evenly spaced.
        g: (M,) its values there.
    """

    z: Tensor
    g: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """G of z, (n, 1, 1)."""
        last = len(self.z) - 1
        place = (z.to(self.z) - self.z[0]) / (self.z[-1] - self.z[0]) * last
        left = place.clamp(0, last - 1).floor()
        index, share = left.long(), (place - left).clamp(0, 1)
        return (1 - share) * self.g[index] + share * self.g[index + 1]


def bounded_slope(target: Target, L: float) -> Rosenblatt | BoundedSlope:
    """The map of slope at most L; the triangular map itself where that is no steeper.

    Args:
        target: A law of one number.
        L: Positive, in token units per standard deviation of the normals.

    Raises:
        InputError: Sequences of more than one number, or rows with laws of their own.
    """
    spec = target.spec
    if spec.kind != "continuous" or spec.tokens * spec.dim != 1:
        raise InputError(
            "gan.lipschitz needs a target of one number, for which the best map is known, got "
            f"{spec.tokens} {spec.kind} tokens of dimension {spec.dim}; leave the option out."
        )
    require_one_law(target, "gan.lipschitz")
    exact = Rosenblatt(target=target)
    z = torch.linspace(-REACH, REACH, KNOTS, dtype=torch.float64, device=target.device)
    T = exact(z[:, None, None])[:, 0, 0].double()
    if float((T.diff() / z.diff()).max()) <= L:
        return exact
    fitted = isotonic_regression(
        (T - L * z).cpu().numpy(), weights=(-0.5 * z.square()).exp().cpu().numpy(), increasing=False
    )
    g = L * z + torch.from_numpy(fitted.x.copy()).to(z)
    return BoundedSlope(z=z.to(target.dtype), g=g.to(target.dtype))
