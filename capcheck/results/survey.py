"""The result of a run: `SurveyResult` of many families, and `CheckResult` of one family."""

from __future__ import annotations

from typing import Any

from capcheck.core.budget import Budget
from capcheck.core.errors import CapcheckError
from capcheck.core.record import Record
from capcheck.results.decoding import DecodingPlan
from capcheck.results.family import Axes, Blame, FamilyResult, LoopOrder
from capcheck.results.gap import Part
from capcheck.results.measurement import Cell, Outcome
from capcheck.results.plan import FitFacts
from capcheck.results.settings import Settings, TargetSummary

__all__ = [
    "SCHEMA_VERSION",
    "CapacityCurve",
    "CapacityError",
    "CheckResult",
    "CurvePoint",
    "MeasuredBy",
    "SurveyResult",
]

SCHEMA_VERSION = 5
"""Version of the schema of results and stored runs; it changes with every visible change."""


class CurvePoint(Record):
    """One network of a capacity curve.

    Attributes:
        network: Name of the network.
        parameters: Number of its parameters.
        fit: Outcome of its fit, or None if the network is measured as it is.
        outcome: Verdict at the curve's budget.
        totals: Each divergence at the curve's budget, with its interval.
        changes: Each divergence minus that of the next smaller network, with the interval of the
            paired difference; negative if the divergence falls.
    """

    network: str
    parameters: int
    fit: FitFacts | None
    outcome: Outcome
    totals: dict[str, Part]
    changes: dict[str, Part]


class CapacityCurve(Record):
    """The divergences of a family as a function of the size of its network.

    Attributes:
        family: Name of the family.
        budget: Budget at which divergences are compared, the largest of the grid.
        level: Confidence of each interval.
        points: One point per network, the smallest first.
        smallest: Name of the smallest network that suffices at this budget, or None.
    """

    family: str
    budget: Budget
    level: float
    points: tuple[CurvePoint, ...]
    smallest: str | None


class MeasuredBy(Record):
    """The version and the digests of the code that measured the cells.

    Attributes:
        version: Version of capcheck.
        code: SHA-256 of the sources of capcheck that measured numbers depend on.
        families: SHA-256 of each family's own sources, by family.
    """

    version: str
    code: str
    families: dict[str, str]

    def of(self, family: str) -> str:
        """Both digests that the numbers of a family depend on, as one string."""
        return f"{self.code} {self.families.get(family, '')}"


