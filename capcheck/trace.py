"""The trace: which loop is outside, found from the stream of states of every sample.

Per sample: *once* (one writing state), *in turn* (each token written once, at different times),
*finish-first* (some token has had its last write while another has two or more to come), *sweep*
(tokens are written again, and it is not finish-first). A family's trace is the highest class in
once < in turn < sweep < finish-first that at least 5% of the samples show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from capcheck.errors import CapcheckError
from capcheck.probe import State

TraceClass = Literal["once", "in_turn", "sweep", "finish_first"]
ORDER: tuple[TraceClass, ...] = ("once", "in_turn", "sweep", "finish_first")
RARE = 0.05


class Traces(BaseModel):
    """How many samples showed each class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    once: int = 0
    in_turn: int = 0
    sweep: int = 0
    finish_first: int = 0

    def __add__(self, other: Traces) -> Traces:
        return Traces(**{name: getattr(self, name) + getattr(other, name) for name in ORDER})

    @property
    def highest(self) -> TraceClass:
        """The highest class that is not rare."""
        total = sum(getattr(self, name) for name in ORDER)
        common = [name for name in ORDER if getattr(self, name) >= RARE * total]
        return common[-1]


class Recorder:
    """Watches one stream of states, and catches a probe that lies about what it wrote.

    Args:
        family: Named in errors.
        given: Tokens that are known, and thus placed, from the start.
    """

    def __init__(self, family: str, *, given: Sequence[int] = ()) -> None:
        self._family = family
        self._given = list(given)
        self._tokens: Tensor | None = None
        self._written: list[Tensor] = []

    def record(self, state: State) -> None:
        """Take the next state.

        Raises:
            CapcheckError: A token moved without a write, or the start claims to have written.
        """
        if self._tokens is None:
            placed = state.placed.clone()
            placed[:, self._given] = False
            if bool(state.written.any() or placed.any()):
                raise CapcheckError(
                    f"{self._family}: the first state is the start, and must have "
                    "nothing placed and nothing written."
                )
        else:
            both_nan = state.tokens.isnan() & self._tokens.isnan()
            moved = (state.tokens != self._tokens) & ~both_nan
            moved = moved.flatten(2).any(2) if moved.dim() > 2 else moved
            if bool((moved & ~state.written).any()):
                raise CapcheckError(
                    f"{self._family}: iteration {len(self._written) + 1} moved tokens "
                    "that its state does not report as written."
                )
            self._written.append(state.written)
        self._tokens = state.tokens

    def traces(self, iterations: int) -> Traces:
        """Class of every sample after that many iterations, counted."""
        if iterations == 0:
            assert self._tokens is not None
            return Traces(once=len(self._tokens))
        return classify(torch.stack(self._written[:iterations]))


def classify(written: Tensor) -> Traces:
    """Count the classes of n samples.

    Args:
        written: (iterations, n, N) bool.
    """
    writes = written.sum(0)  # (n, N)
    time = torch.arange(1, len(written) + 1, device=written.device)[:, None, None]
    last = (written * time).amax(0)  # (n, N), 0 for a token that was never written
    first_finished = torch.where(writes > 0, last, len(written) + 1).amin(1)  # (n,)
    to_come = (written & (time > first_finished[:, None])).sum(0)  # (n, N)
    once = written.any(2).sum(0) <= 1
    in_turn = ~once & (writes <= 1).all(1)
    finish_first = ~once & ~in_turn & (to_come >= 2).any(1)
    counts = [int(mask.sum()) for mask in (once, in_turn, finish_first)]
    return Traces(
        once=counts[0],
        in_turn=counts[1],
        finish_first=counts[2],
        sweep=written.shape[1] - sum(counts),
    )
