"""What a run measures against, and how: the target in summary, and the settings of every cell."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from capcheck.core.budget import Grid
from capcheck.core.record import Record
from capcheck.core.sequences import Kind
from capcheck.networks.rounded import Precision
from capcheck.targets.provenance import Provenance


class TargetSummary(Record):
    """What was measured against.

    Attributes:
        fingerprint: Content hash of the law.
        tokens: N.
        dim: Size of a token.
        kind: Kind of the tokens.
        grid: (rows, columns) of the tokens, if they have any.
        spread: sqrt(tr Cov), in token units.
        provenance: Where the law comes from and how exact it is.
        examples: A few draws, (rows, N, d) or (rows, N).
    """

    fingerprint: str
    tokens: int
    dim: int
    kind: Kind
    grid: tuple[int, int] | None
    spread: float
    provenance: Provenance
    examples: Any = Field(default=(), repr=False)

    @property
    def size(self) -> str:
        """How many tokens of which kind, in words."""
        if self.kind == "categorical":
            return f"{self.tokens} tokens over {self.dim} symbols"
        return f"{self.tokens} tokens of dimension {self.dim}"

    @property
    def name(self) -> str:
        """What to call it in a heading."""
        return self.provenance.source or self.provenance.description


class Settings(Record):
    """How every cell was measured.

    Attributes:
        grid: Budgets of every family.
        samples: Draws of target and model in every cell, at the first look.
        looks: Times that a family may be drawn anew, each with twice the samples of the one
            before, until it is decided. The error of the verdicts is shared by all looks.
        seed: Seed of all draws.
        replicate: Independent repetition.
        level: Confidence of intervals and verdicts.
        tolerances: Tolerance of each measured divergence, in its tolerance unit.
        given: Tokens that are known from the start; lengths count the others.
        device: `cpu` or the kind of accelerator.
        dtype: Floating-point type of procedure and oracle.
        diagnose: Diagnoses of the largest budget; no verdict depends on them.
        precisions: In which every budget is run again.
        sensitivity: Sizes of the perturbations of the oracle; none if it is empty.
    """

    grid: Grid
    samples: int
    seed: int
    looks: int = 1
    replicate: int = 0
    level: float
    tolerances: dict[str, float]
    given: tuple[int, ...] = ()
    device: str
    dtype: str
    diagnose: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    sensitivity: tuple[float, ...] = ()

    def at(self, look: int) -> Settings:
        """The settings of one look, which is 0 for the first."""
        return self.model_copy(update={"samples": self.samples << look})

    @property
    def level_of_a_look(self) -> float:
        """Confidence at which every look is judged, so that all of them hold together."""
        return 1 - (1 - self.level) / self.looks
