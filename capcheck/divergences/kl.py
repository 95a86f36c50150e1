"""KL(target || model) = E[log p*(x) - log q(x)] over x ~ p*, in nats per sequence.

Where a procedure's density is tractable this is an average over target draws: no sampling error of
the model enters. A density bounded from below gives an upper bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.divergences.estimate import Term

EQUAL = 1e-9  # log-ratios below this in absolute value belong to equal laws, up to rounding
ROUNDINGS = 64  # roundings of a log-density that are allowed where that is more (float32)


def kl_term(log_ratio: Tensor) -> Term:
    """Mean log-ratio with the interval of its draws.

    Args:
        log_ratio: (n,) values of log p*(x) - log q(x), nats, at independent target draws; +inf
            where q(x) = 0.
    """
    ratio = log_ratio.double().cpu().numpy()
    return Term.from_influence("KL", float(ratio.mean()), [ratio])


def is_same_law(log_p: Tensor, log_q: Tensor) -> bool:
    """Whether every log-ratio is 0 up to rounding, so that the laws are equal.

    Args:
        log_p: (n,) log-density of one law at some points, nats.
        log_q: (n,) log-density of the other there.
    """
    rounding = ROUNDINGS * torch.finfo(log_p.dtype).eps * float(log_p.abs().max())
    return bool(((log_p - log_q).abs() <= max(EQUAL, rounding)).all())