class SurveyResult(Record):
    """The result of `capcheck.survey`.

    Attributes:
        schema_version: Version of the result schema.
        measured_by: The code that measured the cells.
        judged_by: Version of capcheck that judged the cells.
        environment: Versions of the libraries that numbers may depend on.
        target: Summary of the target.
        settings: The settings that all cells share.
        families: One result per family and network.
        curves: Capacity curve of each family that was measured with several networks.
        decoding: What a decoder in random order loses on the target, by its tokens per step; of a
            survey of token ids only.
        command: Command that makes the run again, as a line for a shell or as a call in Python;
            None if it was made with values that cannot be written, or before commands were stored.
            Left out of the result schema.
    """

    schema_version: int = SCHEMA_VERSION
    measured_by: MeasuredBy
    judged_by: str
    environment: dict[str, str]
    target: TargetSummary
    settings: Settings
    families: tuple[FamilyResult, ...]
    curves: tuple[CapacityCurve, ...] = ()
    decoding: DecodingPlan | None = None
    command: str | None = None

    @property
    def missing(self) -> dict[str, int]:
        """The number of cells that each family lacks, by its title, of those that lack any.

        A family of a finished run lacks cells if it failed. One that is not defined for the target
        lacks none, as it has none.
        """
        return {found.title: found.missing for found in self.families if found.missing}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data of the result schema, with infinities as strings and without samples."""
        header = self.to_json({"families": True, "target": _TARGET, "command": True})
        return header | {"families": [_family_data(found) for found in self.families]}

    def check_result(self, family: str) -> CheckResult:
        """The part of the result that concerns one family."""
        own = tuple(found for found in self.families if found.family == family)
        curves = tuple(curve for curve in self.curves if curve.family == family)
        return CheckResult.of(self.model_copy(update={"families": own, "curves": curves}))


class CheckResult(Record):
    """The result of `capcheck.check`.

    Attributes:
        survey: The run of the family, with the oracle and with all networks that were named.
        found: The result that decides the check and its exit code. Without named networks it is
            that of the oracle; otherwise that of the smallest network that suffices, or of the
            largest network if none does.
    """

    survey: SurveyResult
    found: FamilyResult

    @classmethod
    def of(cls, survey: SurveyResult) -> CheckResult:
        """The check result that follows from the survey of one family."""
        named = [found for found in survey.families if found.network != "oracle"]
        rising = sorted(named, key=lambda found: found.parameters)
        sufficient = [found for found in rising if found.outcome is Outcome.REPRESENTABLE]
        chosen = sufficient[:1] or rising[-1:] or survey.families[:1]
        return cls(survey=survey, found=chosen[0])

    @property
    def beside(self) -> tuple[FamilyResult, ...]:
        """The results of the same procedure with the other networks, the oracle included."""
        return tuple(other for other in self.survey.families if other is not self.found)

    @property
    def target(self) -> TargetSummary:
        """Summary of the target."""
        return self.survey.target

    @property
    def settings(self) -> Settings:
        """The settings that all cells share."""
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
        """The sufficient budget of fewest model calls, or None."""
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
        """The part that causes a failure: `procedure`, `network`, `numerics`, or None."""
        return self.found.blame

    @property
    def cells(self) -> tuple[Cell, ...]:
        """One cell per budget, steps changing fastest."""
        return self.found.cells

    @property
    def exit_code(self) -> int:
        """Exit code: 0 representable, 1 not representable, 3 inconclusive or not measured.

        A family that is broken by numerics in a requested precision exits with 1.
        """
        return self.found.exit_code

    def cell(self, budget: Budget) -> Cell:
        """The cell of a budget."""
        return self.found.cell(budget)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data of the result schema: the survey's header and the family's result."""
        whole = self.survey.to_dict()
        del whole["families"]
        beside = [_family_data(other) for other in self.beside]
        return whole | _family_data(self.found) | {"beside": beside}


class CapacityError(CapcheckError):
    """Raised by `require` and `gate` if a capacity is refused (exit code 1) or undecided (3).

    Attributes:
        result: The check that failed, or None if a gate had no time for any verdict.
    """

    def __init__(self, message: str, result: CheckResult | None) -> None:
        super().__init__(message)
        self.result = result
        self.exit_code = Outcome.INCONCLUSIVE.exit_code if result is None else result.exit_code


# Fields that runs store for reports and later comparisons, and that the result schema leaves out.
_TERMS = {"__all__": {"terms": True, "below": True, "above": True}}
_CELL: dict[str, Any] = {"examples": True, "improbable": True, "estimates": _TERMS}
_MOVED: dict[str, Any] = _CELL | {"moved": _TERMS["__all__"], "precise": _TERMS}
_FAMILY: dict[str, Any] = {
    "plan": True,
    "oracle_cells": True,
    "missing": True,
    "cells": {"__all__": _CELL},
    "causes": {"__all__": {"cell": _CELL}},
    "precisions": {"__all__": {"cells": {"__all__": _MOVED}}},
    "sensitivities": {"__all__": {"cells": {"__all__": _CELL}}},
}
_TARGET: dict[str, Any] = {"examples": True, "provenance": {"picture": True, "data_rows": True}}


def _family_data(found: FamilyResult) -> dict[str, Any]:
    """A family's result, its plan's fields first."""
    return found.plan.to_json() | found.to_json(_FAMILY)
