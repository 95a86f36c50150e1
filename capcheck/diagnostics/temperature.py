"""The temperature at which the target, drawn from left to right, is most like a model's draws.

At temperature t = 1 / b every token has the law p_b(x_i | x_<i) = p(x_i | x_<i)^b / Z_i(b) in place
of the target's. The effective temperature maximises the likelihood of the draws, which is concave
in b: there the tokens' log-probabilities have the mean that they would have at this temperature,

    sum_i log p(x_i | x_<i) = sum_i E_b[log p(. | x_<i)].

It is 1 for the target itself, below 1 for draws that are too probable, and above 1 for draws that
are not probable enough.

Source: temperature scaling (Guo, Pleiss, Sun and Weinberger, On calibration of modern neural
networks, ICML 2017), applied to draws in place of labels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from scipy import optimize
from torch import Tensor

from capcheck.core.log_sums import log_sum_exp, softmax
from capcheck.core.tiles import slices
from capcheck.diagnostics.figure import Figure
from capcheck.divergences.estimate import t_quantile
from capcheck.laws import log_table
from capcheck.targets.target import CategoricalTarget

__all__ = [
    "COLDEST",
    "DIGITS",
    "EQUAL",
    "HELD",
    "HOTTEST",
    "IMPOSSIBLE",
    "Temperature",
    "temperature",
]

HELD = 1 << 21  # most log-probabilities that are held: 16 MiB
HOTTEST = 1024.0  # temperature from which it counts as infinite
COLDEST = 1e6  # inverse temperature beyond which none is looked for
IMPOSSIBLE = -1e30  # log-probability in place of -inf, whose product with 0 is not a number
EQUAL = 1e-6  # nats by which log-probabilities may differ and count as equal
DIGITS = 1e-5  # relative error of the temperature


def temperature(
    target: CategoricalTarget, x: Tensor, *, free: Sequence[int], level: float
) -> Figure:
    """The effective temperature of draws, of evenly spaced tokens if not all can be held.

    Args:
        target: The target.
        x: Draws that can occur in the target, (n, N).
        free: Indices of the tokens that are drawn.
        level: Confidence of the interval.
    """
    if len(x) < 2:
        return Figure(method="fewer than two draws can occur in the target")
    V = target.spec.dim
    count = max(1, min(len(free), HELD // (len(x) * V)))
    tokens = [free[k * len(free) // count] for k in range(count)]
    parts = []
    for rows in slices(len(x), target.rows_at_once):
        known = torch.zeros_like(x[rows], dtype=target.dtype)
        parts.append(log_table(target.marginals(x[rows], known, causal=True).select(tokens)))
    log_p = torch.cat(parts).double().clamp_(min=IMPOSSIBLE)  # (n, tokens, V)
    fit = Temperature(log_p, x[:, tokens])
    if fit.uniform:
        return Figure(method="every possible token is equally likely at every temperature")
    value, low, high = fit.interval(level)
    method = (
        f"maximum likelihood of {count} tokens of each draw given those before, interval from "
        "independent rows"
    )
    return Figure(value=value, low=low, high=high, target=1.0, rows=len(x), method=method)


class Temperature:
    """The likelihood of draws as a function of the inverse temperature b.

    Args:
        log_p: Log-probabilities of all symbols given the tokens before, (n, C, V), all finite.
        x: Tokens that were drawn, (n, C).
    """

    def __init__(self, log_p: Tensor, x: Tensor) -> None:
        self._log_p = log_p
        self._own = log_p.gather(2, x[..., None])[..., 0]  # (n, C)
        self._peak = log_p.amax(2)

    @property
    def uniform(self) -> bool:
        """Whether the possible symbols of every token are equally likely."""
        lowest = torch.where(self._log_p > IMPOSSIBLE, self._log_p, torch.inf).amin(2)
        return bool((self._peak - lowest).max() < EQUAL)

    def interval(self, level: float) -> tuple[float, float, float]:
        """The temperature of greatest likelihood, and the ends of its interval."""
        if float((self._peak - self._own).max()) < EQUAL:  # only the most probable symbols
            return 0.0, 0.0, self._highest_of_peaks(level)
        b = _root(lambda b: float(self._score(b)[0].sum()))
        score, variance = self._score(b)
        n = len(score)
        # The curvature is that of the model; rows, and not tokens, are independent.
        spread = math.sqrt(n * float(score.var())) / max(float(variance), 1e-300)
        half = t_quantile(level, n - 1) * spread
        low, high = 1 / (b + half), math.inf if b <= half else 1 / (b - half)
        return (math.inf, low, math.inf) if b <= 1 / HOTTEST else (1 / b, low, high)

    def _score(self, b: float) -> tuple[Tensor, Tensor]:
        """Derivative of each row's log-likelihood in b, (n,), and minus the second one in all."""
        share = softmax(b * self._log_p)
        mean = torch.linalg.vecdot(share, self._log_p)  # (n, C)
        square = torch.linalg.vecdot(share.mul_(self._log_p), self._log_p)
        return (self._own - mean).sum(1), (square - mean**2).clamp(min=0).sum()

    def _highest_of_peaks(self, level: float) -> float:
        """The temperature above which draws have only the most probable symbols too seldom.

        They have them with the probability prod_i P_b(x_i is a most probable symbol), which falls
        to 1 - level at this temperature.
        """
        ties = (self._peak[..., None] - self._log_p < EQUAL).sum(2).log()

        def excess(b: float) -> float:
            missed = log_sum_exp(b * self._log_p) - b * self._peak - ties
            return -float(missed.sum()) - math.log(1 - level)

        b = _root(lambda b: -excess(b))
        return math.inf if b <= 1 / HOTTEST else 1 / b


def _root(falling: Callable[[float], float]) -> float:
    """The root of a falling function on b >= 1 / HOTTEST, or this end if there is none."""
    falling = functools.cache(falling)
    low = high = 1.0
    while falling(high) > 0 and high < COLDEST:
        low, high = high, 2 * high
    while falling(low) <= 0 and low > 1 / HOTTEST:
        low, high = low / 2, low
    if falling(low) <= 0 or falling(high) > 0:
        return low if falling(low) <= 0 else high
    root: float = optimize.brentq(falling, low, high, rtol=DIGITS, xtol=DIGITS / HOTTEST)
    return root
