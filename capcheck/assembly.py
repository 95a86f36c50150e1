"""Assembly: a family's result from the cells of a run.

Verdicts, causes, gaps and sensitivities are not stored: they follow from the measurements and the
tolerances, and are found anew whenever a run is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from capcheck.budget import Budget
from capcheck.cells import PLAIN, Cells, Place, Variant
from capcheck.findings import failed, find, plan_of, unsupported, without_blame, wrong_kind
from capcheck.gap import Part, PartName
from capcheck.numerics import Stages, gaps_of, judge_precision
from capcheck.precision import Precision
from capcheck.probe import AnyProbe, Suspect
from capcheck.records import (
    Cell,
    FamilyPlan,
    Measurement,
    Outcome,
    PerturbedCell,
    PrecisionResult,
    Sensitivity,
    Settings,
    TargetSummary,
)
from capcheck.results import FamilyResult
from capcheck.sensitivity import MEANINGS, PERTURBATIONS, Perturbation
from capcheck.verdict import judge, smallest


class Assembly:
    """Reads results off cells.

    Args:
        cells: What was measured.
        settings: Of the run.
        target: Of the run.
    """

    def __init__(self, cells: Cells, settings: Settings, target: TargetSummary) -> None:
        self._cells, self._settings, self._target = cells, settings, target

    def place(self, plan: FamilyPlan, budget: Budget, look: int, variant: Variant = PLAIN) -> Place:
        """Where a cell of the run is kept."""
        settings = self._settings.at(look)
        return Place(plan, budget, settings, self._target.fingerprint, variant)

    def result(self, probe: AnyProbe, plan: FamilyPlan) -> FamilyResult:
        """What was found of a plan; one that lacks cells is listed as not measured."""
        if self._target.kind not in probe.kinds:
            return unsupported(probe, plan, wrong_kind(probe, self._target.kind))
        decided = self._decided(probe, plan)
        if decided is None:
            if (reason := self._cells.unfit(plan)) is not None:
                return unsupported(probe, plan, reason)
            total = len(self._settings.grid.budgets())
            lack = f"{total - len(self._held(plan, 0))} of its {total} cells"
            return failed(probe, plan, f"{plan.title} lacks {lack}; run the command again.")
        return decided

    def _decided(self, probe: AnyProbe, plan: FamilyPlan) -> FamilyResult | None:
        """The first look that decides, as the engine stops there; the last one if none does."""
        found = None
        for look in range(self._settings.looks):
            if self.whole(plan, look) is None:  # a result that was saved has its last look alone
                continue
            found = self.judged(probe, plan, look)
            if found.outcome is not Outcome.INCONCLUSIVE:
                break
        return found

    def judged(self, probe: AnyProbe, plan: FamilyPlan, look: int) -> FamilyResult:
        """What a look shows, all of whose cells there are."""
        measured = self.whole(plan, look) or []
        found = find(probe, plan, measured, self._settings, self._cured(probe, plan, look))
        facts = self._cells.network(plan)
        update: dict[str, object] = {"facts": facts}
        stages: list[Stages] = [[("structural", cell)] for cell in measured]
        if plan.network != "oracle":
            oracle_plan = plan.oracle
            oracle = self.whole(oracle_plan, look)
            stages = []
            if oracle is not None:
                own = find(probe, oracle_plan, oracle, self._settings)
                update |= {"oracle_outcome": own.outcome, "oracle_cells": tuple(own.cells)}
                name: PartName = "objective" if plan.objective == "end_to_end" else "network"
                stages = [
                    [("structural", before), (name, after)]
                    for before, after in zip(oracle, measured, strict=True)
                ]
                update["gaps"] = tuple(
                    gap for parts in stages for gap in gaps_of(parts, level=self._settings.level)
                )
        found = found.model_copy(update=update)
        if facts is not None and facts.fit is not None and facts.fit.failure is not None:
            found = without_blame(found, facts.fit.failure)
        stages = stages or [[("structural", cell)] for cell in measured]
        return found.model_copy(
            update={
                "precisions": tuple(
                    self._in(precision, plan, look, found.cells, stages)
                    for precision in self._settings.precisions
                ),
                "sensitivities": self._sensitivities(plan, look, found),
            }
        )

    def whole(
        self, plan: FamilyPlan, look: int, variant: Variant = PLAIN
    ) -> list[Measurement] | None:
        """All cells of a look in the order of the grid, or None if one is missing."""
        held = self._held(plan, look, variant)
        return held if len(held) == len(self._settings.grid.budgets()) else None

    def _held(self, plan: FamilyPlan, look: int, variant: Variant = PLAIN) -> list[Measurement]:
        places = [self.place(plan, b, look, variant) for b in self._settings.grid.budgets()]
        return [cell for place in places if (cell := self._cells.get(place)) is not None]

    def _cured(
        self, probe: AnyProbe, plan: FamilyPlan, look: int
    ) -> list[tuple[Suspect, Measurement]]:
        """The largest budget of a probe without each suspect, where it was measured."""
        if plan.network != "oracle":
            return []  # another procedure may need another network
        largest = self._settings.grid.largest
        places = [
            (suspect, self.place(plan_of(suspect.probe), largest, look))
            for suspect in probe.suspects()
        ]
        found = [(suspect, self._cells.get(place)) for suspect, place in places]
        return [(suspect, cell) for suspect, cell in found if cell is not None]

    def _in(
        self,
        precision: Precision,
        plan: FamilyPlan,
        look: int,
        precise: Sequence[Cell],
        before: Sequence[Stages],
    ) -> PrecisionResult:
        variant = Variant(precision=precision)
        measured = self.whole(plan, look, variant)
        if measured is None:
            reason = self._cells.unfit(plan, variant) or "it was not measured"
            return PrecisionResult(precision=precision, holding="undecided", reason=reason)
        return judge_precision(precision, measured, precise, before, self._settings)

    def _sensitivities(
        self, plan: FamilyPlan, look: int, found: FamilyResult
    ) -> tuple[Sensitivity, ...]:
        if plan.network != "oracle":
            return ()
        budget = sensitive_budget(found)
        all_of_them = [
            self._sensitivity(kind, plan, look, found.cell(budget)) for kind in PERTURBATIONS
        ]
        return tuple(one for one in all_of_them if one is not None)

    def _sensitivity(
        self, kind: Perturbation, plan: FamilyPlan, look: int, oracle: Cell
    ) -> Sensitivity | None:
        """What errors of a kind do; None if the answers have no such errors."""
        variants = [Variant(perturbation=kind, size=size) for size in self._settings.sensitivity]
        places = [self.place(plan, oracle.budget, look, variant) for variant in variants]
        held = [
            (variant.size, cell)
            for variant, place in zip(variants, places, strict=True)
            if (cell := self._cells.get(place)) is not None
        ]
        nothing = Sensitivity(perturbation=kind, meaning=MEANINGS[kind], budget=oracle.budget)
        if not held:
            reasons = [self._cells.unfit(plan, variant) for variant in variants]
            reason = next((reason for reason in reasons if reason), None)
            return None if reason is None else nothing.model_copy(update={"reason": reason})
        level = self._settings.level_of_a_look
        judged = judge([cell for _, cell in held], self._settings.tolerances, level=level)
        cells = [
            PerturbedCell(
                **{name: getattr(cell, name) for name in Cell.model_fields},
                size=size,
                gaps=gaps_of(
                    [("structural", oracle), ("network", cell)], level=self._settings.level
                ),
            )
            for (size, _), cell in zip(held, judged, strict=True)
        ]
        return nothing.model_copy(
            update={
                "cells": tuple(cells),
                "slopes": _slopes(cells[0]),
                "allowed": _allowed(cells),
            }
        )


def sensitive_budget(found: FamilyResult) -> Budget:
    """Where errors are tried out: the cheapest budget that suffices, or the largest one.

    Of those of full length: tokens beyond the length are completed without the network.
    """
    full = [cell for cell in found.cells if cell.budget.length == found.cells[-1].budget.length]
    return (smallest(full) or found.cells[-1]).budget


def _slopes(cell: PerturbedCell) -> dict[str, Part]:
    """What each divergence gains per size of the error."""
    parts = {gap.divergence: gap.part("network") for gap in cell.gaps}
    return {
        name: Part(
            name="network",
            value=part.value / cell.size,
            low=part.low / cell.size,
            high=part.high / cell.size,
        )
        for name, part in parts.items()
        if part is not None
    }


def _allowed(cells: Sequence[PerturbedCell]) -> float | None:
    """The largest size up to which all suffice."""
    allowed = None
    for cell in cells:
        if cell.outcome is not Outcome.REPRESENTABLE:
            break
        allowed = cell.size
    return allowed
