"""A head is the class of laws that a network can emit for a continuous token.

The head `gaussian` keeps the mean and variance of every coordinate, which is the best Gaussian with
independent coordinates in forward KL. The head `mixture` has m Gaussians, which EM fits to the law:
max over (w, mu, v) of E log sum_c w_c N(x; mu_c, v_c). The head `exact` emits the law as it is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.laws import LOG_2PI, MixtureOfGaussians, TokenLaw

__all__ = ["ITERATIONS", "NODES", "REACH", "HeadName", "emitted"]

HeadName = Literal["gaussian", "mixture", "exact"]
NODES = 129  # grid points at which a mixture is fitted
REACH = 6.0  # half-width of the grid around the mean, in standard deviations
ITERATIONS = 60  # iterations of EM


def emitted(law: TokenLaw, head: HeadName, *, components: int = 2) -> TokenLaw:
    """The best law that a head can emit in place of the law of continuous tokens.

    Args:
        law: Law of (n, N) tokens.
        head: Kind of head.
        components: Number m of Gaussians in a mixture.

    Raises:
        UnfitError: The head is `mixture`, and tokens have more than one dimension.
    """
    if head == "exact":
        return law
    mean, variance = (of[:, :, None] for of in law.moments())  # (n, N, 1, d)
    if head == "gaussian":
        return MixtureOfGaussians(mean.new_zeros(1, 1, 1), mean, variance)
    if mean.shape[-1] != 1:
        raise UnfitError(
            f"heads=mixture needs tokens of dimension 1, got {mean.shape[-1]}; "
            "use heads=gaussian or heads=exact."
        )
    return _fitted_mixture(law, mean[..., 0], variance[..., 0], components)


def _fitted_mixture(law: TokenLaw, mean: Tensor, variance: Tensor, m: int) -> MixtureOfGaussians:
    """Fit m Gaussians by EM to the density at evenly spaced nodes; mean, variance are (n, N, 1)."""
    z = torch.linspace(-REACH, REACH, NODES).to(mean)
    x = mean + variance.sqrt() * z  # (n, N, Q)
    log_p = torch.stack([law.log_prob(node[..., None]) for node in x.unbind(2)], 2)
    p = log_p.softmax(2)[..., None]  # (n, N, Q, 1)
    # A component narrower than the distance of the nodes could collapse onto a single node.
    middle = (torch.arange(m).to(mean) + 0.5) / m
    start = (p[..., 0].cumsum(2) < middle[:, None, None, None]).sum(3).clamp(max=NODES - 1)
    mu = x.gather(2, start.permute(1, 2, 0))[:, :, None]  # (n, N, 1, m)
    v = variance[..., None].expand_as(mu) / m**2
    least = variance[..., None] * (2 * REACH / (NODES - 1)) ** 2
    log_w = torch.zeros_like(mu)
    x = x[..., None]
    for _ in range(ITERATIONS):
        log_joint = log_w - 0.5 * ((x - mu).square() / v + v.log() + LOG_2PI)
        r = p * log_joint.softmax(3)  # (n, N, Q, m)
        mass = r.sum(2, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
        log_w, mu = mass.log(), (r * x).sum(2, keepdim=True) / mass
        v = torch.maximum((r * (x - mu).square()).sum(2, keepdim=True) / mass, least)
    return MixtureOfGaussians(log_w[:, :, 0], mu[:, :, 0, :, None], v[:, :, 0, :, None])
