"""A cell: one family at one budget, as it was measured and as it was judged."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from capcheck.core.budget import Budget
from capcheck.core.record import Record
from capcheck.diagnostics.diagnosis import Diagnosis
from capcheck.diagnostics.witness import Witness
from capcheck.divergences.estimate import Estimate
from capcheck.procedures.trace import Traces
from capcheck.results.gap import Gap

Holding = Literal["holds", "numerics", "undecided"]


class Outcome(StrEnum):
    """Whether the procedure can produce the target."""

    REPRESENTABLE = "representable"
    NOT_REPRESENTABLE = "not_representable"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """0, 1 or 3."""
        return {"representable": 0, "not_representable": 1, "inconclusive": 3}[self.value]


class SampledLaw(Record):
    """The law that a procedure samples, where it is known with no sampling error.

    Of numbers it is a mixture of Gaussians over flat sequences of D = N d numbers, in token units;
    most procedures have one component, and a random order one for each distinct law. Of token ids
    it is a table.

    Attributes:
        weights: (K,) of the components; empty for a table.
        means: (K, D).
        covariances: (K, D, D); one may be singular.
        probabilities: (V^N,) of every sequence, the first token most significant; empty if the
            tokens are numbers.
    """

    weights: tuple[float, ...] = ()
    means: tuple[tuple[float, ...], ...] = ()
    covariances: tuple[tuple[tuple[float, ...], ...], ...] = ()
    probabilities: tuple[float, ...] = ()


class Measurement(Record):
    """One cell as measured, before any verdict.

    Attributes:
        budget: What the procedure was allowed.
        samples: Draws of target and model.
        model_calls: Sequential network evaluations, counted, completion included.
        tokens_processed: Tokens shown to the network, per sample.
        estimates: Divergence from the target, by name.
        traces: Loop structure of the samples.
        witness: Where the samples differ from the target's draws.
        diagnoses: Further tests of the samples, at the largest budget if they were asked for.
        moved: Of a run in fewer digits, how far its draws are from those of the same random numbers
            in the run's own precision.
        precise: Likewise, the divergences of these from the target, by the same estimators.
        law: The law that is sampled, where it is known exactly and of few enough numbers.
        examples: A few samples, (rows, N, d) or (rows, N).
    """

    budget: Budget
    samples: int
    model_calls: int
    tokens_processed: float
    estimates: dict[str, Estimate]
    traces: Traces
    witness: Witness | None = None
    diagnoses: tuple[Diagnosis, ...] = ()
    moved: Estimate | None = None
    precise: dict[str, Estimate] = Field(default_factory=dict)
    law: SampledLaw | None = Field(default=None, repr=False)
    examples: Any = Field(default=(), repr=False)


class Cell(Measurement):
    """One cell with its verdict.

    Attributes:
        outcome: Whether this budget suffices.
        reason: One sentence.
    """

    outcome: Outcome
    reason: str


class PrecisionCell(Cell):
    """One budget in fewer digits.

    Attributes:
        holding: Whether what was found in the run's own precision still holds.
        gaps: The divergences in parts.
    """

    holding: Holding
    gaps: tuple[Gap, ...] = ()


class PerturbedCell(Cell):
    """What a perturbation of some size does.

    Attributes:
        size: Root mean square of the error, in units of what it is an error of.
        gaps: The divergences in parts, of which the `network` is the perturbation's.
    """

    size: float
    gaps: tuple[Gap, ...] = ()
