"""Quantiles of mixtures of Gaussians on the line: the x with F(x) = u, by a bracketed search.

Let t be the smaller of u and 1 - u, and T(x) the tail F(x) or 1 - F(x) on the same side. Halley's
method solves

    y(x) = Phi^-1(T(x)) = Phi^-1(t),

which is linear for one Gaussian and nearly so in the tails of any mixture. The quantile of the
mixture lies between those of the components. A step that leaves this bracket, or is longer than
half of the step before, is replaced by a bisection, so that the search ends however far the modes
lie apart.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from capcheck.core.log_sums import exp_

__all__ = ["CRAWL", "FAR", "FREE", "SAME", "mixture_quantiles", "normal_cdf", "standardised"]

SAME = 64  # relative error of the tail, in machine epsilons, at which the search ends
FREE = 40  # number of steps after which every step is a bisection
FAR = 40.0  # deviations beyond which density and tail of a Gaussian are 0 in float64
CRAWL = 4  # step length, in floating-point spacings, that need not be half of the step before


def normal_cdf(z: Tensor) -> Tensor:
    """P(Z <= z) of a standard normal Z, accurate to all digits for z < 0, and faster than ndtr."""
    tail: Tensor = torch.special.erfc(z * -math.sqrt(0.5))
    return 0.5 * tail


def standardised(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """(x - m) / s; for an atom (s = 0) `FAR` where x >= m, and -`FAR` where x < m."""
    if bool((s > 0).all()):
        return (x - m) / s
    side = torch.where(x >= m, FAR, -FAR)
    return torch.where(s > 0, (x - m) / torch.where(s > 0, s, 1), side.to(m))


def mixture_quantiles(w: Tensor, m: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """The smallest x with F(x) = sum_c w_c Phi((x - m_c) / s_c) >= u, up to rounding.

    The answer for a row does not depend on the other rows.

    Args:
        w: Weights, (n|1, N|1, K), with sum 1.
        m: Means, (n|1, N|1, K).
        s: Deviations, (n|1, N|1, K|1), at least 0; a component with deviation 0 is an atom.
        u: Probabilities, (n, N), in (0, 1).

    Returns:
        Quantiles x, (n, N). Either the smaller tail at x equals that of u to 64 machine epsilons,
        or F(x) is at least u and F is below u at the next smaller floating-point number.
    """
    search = _Search.of(w, m, s, u)
    answer = torch.empty_like(search.answer).flatten()
    index = torch.arange(answer.numel(), device=u.device)  # elements that are still searched
    for count in itertools.count():
        search.close()
        left = ~search.ended
        if 2 * int(left.sum()) <= left.numel():
            answer[index] = search.answer.flatten()
            if not bool(left.any()):
                break
            search, index = search.some(left), index[left.flatten()]
        search.step(bisect=count >= FREE)
    return answer.reshape(u.shape)


@dataclass(kw_only=True, eq=False)
class _Search:
    """The state of the search for quantiles of many elements; `step` moves all of them.

    Attributes:
        w: Weights, (..., K), broadcast over the elements.
        m: Means, (..., K), broadcast likewise.
        s: Deviations, (..., K|1), broadcast likewise.
        side: Sign of each element, (...): 1 if the lower tail is compared, -1 if the upper one is.
        t: Tail to be found, at most 1/2.
        x: Next point of evaluation.
        low: Lower end of the bracket: F is below u there, or it is the quantile.
        high: Upper end of the bracket: F is at least u there.
        last: Length of the last step.
        answer: Quantile, for elements whose search has ended.
        ended: Whether the search for an element has ended.
    """

    w: Tensor
    m: Tensor
    s: Tensor
    side: Tensor
    t: Tensor
    x: Tensor
    low: Tensor
    high: Tensor
    last: Tensor
    answer: Tensor
    ended: Tensor

    @classmethod
    def of(cls, w: Tensor, m: Tensor, s: Tensor, u: Tensor) -> _Search:
        """Start the search for u, with brackets from the quantiles of the components."""
        side = torch.where(u <= 0.5, 1.0, -1.0).to(u)
        t = torch.where(u <= 0.5, u, 1 - u)
        quantiles = m + s * (side * torch.special.ndtri(t))[..., None]  # (n, N, K)
        low = torch.where(w > 0, quantiles, torch.inf).amin(-1)
        high = torch.where(w > 0, quantiles, -torch.inf).amax(-1)
        start = _if_apart(w, m, s, u).to(low)
        x = torch.minimum(torch.maximum(torch.where(start.isnan(), low, start), low), high)
        ended = torch.zeros_like(u, dtype=torch.bool)
        return cls(
            w=w, m=m, s=s, side=side, t=t, x=x, low=low, high=high,
            last=high - low, answer=high, ended=ended,
        )  # fmt: skip

    def some(self, where: Tensor) -> _Search:
        """The search for the elements that a mask selects, flattened to one dimension."""
        parts: dict[str, Tensor] = {}
        for field in fields(self):
            part = getattr(self, field.name)
            shape = (*where.shape, part.shape[-1]) if field.name in ("w", "m", "s") else where.shape
            parts[field.name] = part.expand(shape)[where]
        return _Search(**parts)

    def close(self) -> None:
        """End, at the upper end, the search for elements whose bracket has no number inside."""
        middle = self.low + 0.5 * (self.high - self.low)
        closed = ~((self.low < middle) & (middle < self.high)) & ~self.ended
        self.answer = torch.where(closed, self.high, self.answer)
        self.ended = self.ended | closed

    def step(self, *, bisect: bool) -> None:
        """Evaluate the tail at x, narrow the bracket, end settled elements, and choose the next x.

        Args:
            bisect: Whether the next x is the middle of the bracket for every element.
        """
        T, density, slope = self._tail()
        settled = ((T - self.t).abs() <= SAME * torch.finfo(T.dtype).eps * self.t) & ~self.ended
        self.answer = torch.where(settled, self.x, self.answer)
        self.ended = self.ended | settled
        above = self.side * (T - self.t) >= 0
        self.high = torch.where(above, self.x, self.high)
        self.low = torch.where(above, self.low, self.x)
        middle = self.low + 0.5 * (self.high - self.low)
        if bisect:
            self.x = middle
            return
        y = torch.special.ndtri(T)
        per_density = math.sqrt(2 * math.pi) * (0.5 * y.square()).exp()  # 1 / phi(y)
        e, first = y - torch.special.ndtri(self.t), density * per_density
        second = slope * per_density + y * first.square()
        halley = -2 * e * first / (2 * first.square() - e * second)
        size = self.x.abs()
        spacing = torch.nextafter(size, torch.full_like(size, torch.inf)) - size
        length = torch.maximum(halley.abs(), spacing)
        trial = self.x + torch.where(above, -length, length)
        good = (self.low < trial) & (trial < self.high)
        good &= length <= torch.maximum(0.5 * self.last, CRAWL * spacing)
        trial = torch.where(good, trial, middle)
        self.last, self.x = (trial - self.x).abs(), trial

    def _tail(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tail T at x, and its first and second derivatives along `side`."""
        z = self.side[..., None] * standardised(self.x[..., None], self.m, self.s)  # (..., K)
        s = torch.where(self.s > 0, self.s, 1)
        density = exp_(z.square().mul_(-0.5)).mul_(1 / math.sqrt(2 * math.pi)).mul_(self.w / s)
        T = (self.w * normal_cdf(z)).sum(-1)
        return T, density.sum(-1), -(z / s * density).sum(-1)


def _if_apart(w: Tensor, m: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """The quantiles of u if the components did not overlap, (n, N), as starting points."""
    shape = (*u.shape, w.shape[-1])
    order = m.argsort(-1)  # by means
    sorted_w = w.expand(shape).gather(-1, order.expand(shape))
    upto = sorted_w.cumsum(-1)
    place = torch.searchsorted(upto, u[..., None].to(upto)).clamp(max=shape[-1] - 1)
    share = sorted_w.gather(-1, place)
    component = order.expand(shape).gather(-1, place)
    inside = ((u[..., None] - upto.gather(-1, place)) / share + 1).clamp(0, 1)
    of_own = (part.expand(shape).gather(-1, component)[..., 0] for part in (m, s))
    mean, deviation = of_own
    start: Tensor = mean + deviation * torch.special.ndtri(inside[..., 0])
    return start
