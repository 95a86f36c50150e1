"""A cell is one family at one budget: the measurement and, added to it, the verdict."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from capcheck.core.budget import Budget
from capcheck.core.record import Record
from capcheck.diagnostics.diagnosis import Diagnosis
from capcheck.diagnostics.improbable import Places
from capcheck.diagnostics.quality import Quality
from capcheck.diagnostics.witness import Witness
from capcheck.divergences.estimate import Estimate
from capcheck.procedures.trace import Traces
from capcheck.results.gap import Gap

__all__ = [
    "Cell",
    "Holding",
    "Measurement",
    "Outcome",
    "PerturbedCell",
    "PrecisionCell",
    "SampledLaw",
]

Holding = Literal["holds", "numerics", "undecided"]


class Outcome(StrEnum):
    """Whether the procedure can produce the target."""

    REPRESENTABLE = "representable"
    NOT_REPRESENTABLE = "not_representable"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """Exit code: 0 representable, 1 not representable, 3 inconclusive."""
        return {"representable": 0, "not_representable": 1, "inconclusive": 3}[self.value]

    @property
    def word(self) -> str:
        """The verdict as a word to follow the name of a family: can, cannot or undecided."""
        words = {"representable": "can", "not_representable": "cannot", "inconclusive": "undecided"}
        return words[self.value]

    @property
    def mark(self) -> str:
        """The verdict as one character."""
        return {"representable": "✓", "not_representable": "✗", "inconclusive": "?"}[self.value]


class SampledLaw(Record):
    """The law that a procedure samples, known without sampling error.

    For continuous tokens the law is a mixture of K Gaussians over flat sequences of D = N d
    numbers, in token units. K is 1 for most procedures; a procedure with a random order has one
    component for each distinct law. For categorical tokens the law is a table of probabilities.

    Attributes:
        weights: (K,) weights of the components; empty for a table.
        means: (K, D) means of the components.
        covariances: (K, D, D) covariances of the components, which may be singular.
        probabilities: (V^N,) probability of every sequence, the first token most significant; empty
            for continuous tokens.
    """

    weights: tuple[float, ...] = ()
    means: tuple[tuple[float, ...], ...] = ()
    covariances: tuple[tuple[tuple[float, ...], ...], ...] = ()
    probabilities: tuple[float, ...] = ()


class Measurement(Record):
    """One measured cell, without a verdict.

    Attributes:
        budget: The largest length and number of steps that the procedure may spend.
        samples: Number of draws of target and model that the settings ask for; an estimate tells
            how many it took.
        model_calls: Counted sequential network evaluations, completion of tokens included.
        tokens_processed: Tokens shown to the network, per sample.
        unplaced: Mean number of tokens of a sequence that the procedure never placed, although the
            length allows all; they are completed at once.
        estimates: Divergence of the samples from the target, by name.
        traces: Loop structure of the samples.
        witness: The features in which samples and target draws differ most, or None.
        quality: What samples of token ids that place every token are like, or None.
        diagnoses: Further tests of the samples at the largest budget, if the run asked for them.
        moved: Only in fewer digits: Wasserstein divergence between the draws and those of the same
            random numbers in the run's own precision.
        precise: Only in fewer digits: divergences of the draws in the run's own precision, by the
            same estimators as `estimates`.
        law: The sampled law, if it is known exactly and small enough to be stored.
        examples: A few samples, (rows, N, d) or (rows, N).
        improbable: For each of the first examples, the places of the tokens that the target would
            almost never write after those before them (`capcheck.diagnostics.improbable`), counted
            from 0. There are fewer than examples if the target's conditionals take long. None if
            they are not known. Reports mark these tokens, and no verdict depends on them.
    """

    budget: Budget
    samples: int
    model_calls: int
    tokens_processed: float
    unplaced: float = 0.0
    estimates: dict[str, Estimate]
    traces: Traces
    witness: Witness | None = None
    quality: Quality | None = None
    diagnoses: tuple[Diagnosis, ...] = ()
    moved: Estimate | None = None
    precise: dict[str, Estimate] = Field(default_factory=dict)
    law: SampledLaw | None = Field(default=None, repr=False)
    examples: Any = Field(default=(), repr=False)
    improbable: Places | None = Field(default=None, repr=False)


class Cell(Measurement):
    """One measured cell with its verdict.

    Attributes:
        outcome: Verdict on this budget.
        reason: The reason of the verdict in one sentence.
    """

    outcome: Outcome
    reason: str


class PrecisionCell(Cell):
    """One budget of a procedure that was run in fewer digits.

    Attributes:
        holding: Whether the verdict in the run's own precision still holds in fewer digits.
        gaps: The divergences of this cell in parts.
    """

    holding: Holding
    gaps: tuple[Gap, ...] = ()


class PerturbedCell(Cell):
    """One budget of a procedure whose oracle has errors of a known size.

    Attributes:
        size: Size of the error; see `Sensitivity.meaning` for its unit.
        gaps: The divergences of this cell in parts; `network` is the part of the errors.
    """

    size: float
    gaps: tuple[Gap, ...] = ()
