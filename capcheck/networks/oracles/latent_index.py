"""Encoding of a category as one standard normal number z, by the intervals of its cumulative law.

For probabilities p over 0..K-1 and C_c = p_0 + .. + p_c, the number z selects the category c with
C_{c-1} <= Phi(z) < C_c, so that z ~ N(0, 1) draws c ~ p. Given c, Phi(z) is uniform in this
interval, and z has the density phi(z) / p_c.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.randomness import inverse_cdf
from capcheck.laws import LOG_2PI, TokenLaw
from capcheck.networks.oracles.rosenblatt import uniform_of

__all__ = ["LARGEST", "index_of", "latent_of", "latent_of_token"]

LARGEST = 1 - 2.0**-53  # largest value of a uniform number


def index_of(p: Tensor, z: Tensor) -> Tensor:
    """The category that each number selects, (n,).

    Args:
        p: Probabilities of the categories, (1|n, K), normalised.
        z: Standard normal numbers, (n,).
    """
    if len(p) == 1:
        return inverse_cdf(p[0], uniform_of(z))
    return inverse_cdf(p, uniform_of(z)[:, None])[:, 0]


def latent_of(p: Tensor, index: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """A number that selects each category, and its log-density (nats): (n,) each, of p's dtype.

    Args:
        p: Probabilities of the categories, (1|n, K), normalised.
        index: Categories, (n,); no number selects a category of probability 0.
        v: Uniform numbers in [0, 1], (n,), which choose the place within the interval.
    """
    share = p.double().expand(len(index), -1).gather(1, index[:, None])[:, 0]
    upper = (p.double().cumsum(-1) / p.double().sum(-1, keepdim=True)).expand(len(index), -1)
    upper = upper.gather(1, index[:, None])[:, 0]
    return _within(upper, share, v, lambda z: index_of(p, z) == index, p.dtype)


def latent_of_token(law: TokenLaw, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """As `latent_of`, for token ids x (n, 1) and their (n, 1) law, which is not held as a table."""
    share = law.log_prob(x)[:, 0].double().exp()
    upper = law.cdf(x)[:, 0].double()

    def selects(z: Tensor) -> Tensor:
        return law.icdf(uniform_of(z)[:, None])[:, 0] == x[:, 0]

    return _within(upper, share, v, selects, law.log_prob(x).dtype)


def _within(
    upper: Tensor,
    share: Tensor,
    v: Tensor,
    selects: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Numbers of the intervals of Phi(z) that end at `upper` and are `share` wide; see `latent_of`.

    Args:
        upper: Ends of the intervals, (n,).
        share: Their widths, (n,).
        v: Uniform numbers in [0, 1], (n,).
        selects: Function that tells which numbers (n,) select the categories.
        dtype: Precision of the numbers.
    """

    def at(place: Tensor | float) -> Tensor:
        u = upper - share * (1 - place)
        z: Tensor = torch.special.ndtri(u.clamp(torch.finfo(u.dtype).tiny, LARGEST))
        return z.to(dtype)

    z = at(v.to(upper))
    z = torch.where(selects(z), z, at(0.5))  # rounding can move z off the interval
    return z, -0.5 * (z.square() + LOG_2PI) - share.log().to(z)
