"""The result schema: what a check found, as data. JSON of the same words.

Infinite and broken numbers are the strings `Infinity`, `-Infinity` and `NaN` in JSON; a number that
could not be had is null. `SCHEMA_VERSION` changes whenever a reader could notice.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from capcheck.budget import Axis, Budget, Grid
from capcheck.diagnosis import Diagnosis
from capcheck.divergences.estimate import Estimate
from capcheck.errors import CapcheckError
from capcheck.probe import ROW_TITLES, Failure, Row
from capcheck.sequences import Kind
from capcheck.targets.provenance import Provenance
from capcheck.trace import Traces
from capcheck.witness import Witness

SCHEMA_VERSION = 2

AxisUse = Literal["used", "flat", "undecided"]
LoopOrder = Literal["none", "length", "steps", "length_outer", "steps_outer"]


class Outcome(StrEnum):
    """Whether the procedure can produce the target."""

    REPRESENTABLE = "representable"
    NOT_REPRESENTABLE = "not_representable"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """0, 1 or 3."""
        return {"representable": 0, "not_representable": 1, "inconclusive": 3}[self.value]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class TargetSummary(_Record):
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


class Settings(_Record):
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

    def at(self, look: int) -> Settings:
        """The settings of one look, which is 0 for the first."""
        return self.model_copy(update={"samples": self.samples << look})

    @property
    def level_of_a_look(self) -> float:
        """Confidence at which every look is judged, so that all of them hold together."""
        return 1 - (1 - self.level) / self.looks


class Measurement(_Record):
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
    examples: Any = Field(default=(), repr=False)


class Cell(Measurement):
    """One cell with its verdict.

    Attributes:
        outcome: Whether this budget suffices.
        reason: One sentence.
    """

    outcome: Outcome
    reason: str


class Axes(_Record):
    """Measured use of the two budget axes."""

    length: AxisUse
    steps: AxisUse


class Rate(_Record):
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


class FamilyPlan(_Record):
    """Which procedure is measured.

    Attributes:
        family: Its name.
        options: Its options, defaults included.
        network: What stands behind its signature: the oracle, or one that the caller gave.
    """

    family: str
    options: dict[str, Any]
    network: Literal["oracle", "given"] = "oracle"


class Cause(_Record):
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


class FamilyResult(FamilyPlan):
    """What was found of one family.

    Attributes:
        row: Where the paper's table puts it, or where it belongs if the table does not have it.
        in_paper: Whether the table has it.
        outcome: Verdict over the grid.
        reason: One sentence.
        smallest_budget: The cheapest budget that suffices, or None.
        axes: Measured use of the axes.
        loop_order: Measured loop order, or None if nothing ran.
        cells: One per budget, steps changing fastest.
        causes: Suspected causes of a floor at the largest budget, each switched off and measured.
        notes: What else a reader should know.
        error: Why the family could not be measured, or None.
        supported: Whether the procedure is defined for the target's tokens.
        rates: How fast each divergence falls along each axis.
    """

    row: Row
    in_paper: bool = True
    outcome: Outcome
    reason: str
    smallest_budget: Budget | None
    axes: Axes
    loop_order: LoopOrder | None
    cells: tuple[Cell, ...]
    causes: tuple[Cause, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    supported: bool = True
    rates: tuple[Rate, ...] = ()

    @property
    def measured_row(self) -> Row | None:
        """Where the measurements put it in the paper's table, or None if they are undecided."""
        uses = (self.axes.length, self.axes.steps)
        if "undecided" in uses or self.loop_order is None:
            return None
        if uses == ("used", "used"):
            return self.loop_order if self.loop_order in ("length_outer", "steps_outer") else None
        rows: dict[tuple[AxisUse, AxisUse], Row] = {
            ("flat", "flat"): "neither",
            ("used", "flat"): "length",
            ("flat", "used"): "steps",
        }
        return rows[uses]

    @property
    def disagreement(self) -> str | None:
        """Why the measured row is not the paper's, in words, or None if it is."""
        if self.error is not None or self.measured_row == self.row:
            return None
        measured = f"length {self.axes.length}, steps {self.axes.steps}"
        if self.loop_order is not None:
            measured += f", loop order {self.loop_order.replace('_', ' ')}"
        place = "the paper puts it" if self.in_paper else "its procedure belongs"
        return f"{place} under {ROW_TITLES[self.row]}, and measured is {measured}"

    @property
    def failure(self) -> Failure | None:
        """Class of the floor at the largest budget, where switching it off removes the floor."""
        return next((cause.failure for cause in self.causes if cause.removed), None)

    def cell(self, budget: Budget) -> Cell:
        """The cell of that budget."""
        return next(cell for cell in self.cells if cell.budget == budget)

    @property
    def diagnoses(self) -> tuple[Diagnosis, ...]:
        """Diagnoses of the largest budget, if they were asked for."""
        return self.cells[-1].diagnoses if self.cells else ()


