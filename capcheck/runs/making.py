"""The making of procedures and networks: each is made once in a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from capcheck.core.budget import Grid
from capcheck.core.randomness import CounterRandomness
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.results.plan import plan_of
from capcheck.results.settings import Settings
from capcheck.runs.candidates import Candidate, CheckedNetwork, checked_network, fitted_network
from capcheck.runs.cells import Cells
from capcheck.runs.claims import Busy, Claims, claim_name
from capcheck.runs.progress import ProgressCounter
from capcheck.targets.target import Target

__all__ = ["Maker", "require_conditionals"]


class Maker:
    """Makes the procedures and networks of a run's candidates.

    Args:
        target: Target, on the device and in the precision that the settings name.
        settings: Settings of the run.
        progress: Counter of the run's progress.
    """

    def __init__(self, target: Target, settings: Settings, progress: ProgressCounter) -> None:
        self._target, self._settings, self._progress = target, settings, progress
        self._checked: dict[str, CheckedNetwork] = {}  # key: the plan as JSON
        self._procedures: dict[str, AnyProcedure] = {}  # key: family and options

    def procedure(self, probe: AnyProbe) -> AnyProcedure:
        """The procedure of a probe with its oracle, made once for each family and options."""
        key = f"{type(probe)} {json.dumps(plan_of(probe).to_json(), sort_keys=True)}"
        if key not in self._procedures:
            self._procedures[key] = Procedure.of(probe, self._target, given=self._settings.given)
        return self._procedures[key]

    def checked(self, candidate: Candidate) -> CheckedNetwork:
        """The checked network of a candidate before it is fitted, made once."""
        key = json.dumps(candidate.plan.to_json(), sort_keys=True)
        if key not in self._checked:
            procedure, budgets = self.procedure(candidate.probe), self._settings.grid.budgets()
            self._checked[key] = checked_network(
                candidate, procedure, budgets, seed=self._settings.seed
            )
        return self._checked[key]

    def network(
        self, candidate: Candidate, *, cells: Cells, claims: Claims, folder: Path | None
    ) -> Callable[..., Any]:
        """The network to measure in place of the oracle, fitted if the plan says so.

        Args:
            candidate: Candidate that has a network.
            cells: Cells of the run, to which facts on the network are added.
            claims: Claims on the parts of the run that this process measures.
            folder: Folder that fits are kept in, or None to keep none.

        Raises:
            Busy: Another process is fitting the network.
        """
        title, checked = candidate.plan.title, self.checked(candidate)

        def progress(step: int, steps: int, validation: float) -> None:
            self._progress.advance(
                (), f"{title}, step {step:,} of {steps:,}, validation {validation:.3g}"
            )

        self._progress.advance((), f"{title}, fitting")
        with claims.held(claim_name(fit=candidate.plan.to_json())) as taken:
            cells.refresh()
            if not taken and cells.network(candidate.plan) is None:
                raise Busy
            network, facts = fitted_network(
                candidate,
                checked,
                self.procedure(candidate.probe),
                self._settings.grid.budgets(),
                seed=self._settings.seed,
                folder=folder,
                progress=progress,
            )
            cells.keep_network(candidate.plan, facts)
        return network


def require_conditionals(procedure: AnyProcedure, grid: Grid) -> None:
    """Draw one sequence before a run, from a target that does not have all conditionals.

    Args:
        procedure: Procedure with the network that is measured.
        grid: Budgets of the run, of which the smallest and the largest are tried.

    Raises:
        UnfitError: The procedure asks the target for a conditional that it does not have.
    """
    target = procedure.target
    if target.left_to_right:
        for budget in (grid.budgets()[0], grid.largest):
            procedure.sample(budget, 1, CounterRandomness(0, name="try", device=target.device))
