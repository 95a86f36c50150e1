"""Snapshots: the results of runs of a procedure at each budget, where budgets may share a run.

A budget along an anytime axis takes its snapshot from the stream of states of a run at a larger
one. Runs are made in batches of sample rows, and no number depends on the size of a batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.core.arguments import whole_number
from capcheck.core.budget import Budget
from capcheck.core.errors import OutOfMemoryError, ProbeError
from capcheck.core.pace import Pace
from capcheck.core.randomness import CounterRandomness
from capcheck.networks.signatures import Calls
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import AnyProcedure
from capcheck.procedures.trace import Recorder, Traces, Writes
from capcheck.results.settings import Settings
from capcheck.runs.options import RunOptions

__all__ = ["Snapshot", "Snapshots", "batch_of", "rows_randomness"]


@dataclasses.dataclass(kw_only=True)
class Snapshot:
    """The result of a run at one budget: final tokens of all batches, their cost, their traces."""

    tokens: list[Tensor] = dataclasses.field(default_factory=list)
    calls: int = 0
    tokens_processed: int = 0
    traces: Traces = dataclasses.field(default_factory=Traces)
    unplaced: int = 0  # tokens that the budget's length leaves room for

    def add(self, other: Snapshot) -> None:
        """Add the rows of another batch."""
        self.tokens += other.tokens
        self.calls = max(self.calls, other.calls)
        self.tokens_processed += other.tokens_processed
        self.traces = self.traces + other.traces
        self.unplaced += other.unplaced

    @property
    def samples(self) -> Tensor:
        """Tokens of all batches, (n, N, d), or (n, N) integers."""
        return torch.cat(self.tokens)


class Snapshots:
    """Makes and keeps the runs of one procedure.

    Args:
        procedure: Procedure with its target.
        settings: Settings of the measurement.
        batch: Number of sample rows in a batch.
    """

    def __init__(self, procedure: AnyProcedure, settings: Settings, *, batch: int) -> None:
        self._procedure, self._probe = procedure, procedure.probe
        self._settings, self._batch = settings, batch
        # Keys: the rows, and the values of the budget axes that the procedure depends on.
        self._ran: dict[tuple[int, ...], Snapshot] = {}

    def of(self, budgets: Sequence[Budget], rows: int | None = None) -> dict[Budget, Snapshot]:
        """The snapshot of each budget, from one run at the largest of the budgets.

        Args:
            budgets: The budgets.
            rows: Number of sample rows, those that the settings name by default.
        """
        rows = self._settings.samples if rows is None else rows
        keys = {budget: (rows, *self._procedure.relevant(budget)) for budget in budgets}
        if not all(key in self._ran for key in keys.values()):
            first = {key: budget for budget, key in reversed(keys.items())}
            for budget, snapshot in self._run(list(first.values()), rows).items():
                self._ran[keys[budget]] = snapshot
        return {budget: self._ran[key] for budget, key in keys.items()}

    def _run(self, budgets: Sequence[Budget], samples: int) -> dict[Budget, Snapshot]:
        largest = Budget(
            length=max(budget.length for budget in budgets),
            steps=max(budget.steps for budget in budgets),
        )
        snapshots = {budget: Snapshot() for budget in budgets}
        turns = self._probe.iterations(self._procedure.spec, largest)
        pace = Pace(
            turns * math.ceil(samples / self._batch),
            f"a run at {largest} of {samples:,} draws",
            "give fewer --samples, --steps or tokens of --length",
        )
        start = 0
        while start < samples:
            n = min(self._batch, samples - start)
            try:
                batch = self._run_batch(budgets, largest, start, n, pace)
            except OutOfMemoryError:
                if n == 1:
                    raise
                self._batch = n // 2  # no number depends on it
                continue
            for budget, snapshot in snapshots.items():
                snapshot.add(batch[budget])
            start += n
        return snapshots

    def _run_batch(
        self, budgets: Sequence[Budget], largest: Budget, first_row: int, n: int, pace: Pace
    ) -> dict[Budget, Snapshot]:
        """The snapshots of n sample rows at each budget, from one run at the largest."""
        rng = rows_randomness(self._settings, self._procedure.target.device, "model", first_row)
        calls = Calls()
        recorder = Recorder(self._probe.family, self._procedure.start(n, rng))
        latest: dict[Budget, tuple[State, Calls, Writes]] = {}
        for iteration, state in enumerate(self._procedure.run(largest, n, rng, calls=calls)):
            if iteration > 0:
                pace.turn()
            kept = recorder.record(state)
            placed = self._placed(kept)
            for budget in budgets:
                if self._is_within(budget, placed, iteration):
                    latest[budget] = (kept, dataclasses.replace(calls), recorder.writes)
        snapshots = {}
        for budget in budgets:
            if budget not in latest:
                raise ProbeError(f"{self._probe.family}: run() yielded no state at {budget}.")
            state, spent, writes = latest[budget]
            tokens = self._procedure.completed(state, rng, calls=spent)
            whole = budget.length >= len(self._procedure.spec.free)
            snapshots[budget] = Snapshot(
                tokens=[tokens],
                calls=spent.sequential,
                tokens_processed=spent.tokens,
                traces=writes.traces(),
                unplaced=int((~state.placed).sum()) if whole else 0,
            )
        return snapshots

    def _placed(self, state: State) -> int:
        """Number of tokens that a state has placed beyond the given ones; 0 if none may count."""
        if "length" not in self._probe.anytime:
            return 0
        placed = state.placed.sum(1)
        if bool((placed != placed[0]).any()):
            raise ProbeError(
                f"{self._probe.family}: rows that place different numbers of tokens at once "
                "cannot share snapshots along the length; drop it from `anytime`."
            )
        return int(placed[0]) - len(self._settings.given)

    def _is_within(self, budget: Budget, placed: int, iteration: int) -> bool:
        """Whether a state of a run at a larger budget is within this budget."""
        if "length" in self._probe.anytime and placed > budget.length:
            return False
        return "steps" not in self._probe.anytime or iteration <= budget.steps


def rows_randomness(
    settings: Settings, device: torch.device, name: str, first_row: int
) -> CounterRandomness:
    """The random numbers of a stream of a measurement, from the given sample row on."""
    return CounterRandomness(
        settings.seed,
        replicate=settings.replicate,
        first_row=first_row,
        name=name,
        device=device,
    )


def batch_of(options: RunOptions) -> int:
    """The number of sample rows in a batch of a run.

    Raises:
        InputError: It is not a whole number of at least 1.
    """
    return whole_number("batch", options.get("batch", 1024), 1)
