"""BatchSource: the batches of a fit, each a function of the seed and its number.

Batch k is fresh, or, where the oracle is dearer than a step, rows of a pool of so many draws that
are used again and again. The rows held out are draws of their own.
"""

from __future__ import annotations

import functools
import time

import torch
from torch import Tensor, nn

from capcheck.core.randomness import CounterRandomness
from capcheck.fitting.networks import copied
from capcheck.fitting.objectives import Batch, Objective

__all__ = ["CHUNK", "HELD_OUT", "BatchSource", "step_seed"]

HELD_OUT = {True: 2, False: 16}  # batches, by whether the objective is exact
CHUNK = 512  # rows of one draw of a large batch; the oracle holds much for each


def step_seed(seed: int, step: int) -> int:
    """The seed of one step for torch's own generators, which take 63 bits."""
    return (seed * 1_000_003 + step) % 2**63


class BatchSource:
    """The batches of one fit.

    Args:
        objective: What draws batches.
        batch: Rows of each.
        seed: Of all draws.
        device: Where they are put.
    """

    def __init__(
        self, objective: Objective, *, batch: int, seed: int, device: torch.device
    ) -> None:
        self.objective, self.batch, self.seed, self.device = objective, batch, seed, device
        self._pool: list[Batch] = []
        self._drawn: dict[int, Batch] = {}

    def fill(self, pool: int | None) -> None:
        """Draw a pool of so many batches; None for fresh ones."""
        self._pool = [self._drawn.get(k) or self.draw(k) for k in range(pool or 0)]
        self._drawn = {}

    def draw(self, k: int) -> Batch:
        """Fresh batch k."""
        return self.objective.draw(self.batch, self.rng("train", k), floor=False)

    def timed(self, k: int) -> Batch:
        """Batch k, kept until the pool is filled."""
        self._drawn[k] = self.draw(k)
        return self._drawn[k]

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        if not self._pool:
            return self.draw(step)
        if not self.objective.mixes:
            return self._pool[step % len(self._pool)]
        order = torch.Generator().manual_seed(step_seed(self.seed, step))
        chosen = torch.randint(len(self._pool) * self.batch, (self.batch,), generator=order)
        whole = self._whole
        return {name: x[chosen.to(x.device)] for name, x in whole.items()}

    def large(self, rows: int, deadline: float | None = None) -> list[Batch]:
        """So many rows in one batch, or in several where they do not mix; none is in any other.

        Args:
            rows: In all.
            deadline: Of `time.monotonic`, by which they must be there; otherwise there are none.
        """
        parts: list[Batch] = []
        for k in range(max(1, rows // CHUNK)):
            if deadline is not None and time.monotonic() > deadline:
                return []
            rng = self.rng("polish", k)
            parts.append(self.objective.draw(min(rows, CHUNK), rng, floor=False))
        if not self.objective.mixes:
            return parts
        return [{name: torch.cat([part[name] for part in parts]) for name in parts[0]}]

    @functools.cached_property
    def held_out(self) -> list[Batch]:
        """The batches of the validation."""
        count = HELD_OUT[self.objective.exact]
        return [self.objective.draw(self.batch, self.rng("held out", k)) for k in range(count)]

    @functools.cached_property
    def floor(self) -> float:
        """The oracle's own loss on these."""
        floors = [b["floor"].double().mean() for b in self.held_out if "floor" in b]
        return float(torch.stack(floors).mean()) if floors else 0.0

    def validate(self, module: nn.Module, dtype: torch.dtype) -> float:
        """Loss on the held-out rows, less the floor."""
        losses = [
            self.loss(module, one, k, dtype=dtype, name="held out").detach()
            for k, one in enumerate(self.held_out)
        ]
        return float(torch.stack(losses).double().mean()) - self.floor

    def loss(
        self, module: nn.Module, batch: Batch, k: int, *, dtype: torch.dtype, name: str = "train"
    ) -> Tensor:
        """The module's loss on batch k of that name, in that precision."""
        own = {key: copied(x, dtype) for key, x in batch.items() if key != "floor"}
        return self.objective.loss(module, own, self.rng(f"{name} loss", k))

    def rng(self, name: str, k: int) -> CounterRandomness:
        """The random numbers of one batch."""
        return CounterRandomness(self.seed, replicate=k, name=f"fit/{name}", device=self.device)

    @functools.cached_property
    def _whole(self) -> Batch:
        """All rows of the pool."""
        return {name: torch.cat([b[name] for b in self._pool]) for name in self._pool[0]}
