"""Which of the normals that a procedure draws change its result.

Many do not, as those of the tokens that a round does not place. They are found in groups, which are
cut into smaller groups where they matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.exact.tape import Tape

__all__ = ["BLOCK", "FEW", "GROUPS", "normals_that_matter"]

BLOCK = 1 << 23  # most numbers that are drawn, or returned, in one run: 64 MiB
FEW = 512  # normals that are not tried in groups
GROUPS = (64, 8)  # sizes of the groups


def normals_that_matter(
    result: Callable[[Tensor, Tensor, Tensor], Tensor], tape: Tape, orders: Sequence[Tensor]
) -> Tensor:
    """The columns of the normals that may matter, (A,), in rising order.

    A group of normals that changes no bit of the result does not matter. Few normals, and those of
    a procedure with several orders, all count as if they did.

    Args:
        result: The procedure as a function of normals (n, K), uniforms (n, U) and orders (n, W).
        tape: Tape of its draws.
        orders: The orders (W,) that it may draw.
    """
    K = tape.width("normal")
    active = torch.ones(K, dtype=torch.bool)
    if len(orders) > 1 or K <= FEW:
        return active.nonzero()[:, 0]
    noise = CounterRandomness(0, name="groups").normal((K,))

    def changed(group: Tensor, asked: Tensor) -> Tensor:
        """Which of the groups that are asked for change the result, (G,) bool."""
        z = torch.cat([torch.zeros(1, K).to(noise), (group == asked[:, None]) * noise])
        u = torch.full((len(z), tape.width("uniform")), 0.5, dtype=torch.float64)
        x = result(z, u, orders[0].expand(len(z), -1))
        return (x[1:] != x[0]).any(1)

    for size in GROUPS:
        group = torch.arange(K) // size
        asked = group[active].unique()
        parts = asked.split(max(1, BLOCK // K - 1))
        matter = torch.cat([changed(group, part) for part in parts])
        active = torch.isin(group, asked[matter])
        if int(active.sum()) > K // 2:  # smaller groups would save little
            break
    return active.nonzero()[:, 0]
