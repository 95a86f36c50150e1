"""Squared kernel Stein discrepancy (KSD): the distance of draws from a law with a known score.

    KSD^2 = E u(X, X'),  u(x, y) = s(x)'s(y) k + s(x)'grad_y k + s(y)'grad_x k + tr grad_x grad_y k

over independent draws X, X' of the model, with s = grad log p of the target and the inverse
multiquadric kernel k(x, y) = (1 + |x - y|^2 / c^2)^(-1/2), whose slow tails respond to every
departure that moves mass. E u(x, Y) = 0 for draws Y of the target, so no target draws are needed.
The estimate is a signed U-statistic, computed in tiles. As for MMD, half the second-order deviation
is added to its standard error, so that the interval is conservative for equal laws. A score does
not depend on the weights of modes that lie far apart, so KSD does not detect errors in them.

Scores follow from Tweedie's formula. Draws and target are smoothed with the same noise; the score
of the smoothed target is exact at every point, whether or not the target has a density:

    s(x~) = (E[x_0 | x~] - x~) / rho^2,  x~ = x_0 + rho e.

Source: Liu, Lee, Jordan (ICML 2016), equation 14; Chwialkowski, Strathmann, Gretton (ICML 2016),
wild bootstrap; Gorham and Mackey (ICML 2017), the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.divergences.estimate import Term
from capcheck.divergences.mmd import with_second_order
from capcheck.noise.paths import PATHS
from capcheck.targets.target import ContinuousTarget

__all__ = ["NOISE", "TILE", "SteinTest", "ksd_squared", "smoothed_scores", "stein_test"]

TILE = 512  # rows and columns of a tile, small enough to stay in the cache
NOISE = 0.1  # standard deviation of the smoothing noise, in that of each token


@dataclass(frozen=True, kw_only=True)
class SteinTest:
    """The outcome of a test by KSD.

    Attributes:
        ksd_squared: The signed estimate of KSD^2.
        p_value: (1 + k) / (1 + B), where k of B random sign vectors have at least as large a sum.
    """

    ksd_squared: Term
    p_value: float


def ksd_squared(x: Tensor, scores: Tensor, *, c: float) -> Term:
    """Unbiased estimate of the squared kernel Stein discrepancy.

    Args:
        x: (n, D) independent draws of the model, n at least 2.
        scores: Scores grad log p of the target at x, (n, D).
        c: Scale of the kernel, in the unit of x, above 0.

    Returns:
        The signed estimate, in 1 / (unit of x)^2.

    Raises:
        InputError: The shapes do not match, there are too few rows, values are not finite, or c is
            not positive and finite.
    """
    signs = torch.empty(len(x), 0, dtype=torch.float64, device=x.device)
    return _summed(x, scores, signs, c)[0]


def stein_test(
    x: Tensor, scores: Tensor, *, c: float, rng: Randomness, resamples: int = 200
) -> SteinTest:
    """Test whether draws come from the law that has the given scores, by the wild bootstrap.

    For equal laws u is degenerate: as n grows, the sum over pairs of w_i w_j u(x_i, x_j) with
    random signs w takes on the law of the sum of u(x_i, x_j).

    Args:
        x: Draws, (n, D), as in `ksd_squared`.
        scores: Scores, (n, D), as in `ksd_squared`.
        c: Scale of the kernel, in the unit of x, above 0.
        rng: Source of the signs.
        resamples: Number B of sign vectors, at least 1; the p-value is at least 1 / (1 + B).

    Raises:
        InputError: As in `ksd_squared`, or `resamples` is below 1.
    """
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}.")
    u = rng.stream("signs").uniform((len(x), resamples)).to(x.device)
    term, sums = _summed(x, scores, 2 * (u > 0.5).double() - 1, c)
    at_least = int((sums >= term.value).sum())
    return SteinTest(ksd_squared=term, p_value=(1 + at_least) / (1 + resamples))


def smoothed_scores(
    target: ContinuousTarget, x: Tensor, *, rng: Randomness, noise: float = NOISE
) -> tuple[Tensor, Tensor]:
    """Smoothed draws x~, and the scores s(x~) of the equally smoothed target.

    Args:
        target: The target, none of whose tokens is constant.
        x: Finite draws, (n, N, d).
        rng: Source of the smoothing noise.
        noise: Deviation rho of the noise, in standard deviations of each token, above 0.

    Returns:
        The draws x~ in standard deviations of each token, and s(x~) in the inverse unit, both
        (n, N d) float64.

    Raises:
        InputError: The shapes do not match, a token is constant, or the noise is not positive and
            finite.
    """
    if not 0 < noise < float("inf"):
        raise InputError(f"noise must be positive and finite, got {noise!r}.")
    deviation = target.spec.variance.double().mean(1).sqrt().to(x.device)  # (N,)
    constant = (deviation == 0).nonzero()
    if len(constant):
        raise InputError(
            f"scores need tokens that vary, got a constant token {int(constant[0])}; leave it out."
        )
    rho = noise * deviation[:, None]  # (N, 1)
    level = (rho / (1 + rho)).to(target.dtype)  # sigma / alpha = rho on the linear path
    rho = level.double() / (
        1 - level.double()
    )  # recomputed from the rounded level, which may be near 1
    smooth = x.double() + rho * rng.stream("smoothing").normal(tuple(x.shape)).to(x.device)
    seen = ((1 - level.double()) * smooth).to(target.dtype)
    levels = level[:, 0].expand(len(x), -1)
    clean = target.denoise(seen, levels, PATHS["linear"]).double()
    scores = (clean - smooth) / rho**2
    return (smooth / deviation[:, None]).flatten(1), (scores * deviation[:, None]).flatten(1)


def _summed(x: Tensor, scores: Tensor, signs: Tensor, c: float) -> tuple[Term, Tensor]:
    """The estimate of KSD^2, and the signed U-statistic (B,) for each column of signs (n, B)."""
    _require_scores(x, scores, c)
    n = len(x)
    of_rows = torch.zeros(n, dtype=torch.float64, device=x.device)
    sums = torch.zeros(signs.shape[1], dtype=torch.float64, device=x.device)
    squares, largest = 0.0, 0.0
    for rows, columns, u in _tiles(x, scores, c):
        weight = 1 if rows == columns else 2  # and the tile across the diagonal
        of_rows[rows] += u.sum(1)
        if rows != columns:
            of_rows[columns] += u.sum(0)
        sums += weight * (signs[rows] * (u @ signs[columns])).sum(0)
        squares += weight * float(u.square().sum())
        largest = max(largest, float(u.abs().max()))
    r = of_rows / (n - 1)  # E u(x_i, X')
    value = float(r.mean())
    term = Term.from_influence(f"scale {c:.4g}", value, [(2 * r).cpu().numpy()], reach=4 * largest)
    # Sum over i != j of (u_ij - r_i - r_j + value)^2.
    squares += n * (n + 1) * value**2 - 2 * n * float(r.square().sum())
    zeta = float(np.clip(squares, 0, None)) / (n * (n - 1))
    return with_second_order(term, [zeta], [n]), sums / (n * (n - 1))


def _tiles(x: Tensor, scores: Tensor, c: float) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of u on and above the diagonal, which is set to 0.

    Rows are divided by c for the computation, and u by c^2 afterwards.
    """
    centred = (x.double() - x.double().mean(0)) / c  # expanding the square loses fewer digits
    s = scores.double() * c
    norms, own = centred.square().sum(1), (s * centred).sum(1)
    n, D = x.shape
    for i in range(0, n, TILE):
        rows = slice(i, min(i + TILE, n))
        for j in range(i, n, TILE):
            columns = slice(j, min(j + TILE, n))
            squared = norms[rows, None] + norms[columns] - 2 * centred[rows] @ centred[columns].T
            squared.clamp_(min=0)
            q = 1 / (1 + squared)
            k = q.sqrt()
            along = own[rows, None] - s[rows] @ centred[columns].T  # s(x)'(x - y)
            along -= centred[rows] @ s[columns].T - own[columns]  # s(y)'(x - y)
            u = s[rows] @ s[columns].T + q * (along + D) - 3 * squared * q.square()
            u *= k
            if i == j:
                u.fill_diagonal_(0)
            yield rows, columns, u / c**2


def _require_scores(x: Tensor, scores: Tensor, c: float) -> None:
    if x.ndim != 2 or x.shape != scores.shape or x.shape[1] == 0 or len(x) < 2:
        raise InputError(
            "draws and scores must both be (n, D) with n at least 2, got "
            f"{tuple(x.shape)} and {tuple(scores.shape)}."
        )
    if not (x.is_floating_point() and scores.is_floating_point()):
        raise InputError(f"KSD needs numbers, got {x.dtype} and {scores.dtype}.")
    for name, z in (("draws", x), ("scores", scores)):
        if not bool(z.isfinite().all()):
            raise InputError(f"{name} must be finite, got NaN or infinity; leave such rows out.")
    if not 0 < c < float("inf"):
        raise InputError(f"c must be positive and finite, got {c!r}.")
