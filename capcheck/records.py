"""Records: how a cell was measured and what was found there, as data.

Infinite and broken numbers are the strings `Infinity`, `-Infinity` and `NaN` in JSON; a number that
could not be had is null. `SCHEMA_VERSION` changes whenever a reader could notice.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from capcheck.budget import Axis, Budget, Grid
from capcheck.diagnosis import Diagnosis
from capcheck.divergences.estimate import Estimate
from capcheck.gap import Gap, Part
from capcheck.precision import Precision
from capcheck.probe import Failure
from capcheck.sensitivity import Perturbation
from capcheck.sequences import Kind
from capcheck.targets.provenance import Provenance
from capcheck.trace import Traces
from capcheck.witness import Witness

SCHEMA_VERSION = 3

AxisUse = Literal["used", "flat", "undecided"]
LoopOrder = Literal["none", "length", "steps", "length_outer", "steps_outer"]
Objective = Literal["oracle", "end_to_end"]
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


class Record(BaseModel):
    """Data that is never changed, and refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


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
    examples: Any = Field(default=(), repr=False)


class Cell(Measurement):
    """One cell with its verdict.

    Attributes:
        outcome: Whether this budget suffices.
        reason: One sentence.
    """

    outcome: Outcome
    reason: str


class Axes(Record):
    """Measured use of the two budget axes."""

    length: AxisUse
    steps: AxisUse


class Rate(Record):
    """How fast a divergence falls along one axis: like budget ** -value.

    Attributes:
        axis: The axis; the other one is at its largest budget.
        divergence: Its name. A rate is that of its unit: of W2 squared, twice the rate of W2.
        value: The rate, or None if there is none.
        low: Lower end of its interval.
        high: Upper end of it.
        level: Confidence of [low, high]; of exact numbers, the range of slopes within the tail.
        budgets: Budgets that it is fitted to, or that are clearly above the null floor.
        reason: Which budgets these are, or why there is no rate.
    """

    axis: Axis
    divergence: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    level: float
    budgets: int
    reason: str

    def __str__(self) -> str:
        if self.value is None:
            return f"none: {self.reason}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


class FamilyPlan(Record):
    """Which procedure is measured, and with which network.

    Attributes:
        family: Its name.
        options: Its options, defaults included.
        network: What stands behind its signature: `oracle`, `given` (an object of the caller's), an
            architecture (`mlp:width=128,depth=3`) or a factory (`package.module:name`).
        objective: What the network is fitted to, or None if it is measured as it is.
        fit_seconds: Time that the fit may take, or None if its steps are counted.
        fit_steps: Steps that it makes, or None if its time is limited.
    """

    family: str
    options: dict[str, Any]
    network: str = "oracle"
    objective: Objective | None = None
    fit_seconds: float | None = None
    fit_steps: int | None = None

    @property
    def title(self) -> str:
        """The family, the network if it is not the oracle, and how it was fitted if not to it."""
        if self.network == "oracle":
            return self.family
        end = " end to end" if self.objective == "end_to_end" else ""
        return f"{self.family}, {self.network}{end}"

    @property
    def oracle(self) -> FamilyPlan:
        """The same procedure with the oracle."""
        return FamilyPlan(family=self.family, options=self.options)


class FitFacts(Record):
    """What a fit came to; see `capcheck.fit`.

    Attributes:
        validation: Loss on held-out rows less the oracle's own; 0 is the oracle.
        start: The same before the fit.
        steps: Of the optimiser.
        seconds: Wall-clock time.
        diverged: The loss rose or broke.
        too_short: No step made it better, or there was time for the fewest steps only.
        reason: How it ended.
    """

    validation: float
    start: float
    steps: int
    seconds: float
    diverged: bool
    too_short: bool
    reason: str

    @property
    def failure(self) -> str | None:
        """Why it shows nothing of what the network could do, or None if it does."""
        if self.diverged:
            return f"the fit diverged: {self.reason}"
        return f"the fit was too short: {self.reason}" if self.too_short else None

    def __str__(self) -> str:
        return (
            f"validation {self.start:.3g} to {self.validation:.3g} in {self.steps:,} steps and "
            f"{self.seconds:.0f} s ({self.failure or self.reason})"
        )


class NetworkFacts(Record):
    """What stands in the oracle's place.

    Attributes:
        parameters: Numbers that can be fitted, or None if they cannot be counted.
        weights: SHA-256 of structure and weights, or empty if there are none to be seen.
        fit: What the fit came to, or None if the network is measured as it is.
    """

    parameters: int | None = None
    weights: str = ""
    fit: FitFacts | None = None


class Cause(Record):
    """A suspected cause of a floor, and what the procedure does without it.

    Attributes:
        failure: Class of the cause.
        cure: What was changed, to follow "with".
        plan: The changed procedure.
        cell: What it does at the largest budget.
        removed: Whether the floor is gone: the cell is no longer refused.
        sentence: The same in words, with figures.
    """

    failure: Failure
    cure: str
    plan: FamilyPlan
    cell: Cell
    removed: bool
    sentence: str


class PrecisionCell(Cell):
    """One budget in fewer digits.

    Attributes:
        holding: Whether what was found in the run's own precision still holds.
        gaps: The divergences in parts.
    """

    holding: Holding
    gaps: tuple[Gap, ...] = ()


class PrecisionResult(Record):
    """What fewer digits do to a procedure.

    Attributes:
        precision: Of tokens, levels, noise and answers; `float8` of answers only.
        holding: `numerics` if a verdict changes with the precision, `holds` if none can.
        reason: One sentence.
        cells: One per budget.
    """

    precision: Precision
    holding: Holding
    reason: str
    cells: tuple[PrecisionCell, ...] = ()


class PerturbedCell(Cell):
    """What a perturbation of some size does.

    Attributes:
        size: Root mean square of the error, in units of what it is an error of.
        gaps: The divergences in parts, of which the `network` is the perturbation's.
    """

    size: float
    gaps: tuple[Gap, ...] = ()


class Sensitivity(Record):
    """How a divergence answers to errors of the network.

    Attributes:
        perturbation: `noise`, `shrinkage` or `temperature`.
        meaning: What an error of size 1 is.
        budget: At which it was measured.
        cells: One per size, in rising order.
        slopes: Of each divergence, its rise per size, at the smallest size.
        allowed: Largest size up to which all suffice, or None if not even the smallest one does.
        reason: Why there are no cells, if there are none.
    """

    perturbation: Perturbation
    meaning: str
    budget: Budget
    cells: tuple[PerturbedCell, ...] = ()
    slopes: dict[str, Part] = Field(default_factory=dict)
    allowed: float | None = None
    reason: str = ""