# What runs store for reports and later comparisons, and the result schema leaves out.
_TERMS = {"__all__": {"terms": True, "below": True, "above": True}}
_CELL: dict[str, Any] = {"examples": True, "estimates": _TERMS}
_FAMILY: dict[str, Any] = {"cells": {"__all__": _CELL}, "causes": {"__all__": {"cell": _CELL}}}
_TARGET: dict[str, Any] = {"examples": True, "provenance": {"picture": True}}


class _Header(_Record):
    schema_version: int = SCHEMA_VERSION
    capcheck_version: str
    environment: dict[str, str]
    target: TargetSummary
    settings: Settings


class CheckResult(_Header, FamilyResult):
    """What `capcheck.check` found: a family's result and what it was measured against."""

    @property
    def exit_code(self) -> int:
        """0 representable, 1 not representable, 3 inconclusive."""
        return self.outcome.exit_code

    def survey(self) -> SurveyResult:
        """The same as a survey of one family."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        header = {name: own.pop(name) for name in _Header.model_fields}
        return SurveyResult(**header, families=(FamilyResult(**own),))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data of the result schema."""
        return self.model_dump(mode="json", exclude=_FAMILY | {"target": _TARGET})

    def save(self, folder: str | Path) -> Path:
        """Write the run folder (manifest and cells) that `capcheck report` reads."""
        return self.survey().save(folder)

    def report(self, path: str | Path) -> Path:
        """Write the HTML report to that file."""
        return self.survey().report(path)


class CapacityError(CapcheckError):
    """A required capacity was not shown (exit code 1, or 3 where the evidence is missing).

    Attributes:
        result: The check that failed.
    """

    def __init__(self, message: str, result: CheckResult) -> None:
        super().__init__(message)
        self.result = result
        self.exit_code = result.exit_code


class SurveyResult(_Header):
    """What `capcheck.survey` found.

    Attributes:
        families: One result per family.
    """

    families: tuple[FamilyResult, ...]

    def check_result(self, family: str) -> CheckResult:
        """One family's result with its header."""
        found = next(result for result in self.families if result.family == family)
        header = {name: getattr(self, name) for name in _Header.model_fields}
        own = {name: getattr(found, name) for name in FamilyResult.model_fields}
        return CheckResult(**header, **own)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data of the result schema."""
        return self.model_dump(
            mode="json",
            exclude={"families": {"__all__": _FAMILY}, "target": _TARGET},
        )

    def save(self, folder: str | Path) -> Path:
        """Write the run folder (manifest and cells) that `capcheck report` reads."""
        from capcheck.store import save  # the store reads results, so it cannot be above

        return save(self, Path(folder))

    def report(self, path: str | Path) -> Path:
        """Write the HTML report to that file."""
        from capcheck.registry import report_writer
        from capcheck.store import write_atomically

        return write_atomically(Path(path), report_writer()(self))
