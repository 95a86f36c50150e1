"""Kullback-Leibler divergence of a model q from the target p*, in nats per sequence.

    KL(p* || q) = E[log p*(x) - log q(x)],  x ~ p*

If a procedure's log-density is known, KL is a mean over target draws, free of the model's sampling
error; a lower bound of the log-density gives an upper bound of KL. The reverse KL(q || p*) is the
mean of log q - log p* over the model's draws.

The mean of a heavy-tailed log-ratio tends to fall short of its expectation at any number of draws.
A tail index above `HEAVY` therefore turns the estimate into a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from capcheck.divergences.estimate import Term

__all__ = ["EQUAL", "FEWEST", "HEAVY", "ROUNDINGS", "is_same_law", "kl_term", "tail_index"]

EQUAL = 1e-9  # nats: log-ratios of equal laws are at most this in absolute value
ROUNDINGS = 64  # machine epsilons of a log-density allowed instead, if that is more (float32)
HEAVY = 0.7  # tail index above which a sample mean is unreliable (Vehtari et al. 2024)
FEWEST = 100  # least number of draws for a tail index


def kl_term(log_ratio: Tensor, shared: Sequence[Tensor] = ()) -> Term:
    """The mean of log-ratios at independent draws, as a term with its standard error.

    Args:
        log_ratio: (n,), nats; for KL, log p*(x) - log q(x) at target draws, +inf where q(x) = 0.
        shared: For each set of draws that all log-ratios share, the influence (M,) of every draw
            on the mean.
    """
    ratio, *others = (each.double().cpu().numpy() for each in (log_ratio, *shared))
    return Term.from_influence("KL", float(ratio.mean()), [ratio, *others])


def tail_index(values: np.ndarray) -> float:
    """Shape k of the generalised Pareto law of the largest values; moments below 1 / k are finite.

    The shape is fitted by maximum likelihood to the min(n / 5, 3 sqrt(n)) largest values, the
    number that Pareto smoothed importance sampling uses.

    Args:
        values: (n,).

    Returns:
        The shape k, or NaN if there are fewer than `FEWEST` values, or if the values are not
        finite, hardly vary, or take few distinct values.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, "Pareto smoothed importance sampling",
        https://arxiv.org/abs/1507.02646.
    """
    count = int(min(len(values) / 5, 3 * math.sqrt(len(values))))
    if len(values) < FEWEST or not bool(np.isfinite(values).all()):
        return math.nan
    ordered = np.sort(values)
    excess = ordered[-count:] - ordered[-count - 1]
    scale = float(excess.mean())
    few = len(np.unique(excess)) < count / 2  # ties, as categorical tokens make, are no power law
    if few or not scale > 1e-9 * max(1.0, float(np.abs(values).mean())):
        return math.nan
    shape, _, _ = stats.genpareto.fit(excess / scale, floc=0)
    return float(shape)


def is_same_law(log_p: Tensor, log_q: Tensor) -> bool:
    """Whether every log-ratio is 0 up to rounding, so that the laws are equal.

    Args:
        log_p: Log-density of one law at n points, (n,), nats.
        log_q: Log-density of the other law at the same points, (n,), nats.
    """
    rounding = ROUNDINGS * torch.finfo(log_p.dtype).eps * float(log_p.abs().max())
    return bool(((log_p - log_q).abs() <= max(EQUAL, rounding)).all())
