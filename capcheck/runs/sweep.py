"""The sweep: measures the cells of a procedure's grid of budgets.

A cell is a pure function of its `CellKey`. Cells that differ only along axes that the probe
declares anytime share one run at their largest budget, and each takes a snapshot from the stream of
states. Runs are made in batches of sample rows, and no number depends on the size of a batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from capcheck.core.budget import AXES, Budget
from capcheck.core.errors import ProbeError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.diagnostics.diagnosis import Diagnoser, Diagnosis
from capcheck.diagnostics.observer import Observer
from capcheck.diagnostics.witness import Witness
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Estimate, Term
from capcheck.divergences.evidence import NOT_ASKED, ModelEvidence
from capcheck.divergences.lost import lost_clause, lost_rows
from capcheck.divergences.reference import Reference
from capcheck.laws.gaussian import MixtureLaw
from capcheck.networks.signatures import Calls
from capcheck.procedures.coordinates import ExactLaw
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import ROUNDED_LAW, AnyProcedure
from capcheck.procedures.trace import Recorder, Traces, Writes
from capcheck.results.measurement import Measurement, SampledLaw
from capcheck.results.settings import Settings
from capcheck.targets.categorical.sequence_law import SequenceLaw

__all__ = ["EXAMPLES", "EXAMPLE_NUMBERS", "RoundedSweep", "Sweep", "examples", "kept_law"]

EXAMPLES = 200  # largest number of samples of a cell that are kept for the report
# Largest number of numbers in the samples that are kept (eight samples are kept in any case), and
# in an exact law that is kept.
EXAMPLE_NUMBERS = 4096


@dataclasses.dataclass(kw_only=True)
class _Snapshot:
    """The result of a run at one budget: final tokens of all batches, their cost, their traces."""

    tokens: list[Tensor] = dataclasses.field(default_factory=list)
    calls: int = 0
    tokens_processed: int = 0
    traces: Traces = dataclasses.field(default_factory=Traces)

    @property
    def samples(self) -> Tensor:
        """Tokens of all batches, (n, N, d), or (n, N) integers."""
        return torch.cat(self.tokens)


class Sweep:
    """Measures cells of one procedure.

    Args:
        procedure: Procedure with its target, on the device and in the precision that the settings
            name.
        reference: Draws of the target and null floors of the divergences.
        observer: Compares draws with those of the target to find a witness.
        settings: Settings of the measurement.
        batch: Number of sample rows in a batch.
        diagnose: Names of tests of the draws at the largest budget; no verdict depends on them.
    """

    def __init__(
        self,
        procedure: AnyProcedure,
        reference: Reference,
        observer: Observer,
        settings: Settings,
        *,
        batch: int,
        diagnose: Sequence[str] = (),
    ) -> None:
        self._procedure = procedure
        self._probe, self._target = procedure.probe, procedure.target
        self._reference, self._observer = reference, observer
        self._settings = settings
        self._batch = batch
        self._diagnose = diagnose
        # Keys: the values of the budget axes that the procedure depends on.
        self._ran: dict[tuple[int, ...], _Snapshot] = {}
        self._laws: dict[tuple[int, ...], ExactLaw | Unavailable] = {}
        self._densities: dict[tuple[int, ...], LogDensity | Unavailable] = {}
        self._estimated: dict[str, tuple[dict[str, Estimate], Witness]] = {}

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
        for budget, snapshot in self._snapshots(budgets).items():
            samples = snapshot.samples
            estimates, witness = self._estimate(self._evidence(budget, samples))
            yield Measurement(
                budget=budget,
                samples=len(samples),
                model_calls=snapshot.calls,
                tokens_processed=snapshot.tokens_processed / self._settings.samples,
                estimates=estimates,
                traces=snapshot.traces,
                witness=witness,
                diagnoses=self._diagnoses(budget, samples),
                law=self._kept_law(budget),
                examples=examples(samples),
                **self._precision_facts(budget, samples),
            )

    def samples(self, budget: Budget) -> Tensor:
        """The samples of a run at a budget, (n, N, d), or (n, N) integers."""
        return self._snapshots([budget])[budget].samples

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

    def _snapshots(self, budgets: Sequence[Budget]) -> dict[Budget, _Snapshot]:
        """The snapshot of each budget, from one run at the largest of the budgets."""
        keys = {budget: self._procedure.relevant(budget) for budget in budgets}
        if not all(key in self._ran for key in keys.values()):
            first = {key: budget for budget, key in reversed(keys.items())}
            for budget, snapshot in self._run(list(first.values())).items():
                self._ran[keys[budget]] = snapshot
        return {budget: self._ran[key] for budget, key in keys.items()}

    def _run(self, budgets: Sequence[Budget]) -> dict[Budget, _Snapshot]:
        largest = Budget(
            length=max(budget.length for budget in budgets),
            steps=max(budget.steps for budget in budgets),
        )
        snapshots = {budget: _Snapshot() for budget in budgets}
        for start in range(0, self._settings.samples, self._batch):
            n = min(self._batch, self._settings.samples - start)
            self._run_batch(snapshots, largest, start, n)
        return snapshots

    def _run_batch(
        self, snapshots: dict[Budget, _Snapshot], largest: Budget, first_row: int, n: int
    ) -> None:
        """Run n sample rows at the largest budget, and add them to the snapshot of each budget."""
        rng, calls = self._rng("model", first_row), Calls()
        recorder = Recorder(self._probe.family, self._procedure.start(n, rng))
        latest: dict[Budget, tuple[State, Calls, Writes]] = {}
        for iteration, state in enumerate(self._procedure.run(largest, n, rng, calls=calls)):
            kept = recorder.record(state)
            for budget in snapshots:
                if self._is_within(budget, kept, iteration):
                    latest[budget] = (kept, dataclasses.replace(calls), recorder.writes)
        for budget, snapshot in snapshots.items():
            if budget not in latest:
                raise ProbeError(f"{self._probe.family}: run() yielded no state at {budget}.")
            state, spent, writes = latest[budget]
            snapshot.tokens.append(self._procedure.completed(state, rng, calls=spent))
            snapshot.calls = max(snapshot.calls, spent.sequential)
            snapshot.tokens_processed += spent.tokens
            snapshot.traces = snapshot.traces + writes.traces()

    def _is_within(self, budget: Budget, state: State, iteration: int) -> bool:
        """Whether a state of a run at a larger budget is within this budget."""
        if "length" in self._probe.anytime:
            placed = state.placed.sum(1)
            if bool((placed != placed[0]).any()):
                raise ProbeError(
                    f"{self._probe.family}: rows that place different numbers of tokens at once "
                    "cannot share snapshots along the length; drop it from `anytime`."
                )
            if int(placed[0]) - len(self._settings.given) > budget.length:
                return False
        return "steps" not in self._probe.anytime or iteration <= budget.steps

    def _estimate(self, evidence: ModelEvidence) -> tuple[dict[str, Estimate], Witness]:
        # Budgets along an axis without effect have equal evidence, which is estimated from once.
        key = evidence.fingerprint
        if key not in self._estimated:
            estimates = self._reference.estimates(evidence)
            self._estimated[key] = estimates, self._observer.compare(evidence.samples)
        return self._estimated[key]

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
            log_density=self._density_of_draws(budget)
            if "kl" in asked and not known
            else NOT_ASKED,
            own_log_density=self._own_log_density(budget, samples)
            if "reverse_kl" in asked and not known
            else NOT_ASKED,
            limit=lambda: self._limit if "wasserstein" in asked and not known else None,
        )

    @functools.cached_property
    def _limit(self) -> Tensor | None:
        """The limit of the procedure, row by row, or None if it is unknown.

        With the oracle these (n, N, d) are draws of the target, which is checked.
        """
        parts: list[Tensor] = []
        for start in range(0, self._settings.samples, self._batch):
            n = min(self._batch, self._settings.samples - start)
            part = self._procedure.limit(n, self._rng("model", start))
            if part is None:
                return None
            parts.append(part)
        limit = torch.cat(parts)
        self._reference.require_target_draws(limit, self._probe.family)
        return limit

    def _rng(self, name: str, first_row: int) -> CounterRandomness:
        return CounterRandomness(
            self._settings.seed,
            replicate=self._settings.replicate,
            first_row=first_row,
            name=name,
            device=self._target.device,
        )

    def _own_log_density(self, budget: Budget, samples: Tensor) -> LogDensity | Unavailable:
        """The log-density at a cell's own samples: the probe's, or a change-of-variables bound."""
        stated = self._log_density(budget, samples)
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

    def _density_of_draws(self, budget: Budget) -> LogDensity | Unavailable:
        """The log-density at the reference's draws of the target, or at the first of them."""
        key = self._procedure.relevant(budget)
        if key not in self._densities:
            rows = self._procedure.density_rows(budget)
            self._densities[key] = (
                rows
                if isinstance(rows, Unavailable)
                else self._log_density(budget, self._reference.draws[:rows])
            )
        return self._densities[key]

    def _log_density(self, budget: Budget, x: Tensor) -> LogDensity | Unavailable:
        parts: list[LogDensity] = []
        for start in range(0, len(x), self._batch):
            rows = x[start : start + self._batch]
            part = self._procedure.log_density(budget, rows, self._rng("density", start))
            if isinstance(part, Unavailable):
                return part
            parts.append(part)
        return _joined(parts)

    def _precision_facts(self, budget: Budget, samples: Tensor) -> dict[str, Any]:
        """Fields of `Measurement` that compare a rounded run with the precise one; here none."""
        return {}


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


