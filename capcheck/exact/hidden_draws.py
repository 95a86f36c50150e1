"""The log-density of a law with hidden draws, such as an order of tokens, between two bounds.

With w a weight whose mean over the hidden draws is the density q(x), and a, b the means of two
independent halves of M weights,

    E log (a + b) / 2  <=  log q(x)  <=  E log a + b / a - 1,

the first by Jensen's inequality, the second since log q <= log a + q / a - 1 for every a > 0, and
q is the mean of b. Both bounds are tight where the weights of a sequence hardly differ.

Source: Burda, Grosse & Salakhutdinov 2016, "Importance weighted autoencoders",
    https://arxiv.org/abs/1509.00519, for the bound from below; Dieng, Tran, Ranganath, Paisley &
    Blei 2017, "Variational inference via chi upper bound minimization",
    https://arxiv.org/abs/1611.00328, for the idea of one from above.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness

__all__ = ["ALIKE", "DRAWS", "EQUAL", "PILOT", "STACKED", "between_bounds", "over_hidden_draws"]

DRAWS = 4  # hidden draws of each row
ALIKE = 2.0  # largest variance of log-weights, nats^2, at which so many draws tighten the bounds
EQUAL = 1e-9  # variance of log-weights, nats^2, up to which one draw says all
PILOT = 32  # rows that tell how alike the weights are
STACKED = 512  # rows up to which several draws of each are made together


def over_hidden_draws(
    log_weight: Callable[[Tensor, Randomness], Tensor], x: Tensor, rng: Randomness, draws: str
) -> LogDensity:
    """The log-density between two bounds, or one bound from below by one draw of each row.

    One draw is made where the weights differ too much for a few to help, or not at all.

    Args:
        log_weight: Function that draws one log-weight (n,) for each row of x, in nats.
        x: Sequences, (n, N, d), or (n, N) integers.
        rng: Source of the hidden draws.
        draws: What is drawn, in words for the method, in the plural.
    """
    n, few = len(x), min(len(x), PILOT)
    first, again = log_weight(torch.cat([x, x[:few]]), rng).split([n, few])
    variance = float(torch.stack([first[:few], again]).var(0).mean())
    if not EQUAL < variance <= ALIKE:
        method = f"mean over {draws}, one drawn for each row"
        return LogDensity(values=first, bound=True, method=method)
    at_once = min(max(1, STACKED // n), DRAWS - 1)  # few rows take hardly longer than one
    others = [
        log_weight(x.repeat(len(part), *[1] * (x.dim() - 1)), rng).reshape(-1, n)
        for part in torch.arange(DRAWS - 1).split(at_once)
    ]
    return between_bounds(torch.cat([first[None], *others]), f"mean over {DRAWS} {draws} a row")


def between_bounds(log_w: Tensor, method: str) -> LogDensity:
    """The log-density between bounds from independent log-weights of the same law.

    Args:
        log_w: (M, n), nats.
        method: The method of computation, in a few words.
    """
    M = len(log_w)
    values = log_w.logsumexp(0) - math.log(M)
    if M == 1:
        return LogDensity(values=values, bound=True, method=method)
    log_a, log_b = (half.logsumexp(0) - math.log(len(half)) for half in log_w.tensor_split(2))
    # Each half takes either part, which halves the error of the bound.
    above = (log_a + log_b + (log_b - log_a).exp() + (log_a - log_b).exp()) / 2 - 1
    return LogDensity(values=values, bound=True, above=above, method=method)
