"""Looks: at each look, the cells of a plan are measured that the run does not hold yet.

All cells of a look share the target draws and null floors of its number of samples. Later looks
have more samples than earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from capcheck.core.budget import Budget
from capcheck.diagnostics.observer import Observer
from capcheck.divergences.reference import Reference
from capcheck.networks.kinds import RoundedNetwork
from capcheck.procedures.procedure import AnyProcedure
from capcheck.results.plan import FamilyPlan
from capcheck.results.settings import Settings
from capcheck.runs.assembly import Assembly
from capcheck.runs.cells import Cells
from capcheck.runs.options import callers_errors
from capcheck.runs.progress import ProgressCounter
from capcheck.runs.rounded_sweep import RoundedSweep
from capcheck.runs.sweep import Sweep
from capcheck.targets.target import Target

__all__ = ["Looks"]


class Looks:
    """Measures cells of a run, and keeps the references and sweeps that several cells share.

    Args:
        target: Target, on the device and in the precision that the settings name.
        settings: Settings of the run.
        cells: Cells of the run, to which measured ones are added.
        assembly: The assembly of the run's results, which names the key of every cell.
        progress: Counter of the run's progress.
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
        batch: int,
    ) -> None:
        self._target, self._settings = target, settings
        self._cells, self._assembly = cells, assembly
        self._progress, self._batch = progress, batch
        self._references: dict[int, tuple[Reference, Observer]] = {}  # key: number of samples
        # Sweeps of the candidate that is being measured; key: plan and look.
        self._sweeps: dict[tuple[str, int], Sweep] = {}

    def measure(
        self,
        plan: FamilyPlan,
        procedure: AnyProcedure,
        look: int,
        budgets: Sequence[Budget] | None = None,
        *,
        precise: AnyProcedure | None = None,
    ) -> None:
        """Measure the cells of one look that the run does not hold yet.

        Args:
            plan: Plan of the cells.
            procedure: Procedure of the plan, with the plan's network.
            look: Number of the look, 0 for the first.
            budgets: Budgets to measure, or None for the whole grid.
            precise: For a procedure in fewer digits, the same procedure in all digits.
        """
        budgets = self._settings.grid.budgets() if budgets is None else budgets
        keys = {budget: self._assembly.key(plan, budget, look) for budget in budgets}
        missing = [budget for budget, key in keys.items() if self._cells.get(key) is None]
        if len(missing) < len(budgets):
            self._progress.advance(len(budgets) - len(missing), f"{plan.title}, from the store")
        if not missing:
            return
        if precise is None:
            sweep = self._sweep(plan, procedure, look)
        else:
            of = plan.network.of if isinstance(plan.network, RoundedNetwork) else plan.network
            own = self._sweep(plan.with_network(of), precise, look)
            sweep = RoundedSweep(own, procedure, *self._measure_of(look), batch=self._batch)
        for group in sweep.runs(missing):
            self._progress.advance(0, f"{plan.title}, {group[-1]}")
            for cell in sweep.measure(group):
                with callers_errors():  # the folder may hold other numbers for this cell
                    self._cells.keep(keys[cell.budget], cell)
                self._progress.advance(1, f"{plan.title}, {cell.budget}")

    def forget_sweeps(self) -> None:
        """Forget the runs of a candidate that has been measured."""
        self._sweeps.clear()

    def _sweep(self, plan: FamilyPlan, procedure: AnyProcedure, look: int) -> Sweep:
        """The sweep of a plan at a look; its runs are kept until its candidate is measured."""
        key = (json.dumps(plan.to_json(), sort_keys=True), look)
        if key not in self._sweeps:
            diagnose = () if plan.network.kind == "perturbed" else self._settings.diagnose
            self._sweeps[key] = Sweep(
                procedure, *self._measure_of(look), batch=self._batch, diagnose=diagnose
            )
        return self._sweeps[key]

    def _measure_of(self, look: int) -> tuple[Reference, Observer, Settings]:
        """The reference, observer and settings that all cells of a look share."""
        settings = self._settings.at(look)
        if settings.samples not in self._references:
            self._progress.advance(0, "target draws and null floors")
            with callers_errors():
                reference = Reference(
                    self._target,
                    divergences=tuple(settings.tolerances),
                    samples=settings.samples,
                    seed=settings.seed,
                    replicate=settings.replicate,
                    level=settings.level,
                )
                observer = Observer(self._target, reference.draws)
            self._references[settings.samples] = reference, observer
        return (*self._references[settings.samples], settings)
