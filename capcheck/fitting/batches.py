"""A batch source makes the batches of a fit; batch k depends on the seed and k only.

Every batch is freshly drawn, or, where calls of the oracle take longer than steps, taken from a
pool of precomputed batches that are reused. Held-out batches are drawn separately.
"""

from __future__ import annotations

import functools
import time

import torch
from torch import Tensor, nn

from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.fitting.networks import copied
from capcheck.fitting.objectives import Batch, Objective

__all__ = [
    "CHUNK",
    "FEWEST_HELD_OUT",
    "HELD_OUT",
    "LARGEST",
    "NUMBERS",
    "SMALLEST",
    "STEPS_EACH",
    "BatchSource",
    "rows_of_a_batch",
    "step_seed",
]

HELD_OUT = {True: 2, False: 16}  # held-out batches, by whether the objective is exact
FEWEST_HELD_OUT = 4  # least number of them if it is not, however short the fit
STEPS_EACH = 30  # steps of a short fit for each held-out batch, so that most of its time is theirs
LARGEST = 512  # rows of a batch
SMALLEST = 32  # rows of a batch of the longest rows
# Most numbers, or one-hot symbols, of a batch that has more rows than that; a network computes on
# each number of a token, and looks symbols up:
NUMBERS: dict[Kind, int] = {"continuous": 1 << 16, "categorical": 1 << 21}
CHUNK = 512  # rows drawn at once for a large batch; limits the oracle's memory


def step_seed(seed: int, step: int) -> int:
    """The seed of one step for torch's own generators, which take at most 63 bits."""
    return (seed * 1_000_003 + step) % 2**63


def rows_of_a_batch(spec: SequenceSpec) -> int:
    """512 rows, or fewer of many numbers or one-hot symbols (see `NUMBERS`), but at least 32."""
    return max(SMALLEST, min(LARGEST, NUMBERS[spec.kind] // (spec.tokens * spec.dim)))


class BatchSource:
    """The batches of one fit.

    Args:
        objective: Objective that draws the batches and computes the loss.
        batch: Rows per batch.
        seed: Seed of all random draws.
        device: Device of the random numbers and of the fit.
        steps: Number of steps of the fit, if it is known.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        batch: int,
        seed: int,
        device: torch.device,
        steps: int | None = None,
    ) -> None:
        self._steps = steps
        self.objective, self.batch, self.seed, self.device = objective, batch, seed, device
        self._pool: list[Batch] = []
        self._drawn: dict[int, Batch] = {}

    def fill(self, pool: int | None) -> None:
        """Fill the pool with `pool` batches; with None, every step draws a fresh batch."""
        self._pool = [self._drawn.get(k) or self.draw(k) for k in range(pool or 0)]
        self._drawn = {}

    def draw(self, k: int) -> Batch:
        """Draw training batch k, without the oracle's loss."""
        return self.objective.draw(self.batch, self.rng("train", k), floor=False)

    def timed(self, k: int) -> Batch:
        """Draw training batch k and keep it, so that `fill` need not draw it again."""
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
        """Draw `rows` rows that no other batch contains.

        Args:
            rows: Total number of rows; above `CHUNK`, it is rounded down to a multiple of it.
            deadline: Time of `time.monotonic` after which no further rows are drawn.

        Returns:
            One batch, or several if the objective's draws do not mix; none if the deadline passes.
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
        """The held-out batches, on which the validation is computed."""
        count = HELD_OUT[self.objective.exact]
        if self._steps is not None and not self.objective.exact:
            count = min(count, max(FEWEST_HELD_OUT, self._steps // STEPS_EACH))
        return [self.objective.draw(self.batch, self.rng("held out", k)) for k in range(count)]

    @functools.cached_property
    def floor(self) -> float:
        """The oracle's mean loss on the held-out batches; 0 if the objective states none."""
        floors = [b["floor"].double().mean() for b in self.held_out if "floor" in b]
        return float(torch.stack(floors).mean()) if floors else 0.0

    def validate(self, module: nn.Module, dtype: torch.dtype) -> float:
        """The module's loss on the held-out batches minus the floor."""
        losses = [
            self.loss(module, one, k, dtype=dtype, name="held out").detach()
            for k, one in enumerate(self.held_out)
        ]
        return float(torch.stack(losses).double().mean()) - self.floor

    def loss(
        self, module: nn.Module, batch: Batch, k: int, *, dtype: torch.dtype, name: str = "train"
    ) -> Tensor:
        """The module's loss on batch k, computed in precision `dtype`."""
        own = {key: copied(x, dtype) for key, x in batch.items() if key != "floor"}
        return self.objective.loss(module, own, self.rng(f"{name} loss", k))

    def rng(self, name: str, k: int) -> CounterRandomness:
        """The random numbers of batch k with this name."""
        return CounterRandomness(self.seed, replicate=k, name=f"fit/{name}", device=self.device)

    @functools.cached_property
    def _whole(self) -> Batch:
        """All rows of the pool as one batch."""
        return {name: torch.cat([b[name] for b in self._pool]) for name in self._pool[0]}
