"""The rehearsal of a run tells its cost: each part is made for a moment, and its size is counted.

| part | what is timed | by what it grows |
|---|---|---|
| runs | some turns at the largest budget, with few rows and with more | turns, rows |
| log-densities | that of the largest budget, with few rows and with more | rows, their work |
| estimates | those of one cell from draws of the target | cells of different evidence |
| fits | steps up to the second validation | steps |
| causes | nothing | the largest budget's run and log-density, at fewer draws |

The number of turns is `Probe.iterations`, which the conformance suite checks, and the number of
rows that a log-density takes is computed as in the run (`density_cost`). Where a pilot chooses the
rows, the geometric mean of the fewest and the most is expected. All times are those of one thread,
as workers compute in one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from capcheck.core.budget import Budget
from capcheck.core.errors import ControlFlow, reason_of
from capcheck.core.memory import used_memory
from capcheck.core.pace import time_limit
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.divergences.reference import Reference
from capcheck.networks.kinds import FittedNetwork
from capcheck.networks.signatures import Calls
from capcheck.procedures.density_cost import (
    PILOT_ROWS,
    affordable,
    decided_rows,
    pilot_pays,
    work_of_density,
)
from capcheck.procedures.procedure import AnyProcedure
from capcheck.results.cost import FamilyCost, RunCost
from capcheck.results.settings import Settings
from capcheck.runs.candidates import Candidate
from capcheck.runs.environment import full_precision, one_thread
from capcheck.runs.making import Maker
from capcheck.runs.options import RunOptions, placement, require_known, settings_of
from capcheck.runs.progress import ProgressCounter
from capcheck.runs.room import require_room, room_of_draws
from capcheck.runs.snapshots import batch_of
from capcheck.runs.timing import FEW, MOMENT, Rate, memory_of, rate_of, seconds_of_fit
from capcheck.runs.work_counter import Work, WorkCounter
from capcheck.targets.target import Target

__all__ = ["TURNS", "Rehearsal", "rehearse"]

TURNS = 6  # turns of a run that are timed


def rehearse(
    target: Target,
    candidates: Sequence[Candidate],
    options: RunOptions,
    *,
    start: float = 0.0,
    growth: float = 1.0,
) -> RunCost:
    """The cost of a run, of which nothing is measured.

    Args:
        target: The law that the families should produce.
        candidates: What the run would measure.
        options: Options of the run.
        start: Seconds that a worker takes to start and to load the target.
        growth: Factor by which the rows of data are to grow, of a law that holds all of them.

    Raises:
        InputError: An option is not possible on this target.
    """
    require_known(options)
    device, dtype = placement(options.get("device", "auto"))
    settings = settings_of(target, options, device, dtype)
    moved = target.to(device=device, dtype=dtype)
    require_room(moved, settings.samples)
    counter = ProgressCounter(options.get("progress"), {})
    rehearsal = Rehearsal(
        moved,
        settings,
        Maker(moved, settings, counter),
        batch=batch_of(options),
        growth=growth,
    )
    with full_precision(), one_thread():
        return rehearsal.cost(candidates, start=start, progress=lambda x: counter.advance((), x))


class Rehearsal:
    """Makes each part of a run for a moment.

    Args:
        target: Target, on the device and in the precision that the settings name.
        settings: Settings of the run.
        maker: Makes procedures and networks.
        batch: Number of sample rows in a batch.
        growth: Factor by which the rows of data are to grow, of a law that holds all of them.
    """

    def __init__(
        self, target: Target, settings: Settings, maker: Maker, *, batch: int, growth: float = 1.0
    ) -> None:
        self._target, self._settings, self._maker = target, settings, maker
        self._most = min(batch, settings.samples)  # rows of a batch
        self._growth = growth

    def cost(
        self,
        candidates: Sequence[Candidate],
        *,
        start: float,
        progress: Callable[[str], None] = lambda _: None,
    ) -> RunCost:
        """The cost of a run.

        Args:
            candidates: What the run would measure.
            start: Seconds that a worker takes to start and to load the target.
            progress: Function that is told what is being rehearsed.
        """
        progress("target draws and null floors")
        began = time.perf_counter()
        reference = Reference(
            self._target,
            divergences=tuple(self._settings.tolerances),
            samples=self._settings.samples,
            seed=self._settings.seed,
            tolerances=self._settings.tolerances,
        )
        shared = time.perf_counter() - began
        estimates = self._time_of_estimates(reference)
        families = []
        with time_limit(math.inf):
            for candidate in candidates:
                progress(candidate.plan.title)
                try:
                    families.append(self._family(candidate, reference, estimates))
                except ControlFlow:
                    raise
                except Exception as error:  # as in a survey, the others are told all the same
                    reason = reason_of(error)
                    families.append(FamilyCost(title=candidate.plan.title, reason=reason))
        held = used_memory() + room_of_draws(self._target) * self._settings.samples
        return RunCost(families=tuple(families), shared=shared, start=start, held=held)

    def _time_of_estimates(self, reference: Reference) -> float:
        """Seconds of the estimates from the draws of one cell, KL by its density not counted."""
        draws = self._target.sample(self._settings.samples, self._rng("estimates"))
        began = time.perf_counter()
        reference.sampled(draws)
        return time.perf_counter() - began

    def _family(self, candidate: Candidate, reference: Reference, estimates: float) -> FamilyCost:
        probe, kind = candidate.probe, candidate.plan.network
        procedure, fit = self._maker.procedure(candidate.probe), 0.0
        if candidate.network is not None:
            checked = self._maker.checked(candidate)
            if isinstance(kind, FittedNetwork):
                budgets, seed = self._settings.grid.budgets(), self._settings.seed
                fit = seconds_of_fit(procedure, checked.module, kind, budgets, seed=seed)
            procedure = procedure.with_network(checked.network)
        procedure = procedure.in_quickest_coordinates
        largest, samples = self._settings.grid.largest, self._settings.samples
        turn, work, memory, calls = self._turn(procedure, largest)
        batch = self._batch(procedure)
        batches = [min(batch, samples - at) for at in range(0, samples, batch)]
        runs = {
            budget: probe.iterations(procedure.spec, budget) * sum(map(turn.of, batches))
            for budget in self._runs(procedure)
        }
        turns = sum(probe.iterations(procedure.spec, budget) for budget in runs)
        own = {procedure.relevant(b): b for b in reversed(self._settings.grid.budgets())}
        densities = self._densities(procedure, list(own.values()), reference)
        at_largest = next(iter(runs.values())) + next(iter(densities.values()))
        causes = at_largest * self._settings.fewer_samples / samples
        whole = work.scaled(size=self._growth * samples / FEW, turns=turns)
        return FamilyCost(
            title=candidate.plan.title,
            cells=len(self._settings.grid.budgets()),
            calls=calls * probe.iterations(procedure.spec, largest),
            runs=len(runs),
            turns=turns * len(batches),
            draws=sum(runs.values()),
            densities=sum(densities.values()),
            estimates=estimates * len(own),
            fit=fit,
            causes=causes * len(probe.suspects()) if candidate.network is None else 0.0,
            longest=max(fit, max(runs.values()) + max(densities.values()) + estimates),
            flops=whole.flops,
            moved=whole.moved,
            launches=whole.launches * len(batches),
            memory=memory * self._growth,
        )

    def _batch(self, procedure: AnyProcedure) -> int:
        """Number of sample rows in a batch."""
        return min(self._most, procedure.rows_at_once or self._most)

    def _runs(self, procedure: AnyProcedure) -> list[Budget]:
        """The largest budget of each run of a procedure, the largest first."""
        found: dict[tuple[int, ...], Budget] = {}
        for budget in reversed(self._settings.grid.budgets()):
            found.setdefault(procedure.fixed(budget), budget)
        return list(found.values())

    def _turn(self, procedure: AnyProcedure, budget: Budget) -> tuple[Rate, Work, float, int]:
        """The time of a turn by its rows, the work of `FEW` rows, bytes of a batch, and calls."""

        def timed(rows: int) -> float:
            states = procedure.run(budget, rows, self._rng("run"))
            next(states)  # the start
            spent: list[float] = []
            while len(spent) < TURNS and (len(spent) < 2 or sum(spent) < MOMENT):
                began = time.perf_counter()
                if next(states, None) is None:
                    break
                spent.append(time.perf_counter() - began)
            return min(spent, default=0.0)

        def made(rows: int) -> int:
            calls = Calls()
            states = procedure.run(budget, rows, self._rng("run"), calls=calls)
            next(states)
            next(states, None)
            return calls.sequential

        most = self._batch(procedure)
        rate = rate_of(timed, most=most, growth=self._growth)
        rows = FEW if rate.of(FEW) < MOMENT else 1
        with WorkCounter() as counter:
            calls = made(rows)
        memory = memory_of(made, rate, most=most)
        return rate, counter.work.scaled(size=FEW / rows), memory, calls

    def _densities(
        self, procedure: AnyProcedure, budgets: Sequence[Budget], reference: Reference
    ) -> dict[Budget, float]:
        """Seconds of the log-density or exact law of each budget, the largest first."""
        if "kl" not in self._settings.tolerances:
            return dict.fromkeys(budgets, 0.0)
        largest, samples = budgets[0], self._settings.samples
        turns = {b: procedure.probe.iterations(procedure.spec, b) for b in budgets}
        if reference.has_law:
            began = time.perf_counter()
            known = not isinstance(procedure.exact_law(largest), Unavailable)
            each = (time.perf_counter() - began) / max(1, turns[largest])
            if known:
                return {b: each * turns[b] for b in budgets}
        spent = dict.fromkeys(budgets, 0.0)
        rates: dict[tuple[str, bool], tuple[Rate, float]] = {}
        for budget in budgets:
            found = affordable(procedure, budget, samples, self._settings.seconds_per_cell)
            if isinstance(found, Unavailable):
                continue
            used, rows = found[0], samples if found[1] is None else found[1]
            if pilot_pays(used, budget, found[1]):
                rows = PILOT_ROWS + round(math.sqrt(decided_rows(used) * rows))
            work = work_of_density(used, budget)
            size = work or float(max(1, turns[budget]))
            kind = repr(used.probe), work > 0  # a cheaper density has another rate
            if kind not in rates:
                rates[kind] = self._rate_of_density(used, budget), size
            rate, timed_size = rates[kind]
            spent[budget] = rate.of(rows) * size / timed_size
        return spent

    def _rate_of_density(self, procedure: AnyProcedure, budget: Budget) -> Rate:
        def timed(n: int) -> float:
            x = self._target.sample(n, self._rng("draws"))
            began = time.perf_counter()
            procedure.log_density(budget, x, self._rng("density"))
            return time.perf_counter() - began

        return rate_of(timed, most=self._batch(procedure), growth=self._growth)

    def _rng(self, name: str) -> CounterRandomness:
        return CounterRandomness(self._settings.seed, name=name, device=self._target.device)
