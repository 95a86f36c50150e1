"""Push-forward models: Salmona, De Bortoli, Delon & Desolneux 2022, https://arxiv.org/abs/2206.14476.

The paper shows that a map of bounded slope L cannot carry one normal number to two separate modes:
it has to place mass between them. For N(-m, s^2) and N(m, s^2) with equal weights:

    the map that makes the mixture has a slope of s exp(m^2 / (2 s^2))
    with narrow modes, a map of slope L leaves a total variation of at least Phi(2 m / L) - 1/2

The second is the Gaussian isoperimetric inequality, with half of the mass on one side of the gap.
The slope of the monotone map is phi / f at the middle, where it is steepest: that is an equality,
and capcheck finds the steepest place of any mixture (`steepest_slope`), by which `gan` with
`lipschitz` decides whether a bound matters. Total variation is measured of laws that can be
enumerated only, so that the second bound stands here with what it says of KL, 2 TV^2 (Pinsker's
inequality), which capcheck's own lower bound of KL has to reach at the map that is best in W2. The
W2 that this map leaves is, for narrow modes, E[(min(m, L |z|) - m)^2] with z standard normal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from scipy import integrate, stats

from capcheck.networks.oracles.bounded_slope import steepest_slope
from capcheck.published.cells import cell_of
from capcheck.published.claim import Claim, digits
from capcheck.targets import ProductMixture, Target

__all__ = ["claims"]

SOURCE = "push-forward"
SLOPES = ((1.0, 1.0), (2.0, 1.0), (2.0, 0.5), (3.0, 0.5))
BOUNDS = (0.5, 1.0)
M, S = 1.0, 1e-3  # of the narrow modes
SAMPLES = 2000
ENUMERATED = "capcheck measures total variation only of laws that it can enumerate"


def claims() -> Iterator[Claim]:
    """Slopes that modes need, and what maps of bounded slope leave."""
    for m, s in SLOPES:
        yield _claim(
            "slope of an exact map",
            f"slope for m = {m:g}, s = {s:g}",
            math.exp(m**2 / (2 * s**2)) * s,
            by="steepest_slope",
            value=steepest_slope(modes(m, s)),
            places=3,
        )
    for L in BOUNDS:
        yield from _of_bound(L)


def _of_bound(L: float) -> Iterator[Claim]:
    """Total variation, KL and W2 squared of a map of slope L on narrow modes at -1 and 1."""
    tv = float(stats.norm.cdf(2 * M / L) - 0.5)
    names, what = ("kl", "wasserstein"), f"slope at most {L:g}"
    cell = cell_of("gan", modes(M, S), {"lipschitz": L}, divergences=names, samples=SAMPLES)
    kl, w2 = (cell.estimates[name] for name in names)
    place, by = "bounded slope", "check('gan')"
    yield _claim(
        place, f"total variation, {what}", tv, by="-", value=None, at_least=True, reason=ENUMERATED
    )
    yield _claim(
        place,
        f"KL, nats, by its lower bound, {what}",
        2 * tv**2,
        by=by,
        value=kl.value,
        low=kl.low,
        high=kl.high,
        at_least=True,
    )
    left, _ = integrate.quad(
        lambda z: 2 * stats.norm.pdf(z) * (min(M, L * z) - M) ** 2, 0, M / L + 1e-12
    )
    assert w2.value is not None
    yield _claim(
        place,
        f"W2 squared, {what}",
        left,
        by=by,
        value=w2.value,
        low=w2.low,
        high=w2.high,
        places=3,
    )


def modes(m: float, s: float) -> Target:
    """1/2 N(-m, s^2) + 1/2 N(m, s^2)."""
    return ProductMixture(
        torch.tensor([[[-m]], [[m]]], dtype=torch.float64),
        torch.tensor([[s]], dtype=torch.float64),
    )


def _claim(place: str, quantity: str, closed: float, *, places: int = 6, **more: Any) -> Claim:
    return Claim(
        source=SOURCE,
        place=place,
        quantity=quantity,
        printed=digits(closed, places),
        side="closed form",
        **more,
    )
