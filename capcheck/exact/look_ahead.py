"""The density of a Markov chain after its last step is a mean over draws of the step before.

With a kernel K(y -> x) that is known,

    q_k(x) = E[K(Y -> x)],   Y ~ q_(k-1).

The mean over M draws of Y is an unbiased estimate of q_k(x) that is a density in x. Its logarithm
falls short in expectation, so that it bounds the log-density from below.

Source: Henderson & Glynn 2001, "Computing densities for Markov chains via simulation",
https://doi.org/10.1287/moor.26.2.375.10562.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.log_sums import exp_, log_sum_exp

__all__ = ["look_ahead"]

TILE = 1 << 19  # most log-kernels that are held at once: 4 MiB, which stay in the cache


def look_ahead(log_kernel: Callable[[Tensor], Tensor], n: int, draws: int) -> LogDensity:
    """The bound at n points, all of which share the draws.

    Args:
        log_kernel: Indices of m points (m,) -> log K(y_j -> x_i), (m, M), in nats.
        n: Number of points.
        draws: Number M of draws of the step before.
    """
    values, sums = [], []
    for rows in torch.arange(n).split(max(1, TILE // draws)):
        log_k = log_kernel(rows)
        log_k = log_k.nan_to_num(-torch.inf, torch.inf, -torch.inf)  # of a chain that diverged
        total = log_sum_exp(log_k)
        values.append(total - math.log(draws))
        shares = exp_(log_k - total[:, None])
        sums.append(torch.where(shares.isnan(), 1 / draws, shares).sum(0))
    return LogDensity(
        values=torch.cat(values),
        method=f"the mean of the last step's density over {draws:,} draws of the step before",
        bound=True,
        shared=(torch.stack(sums).sum(0) * draws / n,),
    )
