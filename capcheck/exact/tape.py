"""A tape of the random numbers that a procedure draws, and the replay of chosen ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.exact.sampler import RefusedError

__all__ = ["DRAWS", "Draw", "DrawKind", "Replay", "Rows", "Tape"]

DRAWS = 16_384  # most normal numbers of one sample row that matter
DrawKind = Literal["normal", "uniform", "order"]


@dataclass(frozen=True)
class Draw:
    """A draw: its kind, its shape per row, and its first column among the draws of its kind."""

    kind: DrawKind
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """The column after the last of the draw."""
        return self.start + math.prod(self.shape)


@dataclass
class Tape:
    """All draws that a run makes, by stream and number; sealed once the first run has ended."""

    draws: dict[tuple[str, int], Draw] = field(default_factory=dict)
    sealed: bool = False

    def width(self, kind: DrawKind) -> int:
        """The number of numbers of a kind that one row draws."""
        return max((draw.stop for draw in self.draws.values() if draw.kind == kind), default=0)

    def find(self, stream: str, number: int, kind: DrawKind, shape: tuple[int, ...]) -> Draw:
        """The recorded draw of a stream and number; while recording, a new one is added."""
        known = self.draws.get((stream, number))
        if known is None and not self.sealed:
            known = self.draws[stream, number] = Draw(kind, shape, self.width(kind))
        if known is None or (known.kind, known.shape) != (kind, shape):
            was = "none" if known is None else f"{known.kind} {known.shape}"
            raise RefusedError(
                f"which draws are made is not the same in all runs: draw {number} of stream "
                f"{stream!r} is {kind} {shape}, and was {was}"
            )
        return known

    def sizes(self) -> list[int]:
        """The lengths of the permutations that a row draws."""
        return [draw.shape[0] for draw in self.draws.values() if draw.kind == "order"]

    def orders(self) -> Iterator[Tensor]:
        """Yields every joint outcome of all permutation draws, concatenated to (W,)."""
        each = [itertools.permutations(range(size)) for size in self.sizes()]
        for outcome in itertools.product(*each):
            yield torch.tensor(list(itertools.chain(*outcome)), dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The draws of n rows: the columns (n, width) of each kind, and the draws made so far."""

    n: int
    columns: dict[DrawKind, Tensor]
    device: torch.device
    made: set[tuple[str, int]] = field(default_factory=set)


class Replay(Randomness):
    """Randomness with chosen draws; while recording, normals 0, uniforms 1/2 and order 0, 1, .."""

    def __init__(self, tape: Tape, rows: Rows, name: str = "") -> None:
        self._tape, self._rows, self._name = tape, rows, name
        self._number = 0

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Uniform draws of this shape, (n, ...), from the tape."""
        return self._next("uniform", shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Normal draws of this shape, (n, ...), from the tape."""
        return self._next("normal", shape)

    def permutation(self, n: int, size: int) -> Tensor:
        """(n, size) permutations from the tape."""
        return self._next("order", (n, size))

    def stream(self, name: str) -> Replay:
        """The randomness of a named stream of the same tape."""
        return Replay(self._tape, self._rows, f"{self._name}/{name}")

    def _next(self, kind: DrawKind, shape: tuple[int, ...]) -> Tensor:
        n, number = shape[0], self._number
        self._number += 1
        if n != self._rows.n:
            raise RefusedError(
                f"draw {number} of stream {self._name!r} is for {n} rows, not one for each "
                f"of {self._rows.n} samples"
            )
        draw = self._tape.find(self._name, number, kind, tuple(shape[1:]))
        self._rows.made.add((self._name, number))
        if self._tape.sealed:
            values = self._rows.columns[kind][:, draw.start : draw.stop]
        elif kind == "order":
            values = torch.arange(shape[1]).expand(shape)
        else:
            neutral = 0.0 if kind == "normal" else 0.5
            values = torch.full(shape, neutral, dtype=torch.float64)
        return values.reshape(shape).clone().to(self._rows.device)
