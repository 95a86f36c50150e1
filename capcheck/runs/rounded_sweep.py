"""The sweep of a procedure in fewer digits, compared cell by cell with that of the precise one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Estimate, Term
from capcheck.divergences.lost import lost_clause, lost_rows
from capcheck.runs.sweep import Sweep

__all__ = ["RoundedSweep"]


class RoundedSweep(Sweep):
    """Measures cells in fewer digits, and compares them with precise cells of the same noise.

    The law that rounded arithmetic samples is unknown, so that draws are the only evidence. The
    draws of both runs are compared with the target by the same estimators, and with each other row
    by row. The mean distance between the rows bounds the contribution of rounding to a Wasserstein
    distance from above.

    Args:
        precise: Sweep of the same cells in the run's own precision.
        sweep: Positional arguments of `Sweep`.
        keywords: Keyword arguments of `Sweep`.
    """

    def __init__(self, precise: Sweep, *sweep: Any, **keywords: Any) -> None:
        super().__init__(*sweep, **keywords)
        self._precise = precise

    def _precision_facts(self, budget: Budget, samples: Tensor) -> dict[str, Any]:
        precise = self._precise.samples(budget)
        estimates = self.estimates_from_draws(precise)
        return {"moved": self._moved(samples, precise), "precise": estimates}

    def _moved(self, samples: Tensor, precise: Tensor) -> Estimate:
        spec, level = self._target.spec, self._settings.level
        wasserstein = DIVERGENCES[spec.kind]["wasserstein"]
        lost = lost_rows(samples, spec.spread) | lost_rows(precise, spec.spread)
        if bool(lost.any()):
            reason = f"{lost_clause(int(lost.sum()), len(lost))} in one of the two runs"
            return Estimate.unavailable(reason, level=level, unit=wasserstein.unit)
        if spec.kind == "continuous":
            cost = (samples - precise).square().flatten(1).sum(1)
            reach = spec.spread**2
        else:
            counted = list(spec.counted)
            cost = (samples != precise)[:, counted].double().sum(1)
            reach = float(len(counted))
        rows = cost.double().cpu().numpy()
        return Estimate.of(
            [Term.from_influence("moved", float(rows.mean()), [rows], reach=reach)],
            level=level,
            kind="upper bound",
            method="mean distance from the draws of the precise run, row by row",
            samples=len(rows),
            unit=wasserstein.unit,
            scale=wasserstein.scale(spec),
            power=wasserstein.power,
        )
