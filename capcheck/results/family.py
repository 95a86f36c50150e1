"""The result of one family: its cells, its verdict over the grid, and the reasons."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, computed_field

from capcheck.core.budget import Axis, Budget
from capcheck.core.record import Record
from capcheck.diagnostics.diagnosis import Diagnosis
from capcheck.networks.perturbed import Perturbation
from capcheck.networks.rounded import Precision
from capcheck.procedures.probe import Failure
from capcheck.procedures.rows import ROW_TITLES, Row
from capcheck.results.gap import Gap, Part
from capcheck.results.measurement import Cell, Holding, Outcome, PerturbedCell, PrecisionCell
from capcheck.results.plan import FamilyPlan, NetworkFacts
from capcheck.results.speculation import Speculation

__all__ = [
    "WITHOUT_KL",
    "WITHOUT_KL_MEANING",
    "Axes",
    "AxisUse",
    "Blame",
    "Cause",
    "FamilyResult",
    "LoopOrder",
    "PrecisionResult",
    "Rate",
    "Sensitivity",
]

WITHOUT_KL = "°"  # mark of a verdict without KL
WITHOUT_KL_MEANING = "representable without an upper bound on KL, by the other divergences alone"

AxisUse = Literal["used", "flat", "undecided"]
LoopOrder = Literal["none", "length", "steps", "length_outer", "steps_outer"]
Blame = Literal["procedure", "network", "numerics"]


class Axes(Record):
    """Measured use of the two budget axes; see `capcheck.judging.scaling`."""

    length: AxisUse
    steps: AxisUse


class Rate(Record):
    """The power at which a divergence falls along one axis: divergence ~ budget^-value.

    Attributes:
        axis: The axis; the other axis is at its largest budget.
        divergence: Name of the divergence. The rate is that of the divergence's unit, so that the
            rate of W2 squared is twice that of W2.
        value: The rate, or None if there is none.
        low: Lower end of the rate's interval.
        high: Upper end of the rate's interval.
        level: Confidence of [low, high]. For exact divergences, the interval is instead the range
            of the slopes between neighbouring budgets.
        budgets: Number of budgets that the rate is fitted to; without a rate, number of budgets
            that are clearly above the null floor.
        reason: The range of fitted budgets, or why there is no rate.
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
    """A suspected cause of a floor, with the measurement of the procedure without it.

    Attributes:
        failure: Class of the cause.
        cure: The change that removes the cause, as a phrase to follow "with".
        plan: The changed procedure.
        cell: The changed procedure at the largest budget.
        removed: Whether the floor is gone: the changed procedure is no longer refused.
        sentence: The comparison in words, with both divergences.
    """

    failure: Failure
    cure: str
    plan: FamilyPlan
    cell: Cell
    removed: bool
    sentence: str


class PrecisionResult(Record):
    """The result of a procedure that was run in fewer digits.

    Attributes:
        precision: Floating-point type of tokens, levels, noise and answers of the network;
            `float8` applies to the answers only.
        holding: `holds` if the verdict holds in this precision, `numerics` if it is broken by
            rounding, otherwise `undecided`; see `capcheck.judging.numerics`.
        reason: The reason in one sentence.
        cells: The cells in this precision, one per budget.
    """

    precision: Precision
    holding: Holding
    reason: str
    cells: tuple[PrecisionCell, ...] = ()


class Sensitivity(Record):
    """The divergences of a procedure whose oracle has errors of known sizes.

    Attributes:
        perturbation: Kind of error: `noise`, `shrinkage` or `temperature`.
        meaning: Definition of an error of size 1.
        budget: Budget of all cells.
        cells: One cell per size, in rising order of the size.
        slopes: Rise of each divergence per unit of size, measured at the smallest size.
        allowed: Largest size such that it and all smaller measured sizes are representable, or None
            if the smallest size is not.
        reason: The reason why there are no cells, or empty.
    """

    perturbation: Perturbation
    meaning: str
    budget: Budget
    cells: tuple[PerturbedCell, ...] = ()
    slopes: dict[str, Part] = Field(default_factory=dict)
    allowed: float | None = None
    reason: str = ""


