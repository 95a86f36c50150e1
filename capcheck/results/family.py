"""The result of one family: its cells, its verdict, and why."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, computed_field

from capcheck.core.budget import Axis, Budget
from capcheck.core.record import Record
from capcheck.diagnostics.diagnosis import Diagnosis
from capcheck.networks.perturbed import Perturbation
from capcheck.networks.rounded import Precision
from capcheck.procedures.probe import ROW_TITLES, Failure, Row
from capcheck.results.gap import Gap, Part
from capcheck.results.measurement import Cell, Holding, Outcome, PerturbedCell, PrecisionCell
from capcheck.results.plan import FamilyPlan, NetworkFacts

AxisUse = Literal["used", "flat", "undecided"]
LoopOrder = Literal["none", "length", "steps", "length_outer", "steps_outer"]
Blame = Literal["procedure", "network", "numerics"]


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


class FamilyResult(Record):
    """What was found of one family.

    Attributes:
        plan: What was measured: procedure, options and network.
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
        facts: What stands in the oracle's place, if something does.
        oracle_outcome: Verdict of the same procedure with its oracle, if another network is here.
        oracle_cells: Its cells, of as many draws; stored, and left out of the result schema.
        gaps: Every divergence of every cell in parts, likewise.
        precisions: What fewer digits do, if that was asked for.
        sensitivities: What errors of the oracle do, likewise.
    """

    plan: FamilyPlan
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
    facts: NetworkFacts | None = None
    oracle_outcome: Outcome | None = None
    oracle_cells: tuple[Cell, ...] = Field(default=(), repr=False)
    gaps: tuple[Gap, ...] = ()
    precisions: tuple[PrecisionResult, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.plan.family

    @property
    def network(self) -> str:
        """Name of the network; `oracle` if it is that."""
        return self.plan.network.name

    @property
    def title(self) -> str:
        """The family, and the network if it is not the oracle."""
        return self.plan.title

    @property
    def parameters(self) -> int:
        """Numbers of the network that can be fitted; 0 if they are not known."""
        return (self.facts.parameters or 0) if self.facts is not None else 0

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

    @computed_field  # type: ignore[prop-decorator]
    @property
    def blame(self) -> Blame | None:
        """Whose fault a failure is, where that is known: a verdict's, or that of fewer digits."""
        if self.outcome is Outcome.REPRESENTABLE:
            broken = any(found.holding == "numerics" for found in self.precisions)
            return "numerics" if broken else None
        if self.outcome is Outcome.INCONCLUSIVE:
            return None
        if self.network == "oracle" or self.oracle_outcome is Outcome.NOT_REPRESENTABLE:
            return "procedure"
        return "network" if self.oracle_outcome is Outcome.REPRESENTABLE else None

    @property
    def refused_by_network(self) -> tuple[Budget, ...]:
        """Budgets that are refused with this network and suffice with the oracle."""
        return tuple(
            cell.budget
            for cell, oracle in zip(self.cells, self.oracle_cells, strict=False)
            if cell.outcome is Outcome.NOT_REPRESENTABLE and oracle.outcome is Outcome.REPRESENTABLE
        )

    @property
    def exit_code(self) -> int:
        """0 representable, 1 not representable (or not in a precision that was asked for), 3 else.

        Missing evidence is inconclusive.
        """
        return 1 if self.blame == "numerics" else self.outcome.exit_code

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
