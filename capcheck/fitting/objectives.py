"""An objective draws batches of a network's inputs with the oracle's answers, and defines a loss.

The inputs are those that occur in the procedure: fresh draws of the target at the levels, masks and
times of its recorded calls. Every loss is a divergence from the oracle plus the oracle's own loss,
the floor, so that loss - floor is the remaining error of a module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from capcheck.core.randomness import Randomness

__all__ = ["Batch", "Objective"]

Batch = dict[str, Tensor]


class Objective(ABC):
    """A loss that a module is fitted to, and the batches that it is computed on.

    Attributes:
        exact: Whether the oracle attains the floor on every single batch, so that a few rows
            suffice to measure how close a module is.
        mixes: Whether one batch may contain rows of several draws.
        mixed: Whether products may be computed in bfloat16 early in a fit (mixed precision).
        large: Largest number of rows in the batch of the final L-BFGS descent (see `polish`); 0 if
            the loss is not a mean over rows.
    """

    exact: bool = False
    large: int = 1 << 12
    mixes: bool = True
    mixed: bool = True

    @abstractmethod
    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Draw a batch of n rows; its entry `floor`, if any, is the oracle's loss per row, (n,).

        Args:
            n: Number of rows.
            rng: Source of every random number.
            floor: Whether the entry `floor` is needed; training steps do without it.
        """

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """The module's mean loss over a batch, ().

        Args:
            module: Module in its own precision.
            batch: Batch in the module's precision.
            rng: Source of the random numbers that the loss itself needs.
        """
