"""The sweep: every cell of a family's grid, measured.

A cell is a pure function of its spec, whose hash is its key in the store. Cells along an axis that
the probe declares anytime share one run at their largest budget, and each takes its snapshot from
the stream of states. Runs are made in batches of sample rows; no number depends on the batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from capcheck.budget import AXES, Axis, Budget, Memory, WatchedBudget
from capcheck.cells import diagnosed
from capcheck.chart import chart_of
from capcheck.completion import complete
from capcheck.diagnosis import Diagnoser, Diagnosis
from capcheck.divergences.estimate import Estimate
from capcheck.divergences.reference import ExactLaw, ModelEvidence, Reference
from capcheck.errors import CapcheckError, InputError
from capcheck.exact.change_of_variables import own_log_density
from capcheck.exact.enumeration import sampled_law
from capcheck.exact.replay import exact_law
from capcheck.given import Given
from capcheck.probe import AnyProbe, LogDensity, State, Unavailable
from capcheck.randomness import CounterRandomness
from capcheck.records import Measurement, Settings
from capcheck.signatures import Calls, TokenPredictor, TokenPredictorSignature, counted
from capcheck.targets.target import Target
from capcheck.trace import Recorder, Traces
from capcheck.witness import Witness

EXAMPLES = 200  # most samples of a cell that are kept for the report
EXAMPLE_NUMBERS = 4096  # most numbers in them, if eight samples fit


@dataclasses.dataclass(kw_only=True)
class _Snapshot:
    """What one budget has of a run: final tokens of all batches, what they cost, their traces."""

    tokens: list[Tensor] = dataclasses.field(default_factory=list)
    calls: int = 0
    tokens_processed: int = 0
    traces: Traces = dataclasses.field(default_factory=Traces)


class Sweep:
    """Measures cells of one probe on one target.

    Args:
        probe: The family's procedure.
        target: The target, on the device and in the precision that the settings name.
        reference: Target draws and null floors.
        settings: How to measure.
        batch: Sample rows per batch.
        network: A network in the oracle's place, of the probe's signature.
        diagnosed: Whether the diagnoses of the settings are made.
    """

    def __init__(
        self,
        probe: AnyProbe,
        target: Target,
        reference: Reference,
        settings: Settings,
        *,
        batch: int,
        network: Callable[..., Any] | None = None,
        diagnosed: bool = True,
    ) -> None:
        self._diagnosed = diagnosed
        if settings.given:
            probe = Given(inner=probe, target=target, given=settings.given)
        self._probe = probe
        self._target = target
        self._chart = chart_of(probe, target)
        self._spec = self._chart.target.spec
        self._reference = reference
        self._settings = settings
        self._batch = batch
        self._network = (
            probe.signature.oracle(self._chart.target)
            if network is None
            else probe.signature.blind(network, self._spec)
        )
        self._predictor: TokenPredictor = TokenPredictorSignature().oracle(self._chart.target)
        self._ran: Memory[tuple[frozenset[Axis], dict[Budget, _Snapshot]]] = Memory()
        self._laws: Memory[ExactLaw | Unavailable] = Memory()
        self._densities: Memory[LogDensity | Unavailable] = Memory()
        self._measured: dict[str, tuple[dict[str, Estimate], Witness]] = {}

    def runs(self, budgets: Sequence[Budget]) -> list[list[Budget]]:
        """Budgets grouped into runs; a group differs only along anytime axes."""
        groups: dict[tuple[int, ...], list[Budget]] = {}
        for budget in budgets:
            fixed = [axis for axis in AXES if axis not in self._probe.anytime]
            key = tuple(getattr(budget, axis) for axis in fixed)
            groups.setdefault(key, []).append(budget)
        return list(groups.values())

    def measure(self, budgets: Sequence[Budget]) -> Iterator[Measurement]:
        """Make one run and yield its cells, in the order of the budgets given.

        Args:
            budgets: One group of `runs`.
        """
        for budget, snapshot in self._snapshots(budgets).items():
            samples = torch.cat(snapshot.tokens)
            estimates, witness = self._compare(budget, samples)
            yield Measurement(
                budget=budget,
                samples=len(samples),
                model_calls=snapshot.calls,
                tokens_processed=snapshot.tokens_processed / self._settings.samples,
                estimates=estimates,
                traces=snapshot.traces,
                witness=witness,
                diagnoses=self._diagnoses(budget, samples),
                examples=examples(samples),
                **self._beside(budget, samples),
            )

    def samples(self, budget: Budget) -> Tensor:
        """What a run at that budget makes: (n, N, d), or (n, N) integers."""
        return torch.cat(self._snapshots([budget])[budget].tokens)

    def _snapshots(self, budgets: Sequence[Budget]) -> dict[Budget, _Snapshot]:
        """What each budget has of one run at the largest of them."""
        largest = WatchedBudget(
            length=max(budget.length for budget in budgets),
            steps=max(budget.steps for budget in budgets),
        )
        held = self._ran.recall(largest)
        if held is not None:
            read, found = held
            axes = [axis for axis in AXES if axis in read or axis in self._probe.anytime]
            places = {tuple(getattr(b, axis) for axis in axes): s for b, s in found.items()}
            keys = {b: tuple(getattr(b, axis) for axis in axes) for b in budgets}
            if all(key in places for key in keys.values()):
                return {budget: places[key] for budget, key in keys.items()}
        snapshots = {budget: _Snapshot() for budget in budgets}
        for start in range(0, self._settings.samples, self._batch):
            n = min(self._batch, self._settings.samples - start)
            self._run_batch(snapshots, largest, start, n)
        self._ran.keep(largest, largest.read, (largest.read, snapshots))
        return snapshots

    def _run_batch(
        self, snapshots: dict[Budget, _Snapshot], largest: Budget, start: int, n: int
    ) -> None:
        """Run some sample rows at the largest budget, and add to every budget's snapshot."""
        probe, spec = self._probe, self._spec
        rng = self._rng("model", start)
        calls, recorder = Calls(), Recorder(probe.family, given=self._settings.given)
        network = counted(self._network, probe.signature, calls)
        latest: dict[Budget, tuple[State, Calls, int]] = {}
        for iteration, state in enumerate(probe.run(network, spec, largest, n, rng)):
            recorder.record(state)
            for budget in snapshots:
                if self._affords(budget, state, iteration):
                    latest[budget] = (state, dataclasses.replace(calls), iteration)
        for budget, snapshot in snapshots.items():
            if budget not in latest:
                raise CapcheckError(f"{probe.family}: run() yielded no state at {budget}.")
            state, spent, iterations = latest[budget]
            predictor = counted(self._predictor, TokenPredictorSignature(), spent)
            state = dataclasses.replace(state, tokens=self._widened(state.tokens))
            completed = complete(state, predictor, rng.stream("completion"))
            snapshot.tokens.append(self._chart.tokens(completed))
            snapshot.calls = max(snapshot.calls, spent.sequential)
            snapshot.tokens_processed += spent.tokens
            snapshot.traces = snapshot.traces + recorder.traces(iterations)

    def _widened(self, tokens: Tensor) -> Tensor:
        """Tokens in the precision of the target; a procedure may work in another."""
        return tokens.to(self._target.dtype) if tokens.is_floating_point() else tokens

    def _beside(self, budget: Budget, samples: Tensor) -> dict[str, Any]:
        """What else a cell holds: comparisons with a more precise run, if this is not it."""
        return {}

    def _affords(self, budget: Budget, state: State, iteration: int) -> bool:
        if "length" in self._probe.anytime:
            placed = state.placed.sum(1)
            if bool((placed != placed[0]).any()):
                raise CapcheckError(
                    f"{self._probe.family}: rows that place different numbers of tokens at once "
                    "cannot share snapshots along the length; drop it from `anytime`."
                )
            if int(placed[0]) - len(self._settings.given) > budget.length:
                return False
        return "steps" not in self._probe.anytime or iteration <= budget.steps

    def _compare(self, budget: Budget, samples: Tensor) -> tuple[dict[str, Estimate], Witness]:
        return self._weighed(self._evidence(budget, samples))

    def _weighed(self, evidence: ModelEvidence) -> tuple[dict[str, Estimate], Witness]:
        # Budgets along an axis that does nothing have the same evidence: it is weighed once.
        if evidence.fingerprint not in self._measured:
            estimates = self._reference.estimates(evidence)
            self._measured[evidence.fingerprint] = (
                estimates,
                self._reference.observer.compare(evidence.samples),
            )
        return self._measured[evidence.fingerprint]

    def _diagnoses(self, budget: Budget, samples: Tensor) -> tuple[Diagnosis, ...]:
        names = diagnosed(self._settings, budget)
        if not names or not self._diagnosed:
            return ()
        return Diagnoser(
            self._target,
            self._reference.draws,
            names=names,
            level=self._settings.level,
            rng=self._rng("diagnosis", 0),
        ).diagnose(samples)

    def _evidence(self, budget: Budget, samples: Tensor) -> ModelEvidence:
        """What there is to know of the law at a budget, and no more than is asked for."""
        asked = self._settings.tolerances
        law = self._law(budget)
        known = not isinstance(law, Unavailable)
        return ModelEvidence(
            samples=samples,
            law=law,
            log_density=self._density_of_draws(budget)
            if "kl" in asked and not known
            else Unavailable(reason="KL was not asked for"),
            own_log_density=self._own_log_density(budget, samples)
            if "reverse_kl" in asked and not known
            else Unavailable(reason="reverse KL was not asked for"),
            limit=lambda: self._limit if "wasserstein" in asked and not known else None,
        )

    def _law(self, budget: Budget) -> ExactLaw | Unavailable:
        if not self._reference.has_law:
            return Unavailable(reason="the target is neither Gaussian nor small")
        if (held := self._laws.recall(budget)) is not None:
            return held
        spec, completion = self._chart.target.spec, self._predictor
        route = exact_law if spec.kind == "continuous" else sampled_law
        watched = WatchedBudget(length=budget.length, steps=budget.steps)
        law = route(self._probe, self._network, completion=completion, spec=spec, budget=watched)
        return self._laws.keep(budget, watched.read, self._chart.law_of_tokens(law))

    @functools.cached_property
    def _limit(self) -> Tensor | None:
        """What the procedure converges to, row by row; draws of the target itself."""
        inside = self._chart.target
        try:
            oracle = self._probe.signature.oracle(inside)
        except InputError:  # a network stands where there is no oracle
            return None
        parts: list[Tensor] = []
        for start in range(0, self._settings.samples, self._batch):
            n = min(self._batch, self._settings.samples - start)
            part = self._probe.limit(oracle, inside.spec, n, self._rng("model", start))
            if part is None:
                return None
            parts.append(self._chart.tokens(part))
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
        """At the cell's own samples: the probe's, or a bound by change of variables."""
        stated = self._log_density(budget, samples)
        if isinstance(stated, LogDensity) or self._target.spec.kind == "categorical":
            return stated
        parts: list[LogDensity] = []
        for start in range(0, len(samples), self._batch):
            found = own_log_density(
                self._probe,
                self._network,
                completion=self._predictor,
                spec=self._chart.target.spec,
                budget=budget,
                n=min(self._batch, len(samples) - start),
                source=functools.partial(self._rng, "model", start),
            )
            part = self._chart.density_of_tokens(found)
            if isinstance(part, Unavailable):
                return Unavailable(reason=f"{stated.reason}; {part.reason}")
            parts.append(part)
        return dataclasses.replace(parts[0], values=torch.cat([part.values for part in parts]))

    def _density_of_draws(self, budget: Budget) -> LogDensity | Unavailable:
        """At the reference's draws."""
        if (held := self._densities.recall(budget)) is not None:
            return held
        watched = WatchedBudget(length=budget.length, steps=budget.steps)
        found = self._log_density(watched, self._reference.draws)
        return self._densities.keep(budget, watched.read, found)

    def _log_density(self, budget: Budget, x: Tensor) -> LogDensity | Unavailable:
        parts: list[LogDensity] = []
        for start in range(0, len(x), self._batch):
            found = self._probe.log_density(
                self._network,
                self._predictor,
                self._chart.target.spec,
                budget,
                self._chart.coordinates(x[start : start + self._batch]),
                self._rng("density", start),
            )
            part = self._chart.density_of_tokens(found)
            if isinstance(part, Unavailable):
                return part
            parts.append(part)
        values = torch.cat([part.values for part in parts])
        return LogDensity(values=values, method=parts[0].method, bound=parts[0].bound)


def examples(samples: Tensor) -> list[Any]:
    """The first few samples to four digits, as nested lists."""
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
