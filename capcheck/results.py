"""The result schema: what a check or a survey found, as data. JSON of the same words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, computed_field

from capcheck.budget import Budget
from capcheck.capacity import CapacityCurve, capacity_curves
from capcheck.diagnosis import Diagnosis
from capcheck.errors import CapcheckError
from capcheck.gap import Gap
from capcheck.probe import ROW_TITLES, Failure, Row
from capcheck.records import (
    SCHEMA_VERSION,
    Axes,
    AxisUse,
    Cause,
    Cell,
    FamilyPlan,
    LoopOrder,
    NetworkFacts,
    Outcome,
    PrecisionResult,
    Rate,
    Record,
    Sensitivity,
    Settings,
    TargetSummary,
)

Blame = Literal["procedure", "network", "numerics"]


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
        facts: What stands in the oracle's place, if something does.
        oracle_outcome: Verdict of the same procedure with its oracle, if another network is here.
        oracle_cells: Its cells, of as many draws; stored, and left out of the result schema.
        gaps: Every divergence of every cell in parts, likewise.
        precisions: What fewer digits do, if that was asked for.
        sensitivities: What errors of the oracle do, likewise.
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
    facts: NetworkFacts | None = None
    oracle_outcome: Outcome | None = None
    oracle_cells: tuple[Cell, ...] = Field(default=(), repr=False)
    gaps: tuple[Gap, ...] = ()
    precisions: tuple[PrecisionResult, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()

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


# What runs store for reports and later comparisons, and the result schema leaves out.
_TERMS = {"__all__": {"terms": True, "below": True, "above": True}}
_CELL: dict[str, Any] = {"examples": True, "estimates": _TERMS}
_MOVED: dict[str, Any] = _CELL | {"moved": _TERMS["__all__"], "precise": _TERMS}
_FAMILY: dict[str, Any] = {
    "oracle_cells": True,
    "cells": {"__all__": _CELL},
    "causes": {"__all__": {"cell": _CELL}},
    "precisions": {"__all__": {"cells": {"__all__": _MOVED}}},
    "sensitivities": {"__all__": {"cells": {"__all__": _CELL}}},
}
_TARGET: dict[str, Any] = {"examples": True, "provenance": {"picture": True}}


class _Header(Record):
    schema_version: int = SCHEMA_VERSION
    capcheck_version: str
    environment: dict[str, str]
    target: TargetSummary
    settings: Settings


class CheckResult(_Header, FamilyResult):
    """What `capcheck.check` found: a family's result and what it was measured against.

    Attributes:
        beside: The same procedure with its oracle and with other networks, where a network was
            named: this result, and with it the exit code, is of the smallest one that suffices, or
            of the largest.
    """

    beside: tuple[FamilyResult, ...] = ()

    def survey(self) -> SurveyResult:
        """The same as a survey, of this result behind those that it stands beside."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        header = {name: own.pop(name) for name in _Header.model_fields}
        beside = own.pop("beside")
        return SurveyResult(**header, families=(*beside, FamilyResult(**own)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data of the result schema."""
        beside = {"beside": {"__all__": _FAMILY}}
        whole = self.model_dump(mode="json", exclude=_FAMILY | beside | {"target": _TARGET})
        return whole | {"curves": _dumped(self.survey().curves)}

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

    @property
    def curves(self) -> tuple[CapacityCurve, ...]:
        """Divergence against size, of each family that was measured with several networks."""
        return capacity_curves(self)

    def check_result(self, family: str) -> CheckResult:
        """One family's result with its header."""
        found = [result for result in self.families if result.family == family]
        named = [result for result in found if result.network != "oracle"]
        chosen = _chosen(named) if named else found[0]
        header = {name: getattr(self, name) for name in _Header.model_fields}
        own = {name: getattr(chosen, name) for name in FamilyResult.model_fields}
        beside = tuple(result for result in found if result is not chosen)
        return CheckResult(**header, **own, beside=beside)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data of the result schema."""
        return self.model_dump(
            mode="json",
            exclude={"families": {"__all__": _FAMILY}, "target": _TARGET},
        ) | {"curves": _dumped(self.curves)}

    def save(self, folder: str | Path) -> Path:
        """Write the run folder (manifest and cells) that `capcheck report` reads."""
        from capcheck.store import save  # the store reads results, so it cannot be above

        return save(self, Path(folder))

    def report(self, path: str | Path) -> Path:
        """Write the HTML report to that file."""
        from capcheck.registry import report_writer
        from capcheck.store import write_atomically

        return write_atomically(Path(path), report_writer()(self))


def _dumped(curves: Sequence[CapacityCurve]) -> list[dict[str, Any]]:
    return [curve.model_dump(mode="json") for curve in curves]


def _chosen(results: Sequence[FamilyResult]) -> FamilyResult:
    """Of several networks, the smallest that suffices, or the largest."""

    def size(result: FamilyResult) -> int:
        return (result.facts.parameters or 0) if result.facts else 0

    rising = sorted(results, key=size)
    sufficient = [found for found in rising if found.outcome is Outcome.REPRESENTABLE]
    return sufficient[0] if sufficient else rising[-1]
