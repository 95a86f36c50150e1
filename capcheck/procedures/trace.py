"""A trace classifies the loop structure of a run by when it writes which token.

| class of a sample | definition |
|---|---|
| `once` | at most one state writes |
| `in_turn` | each token is written at most once, at different times |
| `sweep` | tokens are written again, and the sample is not `finish_first` |
| `finish_first` | some token has had its last write while another has two or more to come |

The trace of a family is the highest class in the order once < in_turn < sweep < finish_first that
at least 5% of the samples show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from capcheck.core.errors import ProbeError
from capcheck.core.record import Record
from capcheck.procedures.probe import State

__all__ = ["ORDER", "RARE", "Recorder", "TraceClass", "Traces", "Writes"]

TraceClass = Literal["once", "in_turn", "sweep", "finish_first"]
ORDER: tuple[TraceClass, ...] = ("once", "in_turn", "sweep", "finish_first")
RARE = 0.05  # share of the samples below which a class is ignored


class Traces(Record):
    """The number of samples of each class."""

    once: int = 0
    in_turn: int = 0
    sweep: int = 0
    finish_first: int = 0

    def __add__(self, other: Traces) -> Traces:
        return Traces(**{name: getattr(self, name) + getattr(other, name) for name in ORDER})

    @property
    def highest(self) -> TraceClass:
        """The highest class that at least a share `RARE` of the samples shows."""
        total = sum(getattr(self, name) for name in ORDER)
        common = [name for name in ORDER if getattr(self, name) >= RARE * total]
        return common[-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Writes:
    """A summary of the writes of n samples up to some iteration, of O(n N) numbers.

    Attributes:
        last: (n, N) iteration of each token's last write, counted from 1; 0 if never written.
        second: (n, N) iteration of each token's second to last write; 0 if there is none.
        states: (n,) number of iterations that wrote any token.
    """

    last: Tensor
    second: Tensor
    states: Tensor

    @classmethod
    def none(cls, n: int, tokens: int, device: torch.device) -> Writes:
        """The summary of a run in which nothing is written yet."""
        never = torch.zeros(n, tokens, dtype=torch.int32, device=device)
        return cls(last=never, second=never, states=never.new_zeros(n))

    def with_iteration(self, written: Tensor, iteration: int) -> Writes:
        """The summary after one more iteration.

        Args:
            written: (n, N) bool, tokens that the iteration wrote.
            iteration: Number of the iteration, counted from 1.
        """
        return Writes(
            last=torch.where(written, iteration, self.last),
            second=torch.where(written, self.last, self.second),
            states=self.states + written.any(1).to(self.states),
        )

    def traces(self) -> Traces:
        """The number of samples of each class."""
        never = torch.iinfo(self.last.dtype).max
        first_finished = torch.where(self.last > 0, self.last, never).amin(1)  # (n,)
        once = self.states <= 1
        in_turn = ~once & (self.second == 0).all(1)
        # Two writes are to come after a token is finished if the second to last comes after it.
        to_come = (self.second > first_finished[:, None]).any(1)
        finish_first = ~once & ~in_turn & to_come
        counts = [int(mask.sum()) for mask in (once, in_turn, finish_first)]
        return Traces(
            once=counts[0],
            in_turn=counts[1],
            finish_first=counts[2],
            sweep=len(self.last) - sum(counts),
        )


class Recorder:
    """Records the writes of one stream of states, and checks that states report all writes.

    Args:
        family: Name of the family, for errors.
        start: The state that the run was given, whose placed tokens must not change.
    """

    def __init__(self, family: str, start: State) -> None:
        self._family, self._start = family, start
        self._given = bool(start.placed.any())
        self._latest: State | None = None
        self._kept = start
        self._iteration = 0
        n, N = start.placed.shape
        self.writes = Writes.none(n, N, start.placed.device)

    def record(self, state: State) -> State:
        """Checks the next state and adds it to `writes`.

        Returns:
            A copy of the state, which no later iteration can change.

        Raises:
            ProbeError: A token changed without a reported write, a state was changed after it was
                yielded, a given token changed, or the first state is not a start.
        """
        if not isinstance(state, State):
            raise ProbeError(
                f"{self._family}: run() must yield states, got {type(state).__name__}; yield a "
                "State."
            )
        if self._latest is None:
            if bool((state.placed != self._start.placed).any() or state.written.any()):
                raise ProbeError(
                    f"{self._family}: the first state is the start, and must have nothing placed "
                    "but the given tokens, and nothing written."
                )
        else:
            if not _same(self._latest, self._kept):
                raise ProbeError(
                    f"{self._family}: iteration {self._iteration + 1} changed an earlier "
                    "state in place; write into a copy."
                )
            self._iteration += 1
            if _moved(state.tokens, self._kept.tokens, ~state.written):
                raise ProbeError(
                    f"{self._family}: iteration {self._iteration} moved tokens that its state does "
                    "not report as written."
                )
            self.writes = self.writes.with_iteration(state.written, self._iteration)
        if self._given and _moved(state.tokens, self._start.tokens, self._start.placed):
            raise ProbeError(
                f"{self._family}: iteration {self._iteration} moved a given token; given tokens "
                "keep their values."
            )
        self._latest, self._kept = state, _copied(state)
        return self._kept


def _copied(state: State) -> State:
    return State(
        tokens=state.tokens.clone(), placed=state.placed.clone(), written=state.written.clone()
    )


def _same(a: State, b: State) -> bool:
    masks = torch.equal(a.placed, b.placed) and torch.equal(a.written, b.written)
    everywhere = torch.ones_like(a.placed)
    return masks and (torch.equal(a.tokens, b.tokens) or not _moved(a.tokens, b.tokens, everywhere))


def _moved(a: Tensor, b: Tensor, where: Tensor) -> bool:
    """Whether any token in an (n, N) bool mask differs, where NaN counts as equal to NaN."""
    differ = (a != b).reshape(*where.shape, -1) & where[..., None]
    if not bool(differ.any()):
        return False
    a, b = a.reshape(differ.shape)[differ], b.reshape(differ.shape)[differ]
    return not bool((a.isnan() & b.isnan()).all())
