"""Assembly: derives the results of a run from its cells.

Verdicts, causes, gaps and sensitivities are not stored. They follow from the measurements and the
tolerances, and are computed again whenever a run is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from capcheck.core.budget import Budget
from capcheck.core.version import __version__
from capcheck.judging.causes import cause_of, has_floor, settings_of_suspects
from capcheck.judging.family import (
    judge_family,
    unfinished_result,
    unsupported_result,
    with_refusals_undecided,
)
from capcheck.judging.gap import Stages, gaps_of
from capcheck.judging.numerics import judge_precision
from capcheck.judging.open_questions import draws_needed
from capcheck.judging.sizes import capacity_curves
from capcheck.judging.verdict import judge, smallest_sufficient
from capcheck.networks.kinds import FittedNetwork, PerturbedNetwork
from capcheck.networks.perturbed import MEANINGS, PERTURBATIONS, Perturbation
from capcheck.networks.rounded import Precision
from capcheck.results.decoding import DecodingPlan
from capcheck.results.family import Cause, FamilyResult, PrecisionResult, Sensitivity
from capcheck.results.gap import Part, PartName
from capcheck.results.measurement import Cell, Measurement, Outcome, PerturbedCell
from capcheck.results.plan import FamilyEntry, FamilyPlan, SuspectPlan
from capcheck.results.settings import Settings, TargetSummary
from capcheck.results.survey import SurveyResult
from capcheck.runs.cells import CellKey, Cells
from capcheck.runs.manifest import Manifest
from capcheck.runs.progress import cell_name

__all__ = ["NEARLY", "Assembly", "sensitive_budget", "survey_result"]

NEARLY = 4.0  # times the draws of the last look that would decide a cell, by a rough guess


def survey_result(
    families: Sequence[FamilyResult], manifest: Manifest, decoding: DecodingPlan | None
) -> SurveyResult:
    """The result of a run: the results of its families, and the capacity curves of networks."""
    return SurveyResult(
        measured_by=manifest.measured_by,
        judged_by=__version__,
        environment=manifest.environment,
        target=manifest.target,
        settings=manifest.settings,
        families=tuple(families),
        curves=capacity_curves(families, manifest.settings.level),
        decoding=decoding,
        command=manifest.command,
    )


class Assembly:
    """Derives the results of families from cells.

    Args:
        cells: Measurements of the run.
        settings: Settings of the run.
        target: Summary of the run's target.
    """

    def __init__(self, cells: Cells, settings: Settings, target: TargetSummary) -> None:
        self._cells, self._settings, self._target = cells, settings, target

    def key(self, plan: FamilyPlan, budget: Budget, settings: Settings) -> CellKey:
        """The key of a cell of the run with the draws and divergences of some settings."""
        fingerprint = self._target.fingerprint
        return CellKey(plan=plan, budget=budget, settings=settings, fingerprint=fingerprint)

    def measured(self, plans: Iterable[FamilyPlan]) -> list[str]:
        """The names of those cells of some plans that a process of the run has measured by now."""
        self._cells.refresh()
        return [
            cell_name(plan, settings.samples, budget)
            for plan in plans
            for settings in map(self._settings.at, range(self._settings.looks))
            for budget in settings.grid.budgets()
            if self._cells.get(self.key(plan, budget, settings)) is not None
        ]

    def result(self, entry: FamilyEntry) -> FamilyResult:
        """The result of a family; one that lacks cells has an error, and cells without verdicts."""
        decided = self._decided(entry)
        if decided is not None:
            return decided
        if (reason := self._cells.unfit(entry.plan)) is not None:
            return unsupported_result(entry, reason)
        return unfinished_result(entry, self._held(entry.plan, 0), self._settings)

    def _decided(self, entry: FamilyEntry) -> FamilyResult | None:
        """The result of the first look that decides, where the engine stops, or of the last look.

        None if no look is complete.
        """
        found, last = None, 0
        for look in range(self._settings.looks):
            if self.whole(entry.plan, look) is None:
                continue  # the folder of a saved result holds its last look only
            found, last = self.judged(entry, look), look
            if found.outcome is not Outcome.INCONCLUSIVE:
                break
        if found is not None and (following := self.next_look(found, last)) is not None:
            lacking = len(self._settings.grid.budgets()) - len(self._held(entry.plan, following))
            found = found.model_copy(update={"missing": lacking})
        return found

    def next_look(self, found: FamilyResult, look: int) -> int | None:
        """The look after one that left a family undecided, or None if none would decide it.

        It is the first of enough draws to decide a cell, or the last if that has nearly enough.
        """
        settings, last = self._settings, self._settings.looks - 1
        if found.outcome is not Outcome.INCONCLUSIVE or look == last:
            return None
        needed = draws_needed(found.cells, settings.tolerances, level=settings.level_of_a_look)
        if needed > NEARLY * settings.at(last).samples:
            return None
        enough = (k for k in range(look + 1, last) if settings.at(k).samples >= needed)
        return next(enough, last)

    def judged(self, entry: FamilyEntry, look: int) -> FamilyResult:
        """The result of a family at a look whose cells are complete."""
        plan, settings = entry.plan, self._settings
        measured = self.whole(plan, look) or []
        found, facts = judge_family(entry, measured, settings), self._cells.network(plan)
        causes, drafts = self._causes(entry, found, look), self._cells.speculation(plan)
        beside = {"causes": causes, "facts": facts, "speculation": drafts}
        found = found.model_copy(update=beside)
        stages: list[Stages] = [[("structural", cell)] for cell in measured]
        oracle = None if plan.network.kind == "oracle" else self.whole(plan.with_oracle(), look)
        if oracle is not None:
            stages = [
                [("structural", before), (_part_of(plan), after)]
                for before, after in zip(oracle, measured, strict=True)
            ]
            found = found.model_copy(update=self._beside_oracle(entry, oracle, stages))
        if facts is not None and facts.fit is not None and facts.fit.failure is not None:
            found = with_refusals_undecided(found, facts.fit.failure)
        precisions = (
            self._precision_result(precision, plan, look, found.cells, stages)
            for precision in settings.precisions
        )
        sensitivities = self._sensitivities(plan, look, found)
        return found.model_copy(
            update={"precisions": tuple(precisions), "sensitivities": sensitivities}
        )

    def whole(self, plan: FamilyPlan, look: int) -> list[Measurement] | None:
        """All cells of a look in the order of the grid, or None if a cell is missing."""
        held = self._held(plan, look)
        return held if len(held) == len(self._settings.grid.budgets()) else None

    def _held(self, plan: FamilyPlan, look: int) -> list[Measurement]:
        settings = self._settings.at(look)
        keys = [self.key(plan, budget, settings) for budget in settings.grid.budgets()]
        return [cell for key in keys if (cell := self._cells.get(key)) is not None]

    def _beside_oracle(
        self, entry: FamilyEntry, oracle: Sequence[Measurement], stages: Sequence[Stages]
    ) -> dict[str, object]:
        """Fields that compare a network's result with the oracle of the same procedure."""
        own = judge_family(entry, oracle, self._settings)
        level = self._settings.level
        return {
            "oracle_outcome": own.outcome,
            "oracle_cells": own.cells,
            "gaps": tuple(gap for parts in stages for gap in gaps_of(parts, level=level)),
        }

    def cause(self, suspect: SuspectPlan, settings: Settings, floor: Cell) -> Cause | None:
        """What a suspect that was measured with some settings shows, if it shows anything."""
        cell = self._cells.get(self.key(suspect.plan, floor.budget, settings))
        return None if cell is None else cause_of(suspect, cell, floor, self._settings)

    def _causes(self, entry: FamilyEntry, found: FamilyResult, look: int) -> tuple[Cause, ...]:
        """The causes of a floor, each from a part of the draws or, where that failed, from all."""
        if entry.plan.network.kind != "oracle" or not has_floor(found):
            return ()  # a network is made for its own procedure, not for the changed one
        floor = found.cells[-1]
        tried = settings_of_suspects(self._settings, look, floor)
        causes = (
            next(filter(None, (self.cause(suspect, one, floor) for one in tried)), None)
            for suspect in entry.suspects
        )
        return tuple(cause for cause in causes if cause is not None)

    def _precision_result(
        self,
        precision: Precision,
        plan: FamilyPlan,
        look: int,
        precise: Sequence[Cell],
        before: Sequence[Stages],
    ) -> PrecisionResult:
        rounded = plan.rounded(precision)
        measured = self.whole(rounded, look)
        if measured is None:
            reason = self._cells.unfit(rounded) or "it was not measured"
            return PrecisionResult(precision=precision, holding="undecided", reason=reason)
        return judge_precision(precision, measured, precise, before, self._settings)

    def _sensitivities(
        self, plan: FamilyPlan, look: int, found: FamilyResult
    ) -> tuple[Sensitivity, ...]:
        if plan.network.kind != "oracle":
            return ()
        budget = sensitive_budget(found)
        found_of = [
            self._sensitivity(kind, plan, look, found.cell(budget)) for kind in PERTURBATIONS
        ]
        return tuple(one for one in found_of if one is not None)

    def _sensitivity(
        self, kind: Perturbation, plan: FamilyPlan, look: int, oracle: Cell
    ) -> Sensitivity | None:
        """The effect of one kind of oracle errors; None if answers can have no such errors."""
        plans = {
            size: plan.with_network(PerturbedNetwork(perturbation=kind, size=size))
            for size in self._settings.sensitivity
        }
        at_look = self._settings.at(look)
        held = [
            (size, cell)
            for size, perturbed in plans.items()
            if (cell := self._cells.get(self.key(perturbed, oracle.budget, at_look))) is not None
        ]
        nothing = Sensitivity(perturbation=kind, meaning=MEANINGS[kind], budget=oracle.budget)
        if not held:
            reasons = [self._cells.unfit(perturbed) for perturbed in plans.values()]
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


def _part_of(plan: FamilyPlan) -> PartName:
    """The name of the part of a divergence that a network adds to the oracle's."""
    network = plan.network
    end_to_end = isinstance(network, FittedNetwork) and network.objective == "end_to_end"
    return "objective" if end_to_end else "network"


def sensitive_budget(found: FamilyResult) -> Budget:
    """The budget at which errors of the oracle are measured.

    It is the cheapest budget of full length that suffices, or the largest budget if none does.
    Tokens beyond a shorter length are completed without the network, and would hide its errors.
    """
    full = [cell for cell in found.cells if cell.budget.length == found.cells[-1].budget.length]
    return (smallest_sufficient(full) or found.cells[-1]).budget


def _slopes(cell: PerturbedCell) -> dict[str, Part]:
    """The rise of each divergence per unit of error size, with its interval."""
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
    """The largest error size up to which every size is representable, or None if none is."""
    allowed = None
    for cell in cells:
        if cell.outcome is not Outcome.REPRESENTABLE:
            break
        allowed = cell.size
    return allowed
