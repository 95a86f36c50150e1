"""The map of one normal number whose slope is at most L, nearest to the target in W2.

With T = F^-1(Phi(z)) the monotone map of the target, it minimises E[(g(z) - T(z))^2]. As g - L z
must fall, it is g = L z + h with h the antitonic regression of T(z) - L z: equal to T where that is
not steep, and straight across the steep places. Between two atoms at -m and m it is the centred
clip, min(max(L z, -m), m).

T has the slope phi(y) / f(x) at x = T(y), with y = Phi^-1(F(x)), which tends to the widest
component's deviation in the tails and is largest in between, where the density f is small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.laws import LOG_2PI, MixtureOfGaussians, normal_cdf
from capcheck.networks.oracles.rosenblatt import Rosenblatt
from capcheck.targets.target import Target, require_one_law

__all__ = [
    "FINALISTS",
    "GOLDEN",
    "KNOTS",
    "NARROWINGS",
    "PAIRS",
    "PLACES",
    "REACH",
    "ROUGH",
    "ROUNDING",
    "BoundedSlope",
    "bounded_slope",
    "steepest_slope",
]

REACH = 6.0  # of the knots: beyond it Phi(z) has too few digits, and one draw in 10^9 lies
KNOTS = 4097
PLACES = (*range(9), 12, 18, 27, 37)  # deviations from every mean
GOLDEN = 0.5 * (math.sqrt(5) - 1)
NARROWINGS = 60  # of an interval that holds a maximum, each by GOLDEN: to 3e-13 of it
ROUGH = 9  # narrowings after which only the steepest places are looked at further
FINALISTS = 64  # of them
ROUNDING = 1e-9  # of a slope that is found
PAIRS = 1 << 20  # points x components that are worked on at once


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundedSlope:
    """A map of one number that is straight between its knots.

    Attributes:
        z: (M,) knots, evenly spaced.
        g: (M,) its values there.
    """

    z: Tensor
    g: Tensor

    def __call__(self, z: Tensor, *given: Tensor) -> Tensor:
        """G of z, (n, 1, 1); of one number nothing is given."""
        last = len(self.z) - 1
        place = (z.to(self.z) - self.z[0]) / (self.z[-1] - self.z[0]) * last
        left = place.clamp(0, last - 1).floor()
        index, share = left.long(), (place - left).clamp(0, 1)
        return (1 - share) * self.g[index] + share * self.g[index + 1]


def bounded_slope(target: Target, L: float) -> Rosenblatt | BoundedSlope:
    """The map of slope at most L; the triangular map itself where that is no steeper.

    Args:
        target: A law of one number, a mixture of Gaussians.
        L: Positive, in token units per standard deviation of the normals.

    Raises:
        UnfitError: Sequences of more than one number, or rows with laws of their own.
    """
    spec = target.spec
    if spec.kind != "continuous" or spec.tokens * spec.dim != 1:
        raise UnfitError(
            "gan.lipschitz needs a target of one number, for which the best map is known, got "
            f"{spec.tokens} {spec.kind} tokens of dimension {spec.dim}; leave the option out."
        )
    require_one_law(target, "gan.lipschitz")
    exact = Rosenblatt(target=target)
    if steepest_slope(target) <= L * (1 + ROUNDING):
        return exact
    z = torch.linspace(-REACH, REACH, KNOTS, dtype=torch.float64, device=target.device)
    T = exact(z[:, None, None])[:, 0, 0].double()
    fitted = isotonic_regression(
        (T - L * z).cpu().numpy(), weights=(-0.5 * z.square()).exp().cpu().numpy(), increasing=False
    )
    g = L * z + torch.from_numpy(fitted.x.copy()).to(z)
    return BoundedSlope(z=z.to(target.dtype), g=g.to(target.dtype))


def steepest_slope(target: Target) -> float:
    """The least upper bound of the slope of the triangular map, exact to some roundings.

    The local maxima among points that are dense in every component are refined by golden section.

    Args:
        target: A law of one number, a mixture of Gaussians.
    """
    wide = target.to(device="cpu", dtype=torch.float64)
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    law = wide.marginals(x, torch.ones_like(x[..., 0])).coordinate(0, x).held()
    assert isinstance(law, MixtureOfGaussians)  # as all continuous targets are
    w, m, s = (part.expand(1, 1, law.means.shape[2])[0, 0] for part in law.on_the_line())
    w, m, s = (part[w > 0] for part in (w, m, s))
    places = torch.tensor(sorted({sign * p for p in PLACES for sign in (-1, 1)})).to(m)
    points = (m[:, None] + s[:, None] * places).flatten().unique()  # rising
    value = _log_slope(points, w, m, s)
    peak = (value[1:-1] >= value[:-2]) & (value[1:-1] >= value[2:])
    low, high = points[:-2][peak], points[2:][peak]
    best = value.max()
    for count in range(NARROWINGS if len(low) else 0):
        a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        at_a, at_b = _log_slope(torch.cat([a, b]), w, m, s).chunk(2)
        low, high = torch.where(at_a < at_b, a, low), torch.where(at_a < at_b, high, b)
        peaks = torch.maximum(at_a, at_b)
        best = torch.maximum(best, peaks.max())
        if count == ROUGH:
            chosen = peaks.topk(min(FINALISTS, len(peaks))).indices
            low, high = low[chosen], high[chosen]
    return max(float(best.exp()), float(s.max()))


def _log_slope(x: Tensor, w: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """Log of phi(Phi^-1(F(x))) / f(x) at points (P,), -inf beyond all tails of K components."""
    parts = []
    for some in x.split(max(1, PAIRS // len(w))):
        z = (some[:, None] - m) / s  # (p, K)
        log_f = (w.log() - s.log() - 0.5 * (z.square() + LOG_2PI)).logsumexp(1)
        tail = torch.minimum((w * normal_cdf(z)).sum(1), (w * normal_cdf(-z)).sum(1))
        y = torch.special.ndtri(tail / w.sum())
        parts.append(-0.5 * (y.square() + LOG_2PI) - log_f)
    return torch.cat(parts)
