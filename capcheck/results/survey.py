"""The result of a run: what `survey` found of many families, and `check` of one."""

from __future__ import annotations

from typing import Any

from capcheck.core.budget import Budget
from capcheck.core.errors import CapcheckError
from capcheck.core.record import Record
from capcheck.results.family import Axes, Blame, FamilyResult, LoopOrder
from capcheck.results.gap import Part
from capcheck.results.measurement import Cell, Outcome
from capcheck.results.plan import FitFacts
from capcheck.results.settings import Settings, TargetSummary

SCHEMA_VERSION = 4
"""Of results and runs; it changes whenever a reader could notice."""


class CurvePoint(Record):
    """One network.

    Attributes:
        network: Its name.
        parameters: Numbers that were fitted.
        fit: What the fit came to.
        outcome: Verdict at the curve's budget.
        totals: Each divergence at the curve's budget.
        changes: By how much each divergence rises from the next smaller network; negative if it
            falls.
    """

    network: str
    parameters: int
    fit: FitFacts | None
    outcome: Outcome
    totals: dict[str, Part]
    changes: dict[str, Part]


class CapacityCurve(Record):
    """A family with networks of several sizes.

    Attributes:
        family: Its name.
        budget: At which divergences are compared: the largest.
        level: Confidence of each interval.
        points: One per network, the smallest first.
        smallest: Name of the smallest network that suffices at this budget, or None.
    """

    family: str
    budget: Budget
    level: float
    points: tuple[CurvePoint, ...]
    smallest: str | None


class MeasuredBy(Record):
    """The code that measured or judged something.

    Attributes:
        version: Of capcheck.
        code: SHA-256 of the sources that numbers depend on.
        families: Likewise of each family's own.
    """

    version: str
    code: str
    families: dict[str, str]

    def of(self, family: str) -> str:
        """All code that the numbers of a family depend on, in one text."""
        return f"{self.code} {self.families.get(family, '')}"


class SurveyResult(Record):
    """What `capcheck.survey` found.

    Attributes:
        schema_version: Of the data.
        measured_by: The code that the cells were measured by.
        judged_by: Version of the capcheck that judged them.
        environment: Versions of libraries that numbers may depend on.
        target: What was measured against.
        settings: How every cell was measured.
        families: One result per family and network.
        curves: Divergence against size, of each family that was measured with several networks.
    """

    schema_version: int = SCHEMA_VERSION
    measured_by: MeasuredBy
    judged_by: str
    environment: dict[str, str]
    target: TargetSummary
    settings: Settings
    families: tuple[FamilyResult, ...]
    curves: tuple[CapacityCurve, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data of the result schema: no bare infinity, and no samples."""
        header = self.to_json({"families": True, "target": _TARGET})
        return header | {"families": [_family_data(found) for found in self.families]}

    def check_result(self, family: str) -> CheckResult:
        """The part of the result that is about one family."""
        own = tuple(found for found in self.families if found.family == family)
        curves = tuple(curve for curve in self.curves if curve.family == family)
        return CheckResult.of(self.model_copy(update={"families": own, "curves": curves}))


class CheckResult(Record):
    """What `capcheck.check` found of one family.

    Attributes:
        survey: The run, of the oracle and of all networks that were named.
        found: The result that the check is about, and with it the exit code: of the oracle, or,
            where networks were named, of the smallest one that suffices, or of the largest.
    """

    survey: SurveyResult
    found: FamilyResult

    @classmethod
    def of(cls, survey: SurveyResult) -> CheckResult:
        """The check that a survey of one family is."""
        named = [found for found in survey.families if found.network != "oracle"]
        rising = sorted(named, key=lambda found: found.parameters)
        sufficient = [found for found in rising if found.outcome is Outcome.REPRESENTABLE]
        chosen = sufficient[:1] or rising[-1:] or survey.families[:1]
        return cls(survey=survey, found=chosen[0])

    @property
    def beside(self) -> tuple[FamilyResult, ...]:
        """The same procedure with its oracle and with other networks, where one was named."""
        return tuple(other for other in self.survey.families if other is not self.found)

    @property
    def target(self) -> TargetSummary:
        """What was measured against."""
        return self.survey.target

    @property
    def settings(self) -> Settings:
        """How every cell was measured."""
        return self.survey.settings

    @property
    def outcome(self) -> Outcome:
        """Verdict over the grid."""
        return self.found.outcome

    @property
    def reason(self) -> str:
        """The verdict's reason, in one sentence."""
        return self.found.reason

    @property
    def smallest_budget(self) -> Budget | None:
        """The cheapest budget that suffices, or None."""
        return self.found.smallest_budget

    @property
    def axes(self) -> Axes:
        """Measured use of the two budget axes."""
        return self.found.axes

    @property
    def loop_order(self) -> LoopOrder | None:
        """Measured loop order, or None if nothing ran."""
        return self.found.loop_order

    @property
    def blame(self) -> Blame | None:
        """Whose fault a failure is, where that is known."""
        return self.found.blame

    @property
    def cells(self) -> tuple[Cell, ...]:
        """One cell per budget, steps changing fastest."""
        return self.found.cells

    @property
    def exit_code(self) -> int:
        """0 representable, 1 not representable, also in a precision that was asked for, 3 else."""
        return self.found.exit_code

    def cell(self, budget: Budget) -> Cell:
        """The cell of a budget."""
        return self.found.cell(budget)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data of the result schema: the survey's header, and the family's result."""
        whole = self.survey.to_dict()
        del whole["families"]
        beside = [_family_data(other) for other in self.beside]
        return whole | _family_data(self.found) | {"beside": beside}


class CapacityError(CapcheckError):
    """A required capacity was not shown (exit code 1, or 3 where the evidence is missing).

    Attributes:
        result: The check that failed.
    """

    def __init__(self, message: str, result: CheckResult) -> None:
        super().__init__(message)
        self.result = result
        self.exit_code = result.exit_code


# What runs store for reports and later comparisons, and the result schema leaves out.
_TERMS = {"__all__": {"terms": True, "below": True, "above": True}}
_CELL: dict[str, Any] = {"examples": True, "estimates": _TERMS}
_MOVED: dict[str, Any] = _CELL | {"moved": _TERMS["__all__"], "precise": _TERMS}
_FAMILY: dict[str, Any] = {
    "plan": True,
    "oracle_cells": True,
    "cells": {"__all__": _CELL},
    "causes": {"__all__": {"cell": _CELL}},
    "precisions": {"__all__": {"cells": {"__all__": _MOVED}}},
    "sensitivities": {"__all__": {"cells": {"__all__": _CELL}}},
}
_TARGET: dict[str, Any] = {"examples": True, "provenance": {"picture": True}}


def _family_data(found: FamilyResult) -> dict[str, Any]:
    """A family's result, its plan's fields first."""
    return found.plan.to_json() | found.to_json(_FAMILY)
