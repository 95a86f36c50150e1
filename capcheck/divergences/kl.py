"""KL(target || model) = E[log p*(x) - log q(x)] over x ~ p*, in nats per sequence.

Where a procedure's density is tractable this is an average over target draws: no sampling error of
the model enters. A density bounded from below gives an upper bound. The reverse KL(model || target)
is the same average over the model's draws.

A mean is only as good as its tail: where the largest log-ratios fall off like a power that leaves
them no variance, the mean of any number of draws falls short, and is reported as a lower bound.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from capcheck.divergences.estimate import Term

__all__ = ["EQUAL", "FEWEST", "HEAVY", "ROUNDINGS", "is_same_law", "kl_term", "tail_index"]

EQUAL = 1e-9  # log-ratios below this in absolute value belong to equal laws, up to rounding
ROUNDINGS = 64  # roundings of a log-density that are allowed where that is more (float32)
HEAVY = 0.7  # tail index from which a mean is not to be trusted (Vehtari et al. 2024)
FEWEST = 100  # draws that a tail index needs


def kl_term(log_ratio: Tensor) -> Term:
    """Mean log-ratio with the interval of its draws.

    Args:
        log_ratio: (n,) values of log p*(x) - log q(x), nats, at independent target draws; +inf
            where q(x) = 0.
    """
    ratio = log_ratio.double().cpu().numpy()
    return Term.from_influence("KL", float(ratio.mean()), [ratio])


def tail_index(values: np.ndarray) -> float:
    """Shape k of the generalised Pareto law of the largest values; moments below 1 / k are finite.

    Fitted by maximum likelihood to min(n / 5, 3 sqrt(n)) of them, as for importance weights.

    Args:
        values: (n,).

    Returns:
        k, or NaN if there are fewer than 100 values, or if they are not finite, hardly vary or take
        few different values.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, "Pareto smoothed importance sampling".
    """
    count = int(min(len(values) / 5, 3 * math.sqrt(len(values))))
    if len(values) < FEWEST or not bool(np.isfinite(values).all()):
        return math.nan
    ordered = np.sort(values)
    excess = ordered[-count:] - ordered[-count - 1]
    scale = float(excess.mean())
    few = len(np.unique(excess)) < count / 2  # of categorical tokens: no power law
    if few or not scale > 1e-9 * max(1.0, float(np.abs(values).mean())):
        return math.nan
    shape, _, _ = stats.genpareto.fit(excess / scale, floc=0)
    return float(shape)


def is_same_law(log_p: Tensor, log_q: Tensor) -> bool:
    """Whether every log-ratio is 0 up to rounding, so that the laws are equal.

    Args:
        log_p: (n,) log-density of one law at some points, nats.
        log_q: (n,) log-density of the other there.
    """
    rounding = ROUNDINGS * torch.finfo(log_p.dtype).eps * float(log_p.abs().max())
    return bool(((log_p - log_q).abs() <= max(EQUAL, rounding)).all())