class FamilyResult(Record):
    """The result of one family with one network.

    Attributes:
        plan: The measured procedure, its options and its network.
        row: The family's row in the paper's table, or the row that its procedure belongs to if the
            table does not list the family.
        in_paper: Whether the paper's table lists the family.
        outcome: Verdict over the grid.
        reason: The reason of the verdict in one sentence.
        smallest_budget: The sufficient budget of fewest model calls, or None.
        axes: Measured use of the axes.
        loop_order: Measured loop order, or None if nothing ran.
        cells: One cell per budget, steps changing fastest.
        causes: Suspected causes of a floor at the largest budget, each switched off and measured.
        notes: Further remarks, each a sentence.
        error: The reason why the family could not be measured, or None.
        supported: Whether the procedure is defined for the target.
        missing: Number of unmeasured cells that the verdict waits for; left out of the schema.
        rates: Rate at which each divergence falls along each axis.
        facts: Size and fit of the network, or None for the oracle.
        speculation: How drafts fare that are verified, or that a verification would judge; None of
            a procedure that drafts nothing.
        oracle_outcome: Verdict of the same procedure with its oracle, or None if this result is
            itself of the oracle.
        oracle_cells: Cells of the procedure with its oracle, of equal samples; left out as well.
        gaps: Every divergence of every cell in parts; empty if this result is of the oracle.
        precisions: Results in fewer digits, if the run asked for any.
        sensitivities: Results with errors of the oracle, if the run asked for any.
    """

    computed: ClassVar[frozenset[str]] = frozenset({"blame"})

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
    missing: int = 0
    rates: tuple[Rate, ...] = ()
    facts: NetworkFacts | None = None
    speculation: Speculation | None = None
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
        """Name of the family, and of the network if it is not the oracle."""
        return self.plan.title

    @property
    def parameters(self) -> int:
        """Number of parameters of the network; 0 if it is not known."""
        return (self.facts.parameters or 0) if self.facts is not None else 0

    @property
    def without_kl(self) -> bool:
        """Whether the family passes at its smallest budget with KL asked for and not bounded."""
        passed = [cell for cell in self.cells if cell.budget == self.smallest_budget]
        return any(
            "kl" in cell.estimates and cell.estimates["kl"].kind in ("unavailable", "lower bound")
            for cell in passed
        )

    @property
    def measured_row(self) -> Row | None:
        """The row of the paper's table that the measurements show, or None if undecided."""
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
        """A clause on a measured row that is undecided or not `row`; None if it is `row`."""
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
        """The part that causes a failure: `procedure`, `network` or `numerics`.

        None if nothing fails or the cause is not known. `numerics` means that the family passes,
        and fails in at least one lower precision.
        """
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
        """Budgets that are refused with this network and sufficient with the oracle."""
        return tuple(
            cell.budget
            for cell, oracle in zip(self.cells, self.oracle_cells, strict=False)
            if cell.outcome is Outcome.NOT_REPRESENTABLE and oracle.outcome is Outcome.REPRESENTABLE
        )

    @property
    def exit_code(self) -> int:
        """Exit code: 0 representable, 1 not representable, 3 inconclusive or not measured.

        A family that is broken by numerics in a requested precision exits with 1.
        """
        return 1 if self.blame == "numerics" else self.outcome.exit_code

    @property
    def failure(self) -> Failure | None:
        """Class of the first cause that removes the floor if switched off, or None."""
        return next((cause.failure for cause in self.causes if cause.removed), None)

    def cell(self, budget: Budget) -> Cell:
        """The cell of a budget."""
        return next(cell for cell in self.cells if cell.budget == budget)

    @property
    def diagnoses(self) -> tuple[Diagnosis, ...]:
        """Diagnoses of the largest budget; empty if the run asked for none."""
        return self.cells[-1].diagnoses if self.cells else ()
