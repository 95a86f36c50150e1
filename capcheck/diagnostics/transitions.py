"""The KL divergence of pooled transitions from those of a Markov chain of order 1.

    sum_a w(a) KL(P_hat(. | a) || P(. | a)),

where P_hat is the share of each symbol among all that follow symbol a in the draws, at any place,
and w(a) is the share of a among all symbols that are followed by one. Nothing is smoothed: the sum
runs over the pairs of symbols that were drawn, and is infinite if one of them has P(b | a) = 0.

It is a statistic of pairs, and no divergence of laws of sequences: it is 0 for some wrong laws, and
for draws of the chain itself its mean is about (pairs seen - symbols seen) / (2 pairs in all).

Source: Tang, Yu, Zhang and Ver Steeg, Is your diffusion sampler actually correct?
(https://arxiv.org/abs/2602.19619), direction and weights as in the authors' program
(https://github.com/LuhanTang/dllm_sampler), which replaces P(b | a) = 0 by 1e-30.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from capcheck.diagnostics.figure import Figure
from capcheck.divergences.estimate import t_quantile
from capcheck.targets.categorical.markov_chain import MarkovChain
from capcheck.targets.target import Target

__all__ = ["TransitionKL", "transition_figure", "transition_kl"]


@dataclass(frozen=True, kw_only=True)
class TransitionKL:
    """The statistic of some draws.

    Attributes:
        value: Value in nats per transition; may be infinite.
        standard_error: Standard error of the value, as rows are independent.
        bias: Mean of the value for draws of the chain itself, about.
    """

    value: float
    standard_error: float
    bias: float


def transition_kl(chain: MarkovChain, x: Tensor) -> TransitionKL:
    """The statistic of draws x (n, N) of at least two tokens.

    The influence of a row is its mean of log P_hat(b | a) / P(b | a). For draws of the chain itself
    the statistic is nearly chi-squared, and the standard error about sqrt(2) times too large.
    """
    V, pairs = chain.spec.dim, x[:, :-1] * chain.spec.dim + x[:, 1:]  # (n, N - 1)
    seen, index, count = pairs.unique(return_inverse=True, return_counts=True)
    a, b, c = seen // V, seen % V, count.double()
    of_symbol = c.new_zeros(V).index_add_(0, a, c)
    log_ratio = (c / of_symbol[a]).log() - chain.conditionals[1].double()[a, b].log()
    of_rows = log_ratio[index].mean(1)  # (n,)
    value, M = float(of_rows.mean()), pairs.numel()
    if not math.isfinite(value):
        return TransitionKL(value=value, standard_error=0.0, bias=math.nan)
    degrees = len(seen) - int((of_symbol > 0).sum())
    error = float(of_rows.std()) / math.sqrt(len(x))
    return TransitionKL(value=value, standard_error=error, bias=degrees / (2 * M))


def transition_figure(target: Target, samples: Tensor, draws: Tensor, *, level: float) -> Figure:
    """The statistic of a model's draws beside that of as many draws of the target.

    Args:
        target: The target.
        samples: Draws of the model, (n, N).
        draws: Draws of the target, (m, N).
        level: Confidence of the intervals.
    """
    if not isinstance(target, MarkovChain) or target.order != 1 or len(target.conditionals) != 2:
        return Figure(method="the target is no Markov chain of order 1 with one transition matrix")
    if target.spec.tokens < 2:
        return Figure(method="a single token has no transitions")
    rows = min(len(samples), len(draws))  # the bias depends on the number of pairs
    ours, theirs = (transition_kl(target, x[:rows]) for x in (samples, draws))
    half, own = (t_quantile(level, rows - 1) * of.standard_error for of in (ours, theirs))
    method = (
        f"statistic of pooled pairs, biased upwards by about {theirs.bias:.2g}; "
        "the interval is that of its mean"
    )
    return Figure(
        value=ours.value,
        low=max(0.0, ours.value - half),
        high=ours.value + half,
        target=theirs.value,
        target_low=max(0.0, theirs.value - own),
        target_high=theirs.value + own,
        rows=rows,
        method=method,
    )