def _draws_alone(samples: Tensor) -> ModelEvidence:
    """Evidence that consists of samples alone, as for the unknown law of rounded arithmetic."""
    unknown = ROUNDED_LAW
    return ModelEvidence(samples=samples, law=unknown, log_density=unknown, own_log_density=unknown)


def _joined(parts: Sequence[LogDensity]) -> LogDensity:
    """Join the log-densities of all batches into one, which is a bound if any of them is."""
    loosest = next((part for part in parts if part.bound), parts[0])
    return dataclasses.replace(loosest, values=torch.cat([part.values for part in parts]))


def kept_law(law: ExactLaw | Unavailable) -> SampledLaw | None:
    """An exact law as data, or None if there is none or if it has more than 4,096 numbers."""
    if isinstance(law, Unavailable):
        return None
    if isinstance(law, SequenceLaw):
        table = law.probabilities
        few = table.numel() <= EXAMPLE_NUMBERS
        return SampledLaw(probabilities=tuple(table.tolist())) if few else None
    laws = law.laws if isinstance(law, MixtureLaw) else (law,)
    if sum(one.covariance.numel() for one in laws) > EXAMPLE_NUMBERS:
        return None
    return SampledLaw(
        weights=tuple(law.weights.tolist()) if isinstance(law, MixtureLaw) else (1.0,),
        means=tuple(tuple(one.mean.tolist()) for one in laws),
        covariances=tuple(tuple(map(tuple, one.covariance.tolist())) for one in laws),
    )


def examples(samples: Tensor) -> list[Any]:
    """The first few samples as nested lists; continuous ones are rounded to four digits."""
    per_row = max(1, samples[0].numel())
    count = min(len(samples), max(8, min(EXAMPLES, EXAMPLE_NUMBERS // per_row)))
    if not samples.is_floating_point():
        integers: list[Any] = samples[:count].tolist()
        return integers
    rows = samples[:count].double().cpu()
    shape = rows.shape
    rounded = [float(f"{value:.4g}") for value in rows.flatten().tolist()]
    nested: list[Any] = torch.tensor(rounded, dtype=torch.float64).reshape(shape).tolist()
    return nested
