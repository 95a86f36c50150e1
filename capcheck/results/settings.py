"""The settings that all cells of a run share, and a summary of the run's target."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from capcheck.core.budget import Grid
from capcheck.core.record import Record
from capcheck.core.sequences import Kind
from capcheck.networks.rounded import Precision
from capcheck.targets.provenance import Provenance

__all__ = [
    "FEWER",
    "MIN_SAMPLES",
    "SAMPLES",
    "SECONDS_PER_CELL",
    "SECONDS_PER_RUN",
    "Settings",
    "TargetSummary",
]


class TargetSummary(Record):
    """A summary of the target that a run measures against.

    Attributes:
        fingerprint: Content hash of the law.
        tokens: N, the number of tokens of a sequence.
        dim: Dimension d of a continuous token, or number of symbols V of a categorical one.
        kind: Kind of the tokens.
        grid: (rows, columns) of the tokens, or None if they are not on a grid.
        spread: sqrt(tr Cov), in token units.
        provenance: Source and exactness of the law.
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
        """Number and kind of the tokens, in words."""
        if self.kind == "categorical":
            return f"{self.tokens} tokens over {self.dim} symbols"
        return f"{self.tokens} tokens of dimension {self.dim}"

    @property
    def name(self) -> str:
        """Name of the target in headings: its source, or its description if it has none."""
        return self.provenance.source or self.provenance.description


SECONDS_PER_CELL = 10.0  # default of `Settings.seconds_per_cell`
SECONDS_PER_RUN = 600.0  # default of `Settings.seconds_per_run`
SAMPLES = 2000  # default of `Settings.samples`
FEWER = 4  # part of the draws that is taken where a verdict does not need all of them
MIN_SAMPLES = 200  # with fewer draws the groups of rows that pair two cells are too small


class Settings(Record):
    """The settings that all cells of a run share.

    Attributes:
        grid: Budgets of every family.
        samples: Draws of target and model in every cell, at the first look.
        looks: Largest number of looks. An undecided family is drawn again with twice the samples of
            the look before; the error of its verdict is divided equally among the looks.
        seconds_per_cell: Most time for the log-density of a cell, in seconds of an idle machine
            with two cores; it is computed, and limits the number of draws.
        seconds_per_run: Most time of one run of a procedure, in seconds of this machine; one that
            would take longer is given up early, and its family is not measured.
        seed: Seed of all draws.
        replicate: Index of the independent repetition.
        level: Confidence of intervals and verdicts.
        tolerances: Tolerance of each measured divergence, in its tolerance unit.
        given: Indices of tokens that are known from the start; a length budget counts the others.
        device: Type of the device, such as `cpu` or `cuda`.
        dtype: Floating-point type of procedure and oracle.
        diagnose: Names of the diagnoses of the largest budget; no verdict depends on them.
        precisions: Lower precisions in which every budget is run again.
        sensitivity: Sizes of the errors of the oracle; empty for no such measurement.
    """

    grid: Grid
    samples: int
    seed: int
    looks: int = 1
    seconds_per_cell: float = SECONDS_PER_CELL
    seconds_per_run: float = SECONDS_PER_RUN
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
        """The settings of a look, counted from 0: samples are doubled at each look."""
        return self.model_copy(update={"samples": self.samples << look})

    @property
    def fewer_samples(self) -> int:
        """Draws that are taken where a verdict does not need all of them."""
        return max(MIN_SAMPLES, self.samples // FEWER)

    @property
    def level_of_a_look(self) -> float:
        """Confidence of each look by itself, such that all looks hold together at `level`."""
        return 1 - (1 - self.level) / self.looks
