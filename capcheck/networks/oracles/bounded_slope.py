"""Among maps g of one normal number with slope at most L, the one nearest to a target in W2.

With T(z) = F^-1(Phi(z)) the monotone map of the target, g minimises E[(g(z) - T(z))^2]. Since
g(z) - L z must not increase, g(z) = L z + h(z), where h is the antitonic regression of T(z) - L z.
Roughly, g equals T where T is not steep, and has slope L across the steep places. For two atoms of
equal weight at -m and m, g(z) = min(max(L z, -m), m).

The slope of T at x = T(y) is phi(y) / f(x), with y = Phi^-1(F(x)). It tends to the widest
component's deviation in the tails, and is largest where the density f between components is small.
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

REACH = 6.0  # largest |z| of a knot; one draw in 10^9 is larger, and Phi(z) loses digits there
KNOTS = 4097  # number of knots of the piecewise linear map
PLACES = (*range(9), 12, 18, 27, 37)  # distances of points from every mean, in deviations
GOLDEN = 0.5 * (math.sqrt(5) - 1)  # factor by which one narrowing shortens an interval
NARROWINGS = 60  # narrowings of an interval around a maximum: to 3e-13 of its length
ROUGH = 9  # narrowings after which only the steepest intervals are kept
FINALISTS = 64  # number of intervals that are kept
ROUNDING = 1e-9  # relative error of the steepest slope
PAIRS = 1 << 20  # points x components that are processed at once


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundedSlope:
    """A piecewise linear map of one number, constant beyond its last knots.

    Attributes:
        z: Knots, (M,), evenly spaced.
        g: Values of the map at the knots, (M,).
    """

    z: Tensor
    g: Tensor

    def __call__(self, z: Tensor, *given: Tensor) -> Tensor:
        """The values g(z), (n, 1, 1); `given` is empty, since the only token is not given."""
        last = len(self.z) - 1
        place = (z.to(self.z) - self.z[0]) / (self.z[-1] - self.z[0]) * last
        left = place.clamp(0, last - 1).floor()
        index, share = left.long(), (place - left).clamp(0, 1)
        return (1 - share) * self.g[index] + share * self.g[index + 1]


def bounded_slope(target: Target, L: float) -> Rosenblatt | BoundedSlope:
    """The best map of slope at most L, which is the triangular map if that is nowhere steeper.

    Args:
        target: Law of one number, a mixture of Gaussians.
        L: Bound on the slope, positive, in token units per standard deviation of the normals.

    Raises:
        UnfitError: Sequences have more than one number, or rows have different laws.
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
    """The supremum of the slope of the triangular map, to a relative error of about 1e-9.

    The slope is evaluated at points around every component, and the local maxima among these are
    refined by golden-section search.

    Args:
        target: Law of one number, a mixture of Gaussians.
    """
    wide = target.to(device="cpu", dtype=torch.float64)
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    law = wide.marginals(x, torch.ones_like(x[..., 0])).coordinate(0, x).held()
    assert isinstance(law, MixtureOfGaussians)  # true of all continuous targets
    w, m, s = (part.expand(1, 1, law.means.shape[2])[0, 0] for part in law.on_the_line())
    w, m, s = (part[w > 0] for part in (w, m, s))
    places = torch.tensor(sorted({sign * p for p in PLACES for sign in (-1, 1)})).to(m)
    points = (m[:, None] + s[:, None] * places).flatten().unique()  # ascending
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
    """The logarithm of phi(Phi^-1(F(x))) / f(x) at points x (P,) of a mixture of K Gaussians.

    The value is -inf where the tail of the mixture underflows.
    """
    parts = []
    for some in x.split(max(1, PAIRS // len(w))):
        z = (some[:, None] - m) / s  # (p, K)
        log_f = (w.log() - s.log() - 0.5 * (z.square() + LOG_2PI)).logsumexp(1)
        tail = torch.minimum((w * normal_cdf(z)).sum(1), (w * normal_cdf(-z)).sum(1))
        y = torch.special.ndtri(tail / w.sum())
        parts.append(-0.5 * (y.square() + LOG_2PI) - log_f)
    return torch.cat(parts)
