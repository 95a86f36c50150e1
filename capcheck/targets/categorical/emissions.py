"""Laws of a symbol given its state, and tables of them that many calls share.

With the posterior P of the state, a symbol v has the probability sum_s P(s) emission(s, v), which
is at most sum_s P(s) max_{w in G} emission(s, w) for every group G of symbols that v is in.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["GROUPS", "HELD", "LOOKS", "MANY", "SMALLER_GROUPS", "Emissions"]

MANY = 1 << 11  # symbols beyond which no table of them is made where posteriors of states suffice
GROUPS = 2  # groups of symbols, whose probabilities are bounded together, for each state
LOOKS = 2  # groups that are looked at for a largest probability, before all symbols are
HELD = 1 << 20  # numbers of tables that are held at once
SMALLER_GROUPS = 8  # the same where the groups of the largest bounds are looked at


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
    def groups(self) -> list[Tensor]:
        """The emissions of groups of symbols that resemble each other, each (S, symbols)."""
        return [self.table[:, group] for group in _groups(self.table, SMALLER_GROUPS)]

    @functools.cached_property
    def bounds(self) -> Tensor:
        """Largest emission of each state in each of `groups`, (S, G)."""
        return torch.stack([group.amax(1) for group in self.groups], 1)

    def largest(self, posterior: Tensor) -> Tensor:
        """The largest sum_s P(s) emission(s, v) of every posterior (m, S): (m,).

        The groups of the largest bounds are looked at until no other bound is above what was found,
        but all symbols where that takes many groups, as of a posterior that tells little.
        """
        bound, found = posterior @ self.bounds, posterior.new_zeros(len(posterior))
        rows = torch.arange(len(posterior), device=posterior.device)
        for _ in range(LOOKS):
            top, group = bound[rows].max(1)
            undecided = top > found[rows]
            rows, group = rows[undecided], group[undecided]
            for g in group.unique().tolist():
                own = rows[group == g]
                values = (posterior[own] @ self.groups[g]).amax(1)
                found[own] = torch.maximum(found[own], values)
            bound[rows, group] = 0
        for part in rows.split(max(1, HELD // self.table.shape[1])):
            found[part] = (posterior[part] @ self.table).amax(1)
        return found

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
