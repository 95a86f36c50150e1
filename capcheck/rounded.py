"""Rounded runs: the same procedure, network and random numbers in fewer digits.

What rounded arithmetic samples has no density that could be known, so that its draws are all that
there is: they are compared with the target, by the same estimators as those of the precise run,
and with these row by row. The mean of these distances bounds what the digits add to a Wasserstein
distance.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from capcheck.budget import Budget
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Estimate, Term
from capcheck.divergences.reference import ModelEvidence
from capcheck.precision import Precision, network_in, spec_in
from capcheck.probe import Unavailable
from capcheck.sweep import Sweep

UNKNOWN = Unavailable(reason="the law of rounded arithmetic is not known")


class RoundedSweep(Sweep):
    """Measures cells of one probe on one target in fewer digits.

    Args:
        precision: Of tokens, levels, noise and answers.
        sweep: Positional arguments of `Sweep`.
        measuring: Keywords of `Sweep`.
    """

    def __init__(self, precision: Precision, *sweep: Any, **measuring: Any) -> None:
        super().__init__(*sweep, **measuring, diagnosed=False)
        self._precise = Sweep(*sweep, **measuring)
        self._spec = spec_in(self._spec, precision)
        self._network = network_in(self._network, precision)

    def _evidence(self, budget: Budget, samples: Tensor) -> ModelEvidence:
        return ModelEvidence(
            samples=samples, law=UNKNOWN, log_density=UNKNOWN, own_log_density=UNKNOWN
        )

    def _beside(self, budget: Budget, samples: Tensor) -> dict[str, Any]:
        precise = self._precise.samples(budget)
        estimates, _ = self._weighed(self._evidence(budget, precise))
        return {"moved": self._moved(samples, precise), "precise": estimates}

    def _moved(self, samples: Tensor, precise: Tensor) -> Estimate:
        spec, level = self._target.spec, self._settings.level
        wasserstein = DIVERGENCES[spec.kind]["wasserstein"]
        if not bool(samples.isfinite().all()):
            return Estimate.unavailable(
                "some samples are not finite", level=level, unit=wasserstein.unit
            )
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
