"""Looks: at each look, the cells of a plan are measured that the run does not hold yet.

All cells of a look share the target draws and null floors of its number of samples. Later looks
have more samples than earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from capcheck.core.budget import Budget
from capcheck.diagnostics.observer import Observer
from capcheck.diagnostics.qualities import Qualities
from capcheck.divergences.reference import Reference
from capcheck.networks.kinds import RoundedNetwork
from capcheck.procedures.procedure import AnyProcedure
from capcheck.results.plan import FamilyPlan
from capcheck.results.settings import Settings
from capcheck.runs.assembly import Assembly
from capcheck.runs.cells import CellKey, Cells
from capcheck.runs.claims import Busy, Claims, claim_name
from capcheck.runs.options import callers_errors
from capcheck.runs.progress import ProgressCounter, cell_name
from capcheck.runs.rounded_sweep import RoundedSweep
from capcheck.runs.sweep import Sweep
from capcheck.targets.target import CategoricalTarget, Target

__all__ = ["Looks"]

Standards = tuple[Reference, Observer, Qualities | None]  # what cells are measured against


class Looks:
    """Measures cells of a run, and keeps the references and sweeps that several cells share.

    Args:
        target: Target, on the device and in the precision that the settings name.
        settings: Settings of the run.
        cells: Cells of the run, to which measured ones are added.
        assembly: The assembly of the run's results, which names the key of every cell.
        progress: Counter of the run's progress.
        claims: Claims on the parts of the run that this process measures.
        batch: Number of sample rows in a batch.
    """

    def __init__(
        self,
        target: Target,
        settings: Settings,
        *,
        cells: Cells,
        assembly: Assembly,
        progress: ProgressCounter,
        claims: Claims,
        batch: int,
    ) -> None:
        self._target, self._settings = target, settings
        self._cells, self._assembly = cells, assembly
        self._progress, self._claims, self._batch = progress, claims, batch
        # Key: the number of samples and the names of the divergences.
        self._references: dict[tuple[int, tuple[str, ...]], Standards] = {}
        # Sweeps of the candidate that is being measured; key: plan, samples and divergences.
        self._sweeps: dict[tuple[str, int, tuple[str, ...]], Sweep] = {}

    def measure(
        self,
        plan: FamilyPlan,
        procedure: AnyProcedure,
        settings: Settings,
        budgets: Sequence[Budget] | None = None,
        *,
        precise: AnyProcedure | None = None,
        label: str | None = None,
    ) -> None:
        """Measure those cells that the run does not hold yet.

        Args:
            plan: Plan of the cells.
            procedure: Procedure of the plan, with the plan's network.
            settings: Settings of the run, with the draws and divergences of these cells.
            budgets: Budgets to measure, or None for the whole grid.
            precise: For a procedure in fewer digits, the same procedure in all digits.
            label: What is measured, in words for the progress; by default the plan's title.

        Raises:
            Busy: Other processes are measuring some of these cells.
        """
        budgets = self._settings.grid.budgets() if budgets is None else budgets
        keys = {budget: self._assembly.key(plan, budget, settings) for budget in budgets}
        label = label or plan.title
        if held := [budget for budget in budgets if self._cells.get(keys[budget]) is not None]:
            names = [cell_name(plan, settings.samples, budget) for budget in held]
            self._progress.advance(names, f"{label}, from the store")

        def missing(of: Sequence[Budget]) -> list[Budget]:
            return [budget for budget in of if self._cells.get(keys[budget]) is None]

        busy = False
        # The largest first: it shows at once whether its runs take too long.
        for unit in reversed(_units(procedure, budgets)):
            if not missing(unit):
                continue
            name = claim_name(
                plan=plan.to_json(),
                samples=settings.samples,
                divergences=list(settings.tolerances),
                budgets=list(map(str, unit)),
            )
            with self._claims.held(name) as taken:
                busy |= not taken
                if taken:
                    self._cells.refresh()  # its last owner may have measured it just now
                    self._measure_unit(
                        plan, procedure, settings, keys, missing(unit), precise, label
                    )
        if busy:
            self._cells.refresh()
            if missing(budgets):
                raise Busy

    def _measure_unit(
        self,
        plan: FamilyPlan,
        procedure: AnyProcedure,
        settings: Settings,
        keys: Mapping[Budget, CellKey],
        budgets: Sequence[Budget],
        precise: AnyProcedure | None,
        label: str,
    ) -> None:
        if not budgets:
            return
        if precise is None:
            sweep = self._sweep(plan, procedure, settings)
        else:
            of = plan.network.of if isinstance(plan.network, RoundedNetwork) else plan.network
            own = self._sweep(plan.with_network(of), precise, settings)
            sweep = RoundedSweep(own, procedure, *self._measure_of(settings), batch=self._batch)
        for group in sweep.runs(budgets):
            self._progress.advance((), f"{label}, {group[-1]}")
            for cell in sweep.measure(group):
                with callers_errors():  # the folder may hold other numbers for this cell
                    self._cells.keep(keys[cell.budget], cell)
                name = cell_name(plan, settings.samples, cell.budget)
                self._progress.advance([name], f"{label}, {cell.budget}")

    def forget_sweeps(self) -> None:
        """Forget the runs of a candidate that has been measured."""
        self._sweeps.clear()

    def _sweep(self, plan: FamilyPlan, procedure: AnyProcedure, settings: Settings) -> Sweep:
        """The sweep of a plan; its runs are kept until its candidate is measured."""
        key = (json.dumps(plan.to_json(), sort_keys=True), *_evidence_of(settings))
        if key not in self._sweeps:
            diagnose = () if plan.network.kind == "perturbed" else self._settings.diagnose
            self._sweeps[key] = Sweep(
                procedure, *self._measure_of(settings), batch=self._batch, diagnose=diagnose
            )
        return self._sweeps[key]

    def _measure_of(
        self, settings: Settings
    ) -> tuple[Reference, Observer, Qualities | None, Settings]:
        """What all cells of some settings are measured against, and the settings."""
        key = _evidence_of(settings)
        if key not in self._references:
            self._progress.advance((), "target draws and null floors")
            with callers_errors():
                reference = Reference(
                    self._target,
                    divergences=tuple(settings.tolerances),
                    tolerances=settings.tolerances,
                    samples=settings.samples,
                    seed=settings.seed,
                    replicate=settings.replicate,
                    level=settings.level,
                )
                draws, level, given = reference.draws, settings.level, settings.given
                observer, qualities = Observer(self._target, draws), None
                if isinstance(self._target, CategoricalTarget) and self._target.rows is None:
                    qualities = Qualities(self._target, draws, level=level, given=given)
            self._references[key] = reference, observer, qualities
        return (*self._references[key], settings)


def _evidence_of(settings: Settings) -> tuple[int, tuple[str, ...]]:
    """The number of draws of a cell, and the divergences that are measured from them."""
    return settings.samples, tuple(settings.tolerances)


def _units(procedure: AnyProcedure, budgets: Sequence[Budget]) -> list[list[Budget]]:
    """The budgets that one process should measure, since they share a run or its evidence."""
    units: dict[tuple[int, ...], list[Budget]] = {}
    for budget in budgets:
        units.setdefault(procedure.fixed(budget), []).append(budget)
    return list(units.values())
