"""The engine: makes one run over several families, from checked options to judged results.

The engine moves the target to its device and precision, opens the run's store of cells, has `Looks`
measure the cells that the store lacks in the order that the results need, and `Assembly` judge
them. It also decides which failures become results and which are raised.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capcheck.core.errors import (
    CapcheckError,
    ControlFlow,
    InputError,
    NetworkError,
    UnfitError,
    reason_of,
)
from capcheck.core.memory import out_of_memory
from capcheck.core.pace import time_limit
from capcheck.judging.family import failed_result, unsupported_result
from capcheck.results.family import FamilyResult
from capcheck.results.plan import FamilyEntry, FamilyPlan
from capcheck.results.survey import MeasuredBy, SurveyResult
from capcheck.runs.assembly import Assembly, survey_result
from capcheck.runs.beside import Beside
from capcheck.runs.candidates import Candidate, measured_by
from capcheck.runs.cells import Cells
from capcheck.runs.claims import Claims, SharedClaims
from capcheck.runs.decoding import keep_plan
from capcheck.runs.environment import environment, full_precision, one_thread
from capcheck.runs.excerpts import summary_of
from capcheck.runs.log import logged_to, logger
from capcheck.runs.looks import Looks
from capcheck.runs.making import Maker, require_conditionals
from capcheck.runs.manifest import Manifest, require_same
from capcheck.runs.options import (
    CallersError,
    RunOptions,
    placement,
    require_known,
    settings_of,
)
from capcheck.runs.progress import ProgressCounter, cell_name, expected_work
from capcheck.runs.recipes import write_recipe
from capcheck.runs.room import require_room
from capcheck.runs.sharing import share_out
from capcheck.runs.snapshots import batch_of
from capcheck.runs.store import FITS, Store
from capcheck.runs.workers import Helpers, Job, worker_count
from capcheck.targets.target import Target

__all__ = ["OF_THIS_PROCESS", "Engine", "help_out"]

OF_THIS_PROCESS = ("executor", "out", "progress", "workers")  # options that helpers do not share


class Engine:
    """One run over several families.

    Args:
        target: The law that the families should produce.
        candidates: The families' procedures with their networks. A candidate with a network comes
            after the candidate of the same procedure with the oracle.
        options: Options of the run.
        known: Cells of an earlier run on the target, to which those of this run are added.
        command: Command that makes the run again, or None.

    Attributes:
        cells: The cells of the run, once it has begun.

    Raises:
        InputError: An option is not possible on this target.
    """

    cells: Cells

    def __init__(
        self,
        target: Target,
        candidates: Sequence[Candidate],
        options: RunOptions,
        *,
        known: Cells | None = None,
        command: str | None = None,
    ) -> None:
        require_known(options)
        device, dtype = placement(options.get("device", "auto"))
        self._given_target = target
        self._target = target.to(device=device, dtype=dtype)
        self._settings = settings_of(target, options, device, dtype)
        require_room(self._target, self._settings.samples)
        self._summary = summary_of(target, self._settings.seed)
        self._candidates, self._known, self._command = candidates, known, command
        self._batch = batch_of(options)
        fit = [one for one in candidates if target.spec.kind in one.probe.kinds]
        work = expected_work(fit, self._settings, target.spec.kind)
        self._progress = ProgressCounter(options.get("progress"), work)
        out = options.get("out")
        self._folder = None if out is None else Path(out)
        self._options = options
        self._workers = worker_count(options.get("workers"), device)
        self._maker = Maker(self._target, self._settings, self._progress)
        self._refused: list[FamilyPlan] = []
        self._hopeless: set[str] = set()

    def run(self, *, errors_are_results: bool) -> SurveyResult:
        """Measure every candidate.

        Args:
            errors_are_results: Whether a candidate that fails becomes a result with an error, as in
                a survey, or raises. An oracle that does not exist on the target becomes a result in
                either case if the same procedure is also measured with a network.
        """
        limit = time_limit(self._settings.seconds_per_run)
        with full_precision(), limit, contextlib.ExitStack() as stack:
            if not errors_are_results:  # a network that fails must not leave a folder behind
                for candidate in self._candidates:
                    if candidate.network is not None:
                        self._maker.checked(candidate)
            workers = self._workers or 1
            if workers > 1 and self._folder is None:
                self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            code = measured_by(self._candidates)
            self._begin(self._open(code), Claims())
            stack.enter_context(logged_to(self._folder))
            if self._workers is not None:
                stack.enter_context(one_thread())
            if workers > 1:
                assert self._folder is not None
                SharedClaims(self._folder).forget_failures()
                self._share_out(self.cells, self._folder, self._candidates)
                self._begin(self.cells, Claims())  # what failed fails once more, and says why
            found = [self._result(one, errors_are_results) for one in self._candidates]
            if errors_are_results and any(one.cells for one in found):
                self._progress.advance((), "the information curve")
                keep_plan(self._target, self._settings, self.cells)
        return survey_result(found, self._manifest(code), self.cells.decoding)

    def start(self) -> None:
        """Start the run in its folder, and measure nothing."""
        self._open(measured_by(self._candidates))

    def help(self, folder: Path, *, order: Sequence[Candidate] | None = None) -> None:
        """Measure a part of a run that other processes measure as well, until it is whole.

        Args:
            folder: Folder of the run, which has been started.
            order: The candidates in the order in which this process takes them; theirs by default.

        Raises:
            InputError: The folder holds another run.
        """
        store = Store.join(folder)
        require_same(store.manifest, self._manifest(measured_by(self._candidates)), folder)
        limit = time_limit(self._settings.seconds_per_run)
        with full_precision(), limit, one_thread(), logged_to(folder):
            self._share_out(store, folder, order or self._candidates)

    def _share_out(self, cells: Cells, folder: Path, order: Sequence[Candidate]) -> None:
        """Measure a run until it is whole, with other processes, and helpers if it takes long."""
        self._folder = folder
        claims = SharedClaims(folder)
        job = Job(
            target=self._given_target,
            candidates=self._candidates,
            options={k: v for k, v in self._options.items() if k not in OF_THIS_PROCESS},
            folder=Path(os.path.abspath(folder)),  # a worker elsewhere has another current folder
        )
        executor = self._options.get("executor")
        helpers = Helpers(help_out, job, (self._workers or 1) - 1, executor=executor)
        try:
            self._begin(cells, claims)
            given_up = share_out(
                order,
                lambda candidate: self._result(candidate, errors_are_results=True),
                cells=cells,
                claims=claims,
                progress=self._progress,
            )
            self._refused = [one.plan for one in given_up if cells.unfit(one.plan) is not None]
        finally:
            helpers.close()
            claims.close()

    def _begin(self, cells: Cells, claims: Claims) -> None:
        self.cells, self._claims = cells, claims
        self._assembly = Assembly(cells, self._settings, self._summary)
        self._looks = Looks(
            self._target,
            self._settings,
            cells=cells,
            assembly=self._assembly,
            progress=self._progress,
            claims=claims,
            batch=self._batch,
        )
        plans = [candidate.plan for candidate in self._candidates]
        self._progress.follow(lambda: self._assembly.measured(plans))
        self._beside = Beside(
            self._settings,
            cells=cells,
            assembly=self._assembly,
            looks=self._looks,
            maker=self._maker,
            claims=claims,
            hopeless=self._hopeless,
        )

    def _result(self, candidate: Candidate, errors_are_results: bool) -> FamilyResult:
        entry = candidate.entry
        try:
            if candidate.plan in self._refused:  # a process of this run has found out why
                raise UnfitError(str(self.cells.unfit(candidate.plan)))
            return self._family(candidate)
        except CallersError as error:
            raise InputError(str(error)) from error
        except ControlFlow:
            raise
        except (UnfitError, NetworkError) as error:
            if isinstance(error, NetworkError) and candidate.network is None:
                raise CapcheckError(f"the oracle of {entry.plan.title}: {error}") from error
            beside = self._has_network_beside(candidate)
            return self._unfit(entry, error, errors_are_results or beside)
        except Exception as error:
            full = out_of_memory(
                error, entry.plan.title, "choose fewer tokens, --samples or a smaller --batch"
            )
            if full is not None:
                return self._unfit(entry, full, errors_are_results)
            logger.exception("%s failed", entry.plan.title)
            if errors_are_results:
                self._skip(entry.plan, range(self._settings.looks), "failed")
                cells = len(self._settings.grid.budgets())
                return failed_result(entry, reason_of(error), missing=cells)
            if isinstance(error, InputError):  # the arguments were checked: a fault of capcheck
                raise CapcheckError(f"{entry.plan.title}: {error}") from error
            raise
        finally:
            self._looks.forget_sweeps()

    def _unfit(
        self, entry: FamilyEntry, error: InputError, errors_are_results: bool
    ) -> FamilyResult:
        """The result of a family that cannot be measured; raises the error in a check."""
        if not errors_are_results:
            raise error
        logger.info("%s cannot be measured: %s", entry.plan.title, error)
        self.cells.note(entry.plan, str(error))
        self._skip(entry.plan, range(self._settings.looks), "cannot be measured")
        return unsupported_result(entry, str(error))

    def _skip(self, plan: FamilyPlan, looks: range, why: str) -> None:
        """Count the cells of looks that are not needed as done."""
        cells = itertools.product(map(self._settings.at, looks), self._settings.grid.budgets())
        names = [cell_name(plan, at.samples, budget) for at, budget in cells]
        if names:
            self._progress.advance(names, f"{plan.title}, {why}")

    def _has_network_beside(self, candidate: Candidate) -> bool:
        """Whether an oracle's procedure is also measured with a network."""
        plans = [
            other.plan.with_oracle() for other in self._candidates if other.network is not None
        ]
        return candidate.network is None and candidate.plan in plans

    def _family(self, candidate: Candidate) -> FamilyResult:
        entry, plan = candidate.entry, candidate.plan
        procedure = self._maker.procedure(candidate.probe)
        if candidate.network is not None:
            folder = None if self._folder is None else self._folder / FITS
            network = self._maker.network(
                candidate, cells=self.cells, claims=self._claims, folder=folder
            )
            procedure = procedure.with_network(network)
        require_conditionals(procedure, self._settings.grid)
        following: int | None = 0
        while following is not None:
            look = following
            self._looks.measure(plan, procedure, self._settings.at(look))
            found = self._assembly.judged(entry, look)
            following = self._assembly.next_look(found, look)
            rest = range(look + 1, self._settings.looks if following is None else following)
            self._skip(plan, rest, "decided")
        words = found.outcome.value.replace("_", " ")
        self._progress.decided(plan.title, f"{plan.title} is {words}: {found.reason}")
        with self._progress.uncounted():
            self._beside.measure(candidate, procedure, look, found)
        return self._assembly.judged(entry, look)

    def _open(self, code: MeasuredBy) -> Cells:
        if self._folder is None:
            return Cells(code) if self._known is None else self._known
        store = Store.create(self._folder, self._manifest(code))
        write_recipe(self._folder, self._given_target)
        return store

    def _manifest(self, code: MeasuredBy) -> Manifest:
        return Manifest(
            measured_by=code,
            environment=environment(),
            target=self._summary,
            settings=self._settings,
            families=tuple(candidate.entry for candidate in self._candidates),
            command=self._command,
        )


def help_out(packed: bytes, place: int) -> None:
    """Measure a part of a run until the run is whole; the function that a helper runs.

    Args:
        packed: The pickled `Job`, from the process that started the run.
        place: Number of the helper, 1 for the first.
    """
    job = Job.unpacked(packed)
    options: Any = dict(job.options) | {"device": job.device(place)}
    engine = Engine(job.target, job.candidates, options)
    # Others begin elsewhere. The last families take longest, and should not be begun last.
    order = job.candidates[::-1] if place % 2 else job.candidates
    first = len(order) * (place // 2) // (place // 2 + 1)
    engine.help(job.folder, order=[*order[first:], *order[:first]])
