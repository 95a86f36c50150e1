"""Draws of several categorical laws from one uniform number, by inverse CDF: their joint law.

With F_1, .., F_U the distribution functions of the laws, the values are v_j = F_j^-1(u) for one u.
They rise together with u, so that they are constant on the intervals between neighbouring steps of
the F_j, and the probability of an interval is its length. The intervals are found from the left:
each is as long as the shortest of what is left of the laws' present values. A value of any
probability, however small, keeps all of its digits where no other law has a step inside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TIE", "common_draws"]

TIE = 1e-12  # share of a value's probability below which what is left of it is rounding


def common_draws(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every combination of values that one uniform number gives to several laws.

    Steps of two laws that are nearer to each other than `TIE` times the probability of the value
    between them count as one.

    Args:
        p: Weights of the values of each law, (n, U, V): not negative, and not all 0.

    Returns:
        The row of each combination (m,), its values (m, U), and its probability in its row (m,).
    """
    p = p.double()
    p = p / p.sum(-1, keepdim=True)
    place = torch.arange(p.shape[-1])
    last = torch.where(p > 0, place, -1).amax(-1)  # (n, U), the last possible value
    now = torch.where(p > 0, place, p.shape[-1]).amin(-1)  # the first one
    row, left = torch.arange(len(p)), _of(p, now)
    rows, values, masses = [], [], []
    while len(row):
        ends = now == last
        over = ends.all(1)
        # All that is left of the laws is equal then, and least rounded where its value is rarest.
        rest = left.gather(1, _of(p, now).argmin(1, keepdim=True))[:, 0]
        mass = torch.where(over, rest, torch.where(ends, torch.inf, left).amin(1))
        rows.append(row)
        values.append(now)
        masses.append(mass)
        left = left - mass[:, None]
        done = ~ends & (left <= TIE * _of(p, now))
        following = torch.where((p > 0) & (place > now[..., None]), place, p.shape[-1]).amin(-1)
        now = torch.where(done, following, now)
        left = torch.where(done, _of(p, now), left)
        p, last, row, now, left = (each[~over] for each in (p, last, row, now, left))
    mass = torch.cat(masses)
    kept = mass > 0
    return torch.cat(rows)[kept], torch.cat(values)[kept], mass[kept]


def _of(p: Tensor, value: Tensor) -> Tensor:
    """The probability of one value of each law, (n, U)."""
    return p.gather(-1, value[..., None]).squeeze(-1)
