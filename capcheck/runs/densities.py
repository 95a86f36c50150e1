"""The log-densities of a procedure: at draws of the target for KL, at its own for reverse KL."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.unavailable import Unavailable
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.reference import Reference
from capcheck.procedures.density_cost import (
    PILOT_ROWS,
    affordable,
    affordable_rows,
    decided_rows,
    pilot_pays,
    rows_that_decide,
)
from capcheck.procedures.procedure import AnyProcedure
from capcheck.results.settings import Settings
from capcheck.runs.snapshots import rows_randomness

__all__ = ["DENSITY_BATCH", "SHARING_BATCH", "Densities"]


DENSITY_BATCH = 1024  # most rows of a log-density at once
SHARING_BATCH = 1 << 14  # the same where they share chains, of which there are as many


class Densities:
    """Evaluates the log-densities of one procedure, each at as many draws as it needs.

    Args:
        procedure: Procedure with its target.
        reference: Draws of the target.
        settings: Settings of the measurement.
        batch: Number of sample rows in a batch.
    """

    def __init__(
        self, procedure: AnyProcedure, reference: Reference, settings: Settings, *, batch: int
    ) -> None:
        self._procedure, self._target = procedure, procedure.target
        self._reference, self._settings, self._batch = reference, settings, batch
        self._rng = functools.partial(rows_randomness, settings, self._target.device)
        # Keys: the values of the budget axes that the procedure depends on.
        self._densities: dict[tuple[int, ...], LogDensity | Unavailable] = {}

    def of_target_draws(self, budget: Budget) -> LogDensity | Unavailable:
        """The log-density at the reference's draws of the target, at fewer, or at more."""
        key = self._procedure.relevant(budget)
        if key not in self._densities:
            samples, seconds = len(self._reference.draws), self._settings.seconds_per_cell
            found = affordable(self._procedure, budget, samples, seconds)
            if isinstance(found, Unavailable):
                self._densities[key] = found
            else:
                procedure, rows = found
                if pilot_pays(procedure, budget, rows):
                    rows = self._rows_that_decide(procedure, budget, rows or 0)
                draws = self._reference.first_draws(rows)
                self._densities[key] = self._log_density(procedure, budget, draws)
        return self._densities[key]

    def _rows_that_decide(self, procedure: AnyProcedure, budget: Budget, most: int) -> int:
        """The number of rows of a slow log-density, by a pilot at draws of its own."""
        x = self._target.sample(PILOT_ROWS, self._rng("pilot", 0))
        pilot = procedure.log_density(budget, x, self._rng("pilot density", 0))
        if isinstance(pilot, Unavailable):
            return most
        divergence = DIVERGENCES[self._target.spec.kind]["kl"]
        tolerance = self._settings.tolerances["kl"] * divergence.scale(self._target.spec)
        log_ratio = self._reference.steadied(self._target.log_prob(x) - pilot.values, x)
        return rows_that_decide(log_ratio, tolerance, most, decided_rows(self._procedure))

    def _log_density(
        self, procedure: AnyProcedure, budget: Budget, x: Tensor
    ) -> LogDensity | Unavailable:
        parts: list[LogDensity] = []
        shared = procedure.probe.density_work(procedure.spec, budget) > 0
        held = self._target.rows_at_once or DENSITY_BATCH
        size = SHARING_BATCH if shared else min(DENSITY_BATCH, held)
        for start in range(0, len(x), size):
            rows = x[start : start + size]
            part = procedure.log_density(budget, rows, self._rng("density", start))
            if isinstance(part, Unavailable):
                return part
            parts.append(part)
        return _joined(parts)

    def of_own_draws(self, budget: Budget, samples: Tensor) -> LogDensity | Unavailable:
        """The log-density at a cell's own samples: the probe's, or a change-of-variables bound."""
        procedure, seconds = self._procedure, self._settings.seconds_per_cell
        found = affordable_rows(procedure, budget, len(samples), seconds)
        if isinstance(found, Unavailable) or (found is not None and found < len(samples)):
            procedure = procedure.with_cheaper_density() or procedure
        stated = self._log_density(procedure, budget, samples)
        if isinstance(stated, LogDensity) or self._target.spec.kind == "categorical":
            return stated
        parts: list[LogDensity] = []
        for start in range(0, len(samples), self._batch):
            n = min(self._batch, len(samples) - start)
            source = functools.partial(self._rng, "model", start)
            part = self._procedure.log_density_of_draws(budget, n, source)
            if isinstance(part, Unavailable):
                return Unavailable(reason=f"{stated.reason}; {part.reason}")
            parts.append(part)
        return _joined(parts)


def _joined(parts: Sequence[LogDensity]) -> LogDensity:
    """Join the log-densities of all batches into one, which is a bound if any of them is."""
    loosest = next((part for part in parts if part.bound), parts[0])
    values = torch.cat([part.values for part in parts])
    from_above = [part.above for part in parts if part.above is not None]
    above = torch.cat(from_above) if len(from_above) == len(parts) else None
    shared = [
        influence * (len(part.values) / len(values)) for part in parts for influence in part.shared
    ]
    return dataclasses.replace(loosest, values=values, above=above, shared=tuple(shared))
