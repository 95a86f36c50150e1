"""The sweep: measures the cells of a procedure's grid of budgets.

A cell is a pure function of its `CellKey`. Cells that differ only along axes that the probe
declares anytime share one run at their largest budget (`Snapshots`). The sweep gathers the evidence
that the divergences of a cell need, and the reference estimates them from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from capcheck.core.budget import AXES, Budget
from capcheck.core.excerpt import excerpt
from capcheck.core.unavailable import Unavailable
from capcheck.diagnostics.diagnosis import Diagnoser, Diagnosis
from capcheck.diagnostics.improbable import Places, improbable_tokens
from capcheck.diagnostics.observer import Observer
from capcheck.diagnostics.qualities import Qualities
from capcheck.diagnostics.quality import Quality
from capcheck.diagnostics.witness import Witness
from capcheck.divergences.estimate import Estimate
from capcheck.divergences.evidence import NOT_ASKED, ModelEvidence
from capcheck.divergences.reference import Reference
from capcheck.judging.verdict import passes_alone, refuses_alone
from capcheck.procedures.coordinates import ExactLaw
from capcheck.procedures.density_cost import affordable_draws
from capcheck.procedures.procedure import ROUNDED_LAW, AnyProcedure
from capcheck.results.measurement import Measurement, SampledLaw
from capcheck.results.settings import MIN_SAMPLES, Settings
from capcheck.runs.densities import Densities
from capcheck.runs.excerpts import kept_law
from capcheck.runs.snapshots import Snapshots, rows_randomness

__all__ = ["SHOWN_ROWS", "Sweep"]

SHOWN_ROWS = 32  # draws that show what a procedure writes, where a log-density decides
LIMIT_ROWS = 500  # fewest rows at which the limit of a procedure is made


class Sweep:
    """Measures cells of one procedure.

    Args:
        procedure: Procedure with its target, on the device and in the precision that the settings
            name.
        reference: Draws of the target and null floors of the divergences.
        observer: Compares draws with those of the target to find a witness.
        qualities: Tells what draws of token ids are like, or None.
        settings: Settings of the measurement.
        batch: Number of sample rows in a batch.
        diagnose: Names of tests of the draws at the largest budget; no verdict depends on them.
    """

    def __init__(
        self,
        procedure: AnyProcedure,
        reference: Reference,
        observer: Observer,
        qualities: Qualities | None,
        settings: Settings,
        *,
        batch: int,
        diagnose: Sequence[str] = (),
    ) -> None:
        self._procedure = procedure = procedure.in_quickest_coordinates
        self._probe, self._target = procedure.probe, procedure.target
        self._reference, self._observer, self._quality_of = reference, observer, qualities
        self._settings = settings
        # A map of the whole sequence takes tokens one by one, and holds no conditionals.
        maps = self._probe.row == "neither" and not settings.given
        self._batch = batch if maps else min(batch, procedure.rows_at_once or batch)
        self._diagnose = diagnose
        self._snapshots = Snapshots(procedure, settings, batch=self._batch)
        self._rng = functools.partial(rows_randomness, settings, self._target.device)
        # Keys: the values of the budget axes that the procedure depends on.
        self._laws: dict[tuple[int, ...], ExactLaw | Unavailable] = {}
        self._densities = Densities(procedure, reference, settings, batch=self._batch)
        self._estimated: dict[str, tuple[dict[str, Estimate], Witness]] = {}
        self._qualities: dict[str, Quality] = {}
        self._improbable_of: dict[str, Places | None] = {}

    def runs(self, budgets: Sequence[Budget]) -> list[list[Budget]]:
        """Group budgets into runs; the budgets of a group differ only along anytime axes."""
        groups: dict[tuple[int, ...], list[Budget]] = {}
        for budget in budgets:
            fixed = [axis for axis in AXES if axis not in self._probe.anytime]
            key = tuple(getattr(budget, axis) for axis in fixed)
            groups.setdefault(key, []).append(budget)
        return list(groups.values())

    def measure(self, budgets: Sequence[Budget]) -> Iterator[Measurement]:
        """Make one run and yield its cells, in the order of the budgets.

        Args:
            budgets: One of the groups that `runs` returns.

        Raises:
            UnfitError: The family cannot be measured on this target.
            ProbeError: The probe broke its contract.
        """
        rows = self._draws_needed(budgets)
        for budget, snapshot in self._snapshots.of(budgets, rows).items():
            samples = snapshot.samples
            evidence = self._evidence(budget, samples)
            estimates, witness = self._estimate(evidence)
            yield Measurement(
                budget=budget,
                samples=self._settings.samples,
                model_calls=snapshot.calls,
                tokens_processed=snapshot.tokens_processed / rows,
                unplaced=snapshot.unplaced / rows,
                estimates=estimates,
                traces=snapshot.traces,
                witness=witness,
                quality=self._quality(budget, evidence),
                diagnoses=self._diagnoses(budget, samples),
                law=self._kept_law(budget),
                examples=(shown := excerpt(samples)),
                improbable=self._improbable(evidence, len(shown)),
                **self._precision_facts(budget, samples),
            )

    def _draws_needed(self, budgets: Sequence[Budget]) -> int:
        """Number of draws of a run.

        There are fewer than the settings ask for if KL by log-densities alone decides all of its
        budgets, or if they would take longer than a cell may. If KL refuses the budgets, the other
        divergences are figures on which no verdict depends, so that costly draws may be few. If it
        is all that is asked for, draws only show what the procedure writes.
        """
        settings = self._settings
        if self._diagnose or self._procedure.precision:
            return settings.samples
        alone = len(settings.tolerances) == 1
        few = max(settings.fewer_samples, self._reference.fewest_draws)
        largest = Budget(**{axis: max(getattr(one, axis) for one in budgets) for axis in AXES})
        samples, seconds = settings.samples, settings.seconds_per_cell
        affordable = affordable_draws(self._procedure, largest, samples, seconds)
        if "kl" in settings.tolerances and self._kl_decides(budgets, alone=alone):
            least = max(MIN_SAMPLES, self._reference.fewest_draws)
            return min(SHOWN_ROWS, samples) if alone else max(least, min(few, affordable))
        return min(samples, max(few, affordable))

    def _kl_decides(self, budgets: Sequence[Budget], *, alone: bool) -> bool:
        """Whether KL by log-densities refuses all budgets, or passes them if it is asked alone."""
        for budget in budgets:
            known = not isinstance(self.exact_law(budget), Unavailable)
            density = NOT_ASKED if known else self._densities.of_target_draws(budget)
            if isinstance(density, Unavailable):
                return False
            kl = self._reference.kl_by_density(density)
            if not (self._refuses(kl) or (alone and self._passes(kl))):
                return False
        return True

    def samples(self, budget: Budget) -> Tensor:
        """The samples of a run at a budget, (n, N, d), or (n, N) integers."""
        return self._snapshots.of([budget])[budget].samples

    def estimates_from_draws(self, samples: Tensor) -> dict[str, Estimate]:
        """Estimate the divergences from draws alone, without a law or a density."""
        return self._estimate(_draws_alone(samples))[0]

    def exact_law(self, budget: Budget) -> ExactLaw | Unavailable:
        """The exact law of the samples at a budget, if divergences of exact laws are available."""
        if not self._reference.has_law:
            return Unavailable(reason="the target is neither Gaussian nor small")
        key = self._procedure.relevant(budget)
        if key not in self._laws:
            self._laws[key] = self._procedure.exact_law(budget)
        return self._laws[key]

    def _kept_law(self, budget: Budget) -> SampledLaw | None:
        if self._procedure.precision is not None:
            return None
        return kept_law(self.exact_law(budget))

    def _estimate(self, evidence: ModelEvidence) -> tuple[dict[str, Estimate], Witness]:
        # Budgets along an axis without effect have equal evidence, which is estimated from once.
        key = evidence.fingerprint
        if key not in self._estimated:
            estimates = self._reference.estimates(evidence)
            self._estimated[key] = estimates, self._observer.compare(evidence.samples)
        return self._estimated[key]

    def _quality(self, budget: Budget, evidence: ModelEvidence) -> Quality | None:
        """What draws of token ids are like, where all tokens are placed and no digit is left out.

        Tokens that are not placed are completed all at once, which is not what users look at.
        """
        whole = budget.length == self._settings.grid.largest.length
        few, precise = len(evidence.samples) < 2, self._procedure.precision is None
        if self._quality_of is None or few or not (whole and precise):
            return None
        key = evidence.fingerprint
        if key not in self._qualities:
            self._qualities[key] = self._quality_of.of(evidence.samples)
        return self._qualities[key]

    def _improbable(self, evidence: ModelEvidence, rows: int) -> Places | None:
        """The improbable tokens of the first draws, where no digit is left out."""
        if self._procedure.precision is not None:
            return None
        key = evidence.fingerprint
        if key not in self._improbable_of:
            self._improbable_of[key] = improbable_tokens(self._target, evidence.samples[:rows])
        return self._improbable_of[key]

    def _diagnoses(self, budget: Budget, samples: Tensor) -> tuple[Diagnosis, ...]:
        if not self._diagnose or budget != self._settings.grid.largest:
            return ()
        return Diagnoser(
            self._target,
            self._reference.draws,
            names=self._diagnose,
            level=self._settings.level,
            rng=self._rng("diagnosis", 0),
        ).diagnose(samples)

    def _evidence(self, budget: Budget, samples: Tensor) -> ModelEvidence:
        """The evidence about the sampled law at a budget that the divergences asked for need."""
        if self._procedure.precision is not None:
            return _draws_alone(samples)
        asked = self._settings.tolerances
        law = self.exact_law(budget)
        known = not isinstance(law, Unavailable)
        return ModelEvidence(
            samples=samples,
            law=law,
            log_density=self._densities.of_target_draws(budget)
            if "kl" in asked and not known
            else NOT_ASKED,
            own_log_density=self._densities.of_own_draws(budget, samples)
            if "reverse_kl" in asked and not known
            else NOT_ASKED,
            limit=lambda kl: None if known or self._refuses(kl) else self._limit,
        )

    def _refuses(self, kl: Estimate | None) -> bool:
        return kl is not None and self._is_alone(refuses_alone, kl)

    def _passes(self, kl: Estimate) -> bool:
        return self._is_alone(passes_alone, kl)

    def _is_alone(self, decides: Callable[..., bool], kl: Estimate) -> bool:
        settings = self._settings
        return decides(
            kl,
            settings.tolerances["kl"],
            level=settings.level_of_a_look,
            statements=len(settings.grid.budgets()) * len(settings.tolerances),
        )

    @functools.cached_property
    def _limit(self) -> Tensor | None:
        """The limit of the procedure at the first rows, or None if it is unknown.

        With the oracle these (n, N, d) are draws of the target, which is checked.
        """
        parts: list[Tensor] = []
        samples = self._settings.samples
        rows = min(samples, max(LIMIT_ROWS, samples // 4))
        for start in range(0, rows, self._batch):
            n = min(self._batch, rows - start)
            part = self._procedure.limit(n, self._rng("model", start))
            if part is None:
                return None
            parts.append(part)
        limit = torch.cat(parts)
        self._reference.require_target_draws(limit, self._probe.family)
        return limit

    def _precision_facts(self, budget: Budget, samples: Tensor) -> dict[str, Any]:
        """Fields of `Measurement` that compare a rounded run with the precise one; here none."""
        return {}


def _draws_alone(samples: Tensor) -> ModelEvidence:
    """Evidence that consists of samples alone, as for the unknown law of rounded arithmetic."""
    unknown = ROUNDED_LAW
    return ModelEvidence(samples=samples, law=unknown, log_density=unknown, own_log_density=unknown)
