"""Laws of a symbol given its state, and tables of them that many calls share.

With the posterior P of the state, a symbol v has the probability sum_s P(s) emission(s, v), which
is at most sum_s P(s) max_{w in G} emission(s, w) for every group G of symbols that v is in. The
probability of any one symbol bounds the largest from below; that of the likeliest symbol of some
state mostly is the largest.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["ALIKE", "GROUPS", "HELD", "LOOKS", "MANY", "SMALLER_GROUPS", "Emissions"]

MANY = 1 << 11  # symbols beyond which no table of them is made where posteriors of states suffice
GROUPS = 2  # groups of symbols, whose probabilities are bounded together, for each state
ALIKE = 1e-6  # distance along one direction within which posteriors may resemble each other
LOOKS = 1 / 8  # largest share of groups that are looked at one by one for largest probabilities
HELD = 1 << 20  # numbers of tables that are held at once
SMALLER_GROUPS = 8  # the same where groups are looked at one by one


class Emissions:
    """The laws of a symbol given its state.

    Args:
        table: The laws, (S, V).
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __reduce__(self) -> tuple[type[Emissions], tuple[Tensor]]:
        """Copies leave behind what follows from the laws."""
        return Emissions, (self.table,)

    @functools.cached_property
    def best(self) -> Tensor:
        """Largest emission of each state in each group of symbols of one dominant state, (S, G)."""
        groups = _groups(self.table, GROUPS)
        return torch.stack([self.table[:, group].amax(1) for group in groups], 1)

    @functools.cached_property
    def likeliest(self) -> Tensor:
        """Emissions of the symbols that are the likeliest of some state, (S, symbols)."""
        return self.table[:, self.table.argmax(1).unique()]

    @functools.cached_property
    def groups(self) -> list[Tensor]:
        """The emissions of groups of symbols that resemble each other, each (S, symbols)."""
        return [self.table[:, group] for group in _groups(self.table, SMALLER_GROUPS)]

    @functools.cached_property
    def bounds(self) -> Tensor:
        """Largest emission of each state in each of `groups`, (S, G)."""
        return torch.stack([group.amax(1) for group in self.groups], 1)

    def largest(self, posterior: Tensor) -> Tensor:
        """The largest sum_s P(s) emission(s, v) of every posterior P, (m, S) of sum 1: (m,).

        Posteriors that resemble each other share their likeliest symbol. Of the others, the groups
        are looked at whose bound is above the best of `likeliest`, or all symbols where these are
        many, as of a posterior that tells little.
        """
        found, known = self._of_alike(posterior)
        others = (~known).nonzero()[:, 0]
        for rows in others.split(max(1, HELD // self.bounds.shape[1])):
            found[rows] = self._by_groups(posterior[rows])
        return found

    def _of_alike(self, posterior: Tensor) -> tuple[Tensor, Tensor]:
        """The largest probabilities of posteriors (m, S) that resemble another: (m,), and which.

        No probability of P differs from that of R by more than d = sum_s |P(s) - R(s)| max_v
        emission(s, v), so that the likeliest symbol of R is that of P too if it leads by over 2 d.
        """
        found = posterior.new_zeros(len(posterior))
        S, place = len(self.table), torch.arange(len(posterior), device=posterior.device)
        direction = torch.arange(1, S + 1).to(posterior).cos()
        alike, member = (posterior @ direction / ALIKE).round().unique(return_inverse=True)
        if 2 * len(alike) > len(posterior):
            return found, torch.zeros_like(place, dtype=torch.bool)
        first = torch.full_like(place[: len(alike)], len(place))
        first = first.scatter_reduce(0, member, place, "amin")
        leads, symbols = [], []
        for rows in first.split(max(1, HELD // self.table.shape[1])):
            two = (posterior[rows] @ self.table).topk(2, dim=1)
            leads.append(two.values[:, 0] - two.values[:, 1])
            symbols.append(two.indices[:, 0])
        lead, symbol = torch.cat(leads)[member], torch.cat(symbols)[member]
        apart = (posterior - posterior[first][member]).abs() @ self.table.amax(1)
        known = 2 * apart + len(self.table) * torch.finfo(apart.dtype).eps < lead
        found[known] = (posterior[known] * self.table.T[symbol[known]]).sum(1)
        return found, known

    def _by_groups(self, posterior: Tensor) -> Tensor:
        """As `largest`, by the groups of symbols whose bounds ask for it."""
        best = (posterior @ self.likeliest).amax(1)
        above = posterior @ self.bounds > best[:, None]  # (m, G)
        if int(above.sum()) > LOOKS * above.numel():
            rows = above.any(1).nonzero()[:, 0]
            for part in rows.split(max(1, HELD // self.table.shape[1])):
                best[part] = (posterior[part] @ self.table).amax(1)
            return best
        group, rows = above.T.nonzero(as_tuple=True)
        counts = torch.bincount(group, minlength=len(self.groups)).tolist()
        values = torch.empty_like(best[rows])
        parts = zip(posterior[rows].split(counts), values.split(counts), self.groups, strict=True)
        for own, into, emissions in parts:
            if len(own):
                into[:] = (own @ emissions).amax(1)
        return best.scatter_reduce(0, rows, values, "amax")

    @functools.cached_property
    def stacked(self) -> Tensor:
        """The distribution functions of all states, one above the other, (S V,)."""
        onward = self.table.double().cumsum(-1)
        onward = onward / onward[:, -1:]
        above = torch.arange(len(onward), device=onward.device)[:, None]
        return (onward + above).flatten()

    @functools.cached_property
    def up_to(self) -> Tensor:
        """Probability of each symbol and all smaller ones given the state, (V, S) float64."""
        return self.table.T.double().cumsum(0).contiguous()


def _groups(table: Tensor, each: int) -> tuple[Tensor, ...]:
    """Indices of groups of the symbols of emissions (S, V), `each` for a state."""
    S, V = table.shape
    peak, state = table.max(0)
    order = (state - peak).argsort()  # by the state of the largest emission, and then from there
    return order.tensor_split(min(V, each * S))
