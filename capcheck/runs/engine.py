"""The engine: makes one run over several families, from checked options to judged results.

The engine moves the target to its device and precision, opens the run's store of cells, measures
the cells that the store lacks, reports progress, and has `Assembly` judge the result.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from capcheck.core.budget import Budget
from capcheck.core.errors import CapcheckError, ControlFlow, InputError, NetworkError, UnfitError
from capcheck.core.randomness import CounterRandomness
from capcheck.core.version import __version__, class_digest, code_digest
from capcheck.diagnostics.observer import Observer
from capcheck.divergences.reference import Reference
from capcheck.judging.causes import has_floor
from capcheck.judging.family import failed_result, unsupported_result
from capcheck.networks.kinds import PerturbedNetwork, RoundedNetwork
from capcheck.networks.perturbed import PERTURBATIONS, NotPerturbed
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Outcome
from capcheck.results.plan import FamilyPlan, plan_of
from capcheck.results.settings import Settings, TargetSummary
from capcheck.results.survey import MeasuredBy, SurveyResult
from capcheck.runs.assembly import Assembly, sensitive_budget, survey_result
from capcheck.runs.candidates import Candidate, CheckedNetwork, checked_network, fitted_network
from capcheck.runs.cells import Cells
from capcheck.runs.options import (
    Progress,
    RunOptions,
    placement,
    require_known,
    settings_of,
    whole_number,
)
from capcheck.runs.store import FITS, Manifest, Store, environment
from capcheck.runs.sweep import EXAMPLES, RoundedSweep, Sweep, examples
from capcheck.targets.target import Target

__all__ = ["LOG", "Engine", "full_precision"]

LOG = "run.log"  # name of the log file in a run's folder
logger = logging.getLogger("capcheck")
logger.addHandler(logging.NullHandler())  # a program that wants the log adds a handler of its own


class Engine:
    """One run over several families.

    Args:
        target: The law that the families should produce.
        candidates: The families' procedures with their networks. A candidate with a network comes
            after the candidate of the same procedure with the oracle.
        options: Options of the run.

    Raises:
        InputError: An option is not possible on this target.
    """

    def __init__(
        self, target: Target, candidates: Sequence[Candidate], options: RunOptions
    ) -> None:
        require_known(options)
        device, dtype = placement(options.get("device", "auto"))
        self._target = target.to(device=device, dtype=dtype)
        self._settings = settings_of(target, options, device, dtype)
        self._summary = _summary(target, self._settings.seed)
        self._candidates = candidates
        self._batch = whole_number("batch", options.get("batch", 1024), 1)
        self._progress = options.get("progress")
        self._done, self._counting = 0, True
        out = options.get("out")
        self._folder = None if out is None else Path(out)
        self._checked_networks: dict[str, CheckedNetwork] = {}  # key: the plan as JSON
        self._procedures: dict[str, AnyProcedure] = {}  # key: family and options
        self._references: dict[int, tuple[Reference, Observer]] = {}  # key: number of samples
        # Sweeps of the candidate that is being measured; key: plan and look.
        self._sweeps: dict[tuple[str, int], Sweep] = {}

    def run(self, *, errors_are_results: bool) -> SurveyResult:
        """Measure every candidate.

        Args:
            errors_are_results: Whether a candidate that fails becomes a result with an error, as in
                a survey, or raises. An oracle that does not exist on the target becomes a result in
                either case if the same procedure is also measured with a network.
        """
        with full_precision():
            if not errors_are_results:  # a network that fails must not leave a folder behind
                for candidate in self._candidates:
                    if candidate.network is not None:
                        self._checked(candidate)
            measured_by = _measured_by(self._candidates)
            self._cells = self._open(measured_by)
            self._assembly = Assembly(self._cells, self._settings, self._summary)
            with self._logging():
                found = [self._result(one, errors_are_results) for one in self._candidates]
        return survey_result(
            found,
            measured_by=measured_by,
            environment=environment(),
            target=self._summary,
            settings=self._settings,
        )

    def _result(self, candidate: Candidate, errors_are_results: bool) -> FamilyResult:
        entry = candidate.entry
        try:
            return self._family(candidate)
        except (UnfitError, NetworkError) as error:
            if isinstance(error, NetworkError) and candidate.network is None:
                raise CapcheckError(f"the oracle of {entry.plan.title}: {error}") from error
            if not (errors_are_results or self._has_network_beside(candidate)):
                raise
            logger.info("%s cannot be measured: %s", entry.plan.title, error)
            self._cells.note(entry.plan, str(error))
            return unsupported_result(entry, str(error))
        except _CallersError as error:
            raise InputError(str(error)) from error
        except Exception as error:
            logger.exception("%s failed", entry.plan.title)
            if errors_are_results:
                return failed_result(entry, _reason(error))
            if isinstance(error, InputError):  # the arguments were checked: a fault of capcheck
                raise CapcheckError(f"{entry.plan.title}: {error}") from error
            raise
        finally:
            self._sweeps.clear()

    def _has_network_beside(self, candidate: Candidate) -> bool:
        """Whether an oracle's procedure is also measured with a network."""
        plans = [
            other.plan.with_oracle() for other in self._candidates if other.network is not None
        ]
        return candidate.network is None and candidate.plan in plans

    def _family(self, candidate: Candidate) -> FamilyResult:
        entry, plan = candidate.entry, candidate.plan
        procedure = self._procedure(candidate.probe)
        if candidate.network is not None:
            procedure = procedure.with_network(self._network(candidate))
        for look in range(self._settings.looks):
            self._look(plan, procedure, look)
            found = self._assembly.judged(entry, look)
            if found.outcome is not Outcome.INCONCLUSIVE:
                skipped = self._settings.looks - 1 - look
                self._advance(skipped * len(found.cells), f"{plan.title}, decided")
                break
        with self._uncounted():
            self._measure_beside(candidate, procedure, look, found)
        return self._assembly.judged(entry, look)

    def _measure_beside(
        self, candidate: Candidate, procedure: AnyProcedure, look: int, found: FamilyResult
    ) -> None:
        """Measure the cells that stand beside the grid of a family: oracle, suspects, errors."""
        plan = candidate.plan
        if candidate.network is not None:
            self._measure_oracle_of(candidate, look)
        elif has_floor(found):
            self._measure_suspects(candidate.probe, look)
        self._measure_rounded(plan, procedure, look)
        if candidate.network is None:
            self._measure_perturbed(plan, procedure, look, sensitive_budget(found))

    @contextlib.contextmanager
    def _uncounted(self) -> Iterator[None]:
        """Leave cells out of the progress, which counts those of the grid only."""
        self._counting = False
        try:
            yield
        finally:
            self._counting = True

    def _procedure(self, probe: AnyProbe) -> AnyProcedure:
        """The procedure of a probe with its oracle, made once for each family and options."""
        key = f"{type(probe)} {json.dumps(plan_of(probe).to_json(), sort_keys=True)}"
        if key not in self._procedures:
            self._procedures[key] = Procedure.of(probe, self._target, given=self._settings.given)
        return self._procedures[key]

    def _checked(self, candidate: Candidate) -> CheckedNetwork:
        """The checked network of a candidate before it is fitted, made once."""
        key = json.dumps(candidate.plan.to_json(), sort_keys=True)
        if key not in self._checked_networks:
            procedure, budgets = self._procedure(candidate.probe), self._settings.grid.budgets()
            self._checked_networks[key] = checked_network(
                candidate, procedure, budgets, seed=self._settings.seed
            )
        return self._checked_networks[key]

    def _network(self, candidate: Candidate) -> Callable[..., Any]:
        """The network to measure in place of the oracle, fitted if the plan says so."""
        title, checked = candidate.plan.title, self._checked(candidate)

        def progress(step: int, steps: int, validation: float) -> None:
            self._advance(0, f"{title}, step {step:,} of {steps:,}, validation {validation:.3g}")

        self._advance(0, f"{title}, fitting")
        network, facts = fitted_network(
            candidate,
            checked,
            self._procedure(candidate.probe),
            self._settings.grid.budgets(),
            seed=self._settings.seed,
            folder=None if self._folder is None else self._folder / FITS,
            progress=progress,
        )
        self._cells.keep_network(candidate.plan, facts)
        return network

    def _measure_oracle_of(self, candidate: Candidate, look: int) -> None:
        """Measure the oracle at the same look as its network.

        Both then have equal sample sizes, and their difference, the gap, is paired.
        """
        plan = candidate.plan.with_oracle()
        if self._cells.unfit(plan) is not None:
            return
        try:
            self._look(plan, self._procedure(candidate.probe), look)
        except ControlFlow:
            raise
        except Exception as error:  # the oracle's own result states the reason
            logger.exception("%s has no oracle to be compared with", candidate.plan.title)
            self._cells.note(plan, _reason(error))

    def _measure_suspects(self, probe: AnyProbe, look: int) -> None:
        """Measure a probe at the largest budget with each suspected cause of its floor removed."""
        for suspect in probe.suspects():
            plan, largest = plan_of(suspect.probe), self._settings.grid.largest
            try:
                self._look(plan, self._procedure(suspect.probe), look, [largest])
            except UnfitError as error:  # the changed procedure has no oracle on this target
                logger.info("%s is no suspect: %s", plan.title, error)
            except ControlFlow:
                raise
            except Exception:  # the family itself was measured, and keeps its result
                logger.exception("%s, a suspect, failed", plan.title)

    def _measure_rounded(self, plan: FamilyPlan, procedure: AnyProcedure, look: int) -> None:
        """Measure the whole grid again in each precision that the settings name."""
        for precision in self._settings.precisions:
            rounded = plan.rounded(precision)
            with self._failures_noted(rounded):
                self._look(rounded, procedure.rounded(precision), look, precise=procedure)

    def _measure_perturbed(
        self, plan: FamilyPlan, procedure: AnyProcedure, look: int, budget: Budget
    ) -> None:
        """Measure one budget with oracle errors of each kind and size that the settings name."""
        for kind, size in itertools.product(PERTURBATIONS, self._settings.sensitivity):
            perturbed = plan.with_network(PerturbedNetwork(perturbation=kind, size=size))
            with self._failures_noted(perturbed), contextlib.suppress(NotPerturbed):
                self._look(perturbed, procedure.perturbed(kind, size), look, [budget])

    @contextlib.contextmanager
    def _failures_noted(self, plan: FamilyPlan) -> Iterator[None]:
        """Keep the reason why an additional measurement failed; the result stands without it."""
        try:
            yield
        except ControlFlow:
            raise
        except Exception as error:
            logger.exception("%s failed", plan.title)
            self._cells.note(plan, _reason(error))

    def _look(
        self,
        plan: FamilyPlan,
        procedure: AnyProcedure,
        look: int,
        budgets: Sequence[Budget] | None = None,
        *,
        precise: AnyProcedure | None = None,
    ) -> None:
        """Measure the cells of one look that the run does not hold yet.

        Args:
            plan: Plan of the cells.
            procedure: Procedure of the plan, with the plan's network.
            look: Number of the look, 0 for the first.
            budgets: Budgets to measure, or None for the whole grid.
            precise: For a procedure in fewer digits, the same procedure in all digits.
        """
        budgets = self._settings.grid.budgets() if budgets is None else budgets
        keys = {budget: self._assembly.key(plan, budget, look) for budget in budgets}
        missing = [budget for budget, key in keys.items() if self._cells.get(key) is None]
        if len(missing) < len(budgets):
            self._advance(len(budgets) - len(missing), f"{plan.title}, from the store")
        if not missing:
            return
        if precise is None:
            sweep = self._sweep(plan, procedure, look)
        else:
            of = plan.network.of if isinstance(plan.network, RoundedNetwork) else plan.network
            own = self._sweep(plan.with_network(of), precise, look)
            sweep = RoundedSweep(own, procedure, *self._measure_of(look), batch=self._batch)
        for group in sweep.runs(missing):
            self._advance(0, f"{plan.title}, {group[-1]}")
            for cell in sweep.measure(group):
                with _callers_errors():  # the folder may hold other numbers for this cell
                    self._cells.keep(keys[cell.budget], cell)
                self._advance(1, f"{plan.title}, {cell.budget}")

    def _sweep(self, plan: FamilyPlan, procedure: AnyProcedure, look: int) -> Sweep:
        """The sweep of a plan at a look; its runs are kept until its candidate is measured."""
        key = (json.dumps(plan.to_json(), sort_keys=True), look)
        if key not in self._sweeps:
            diagnose = () if plan.network.kind == "perturbed" else self._settings.diagnose
            self._sweeps[key] = Sweep(
                procedure, *self._measure_of(look), batch=self._batch, diagnose=diagnose
            )
        return self._sweeps[key]

    def _measure_of(self, look: int) -> tuple[Reference, Observer, Settings]:
        """The reference, observer and settings that all cells of a look share."""
        settings = self._settings.at(look)
        if settings.samples not in self._references:
            self._advance(0, "target draws and null floors")
            with _callers_errors():
                reference = Reference(
                    self._target,
                    divergences=tuple(settings.tolerances),
                    samples=settings.samples,
                    seed=settings.seed,
                    replicate=settings.replicate,
                    level=settings.level,
                )
                observer = Observer(self._target, reference.draws)
            self._references[settings.samples] = reference, observer
        return (*self._references[settings.samples], settings)

    def _advance(self, cells: int, running: str) -> None:
        self._done += cells if self._counting else 0
        logger.info("%s", running)
        if self._progress is not None:
            cells = len(self._settings.grid.budgets())
            total = len(self._candidates) * cells * self._settings.looks
            try:
                self._progress(Progress(done=min(self._done, total), total=total, running=running))
            except Exception as error:
                raise _CallersError(
                    f"progress must be a function of a Progress, and raised "
                    f"{type(error).__name__}: {error}."
                ) from error

    def _open(self, measured_by: MeasuredBy) -> Cells:
        if self._folder is None:
            return Cells(measured_by)
        manifest = Manifest(
            measured_by=measured_by,
            environment=environment(),
            target=self._summary,
            settings=self._settings,
            families=tuple(candidate.entry for candidate in self._candidates),
        )
        return Store.create(self._folder, manifest)

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        """Write a log to the run's folder, if there is one."""
        if self._folder is None:
            yield
            return
        handler = logging.FileHandler(self._folder / LOG, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            handler.close()


class _CallersError(ControlFlow):
    """An argument of the caller is wrong, which shows only while the run makes use of it."""


@contextlib.contextmanager
def _callers_errors() -> Iterator[None]:
    """Turn an InputError about the caller's arguments into a `_CallersError`.

    The class sets it apart from an InputError that the code of a family raises.
    """
    try:
        yield
    except InputError as error:
        raise _CallersError(str(error)) from error


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Switch TF32 arithmetic off, and restore the caller's setting afterwards."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


def _measured_by(candidates: Sequence[Candidate]) -> MeasuredBy:
    probes = [one.probe for one in candidates]
    probes += [suspect.probe for probe in probes for suspect in probe.suspects()]
    families = {probe.family: class_digest(type(probe)) for probe in probes}
    return MeasuredBy(version=__version__, code=code_digest(), families=families)


def _reason(error: Exception) -> str:
    """The message of an error, behind the name of its class unless it is one of capcheck's."""
    return str(error) if isinstance(error, CapcheckError) else f"{type(error).__name__}: {error}"


def _summary(target: Target, seed: int) -> TargetSummary:
    spec = target.spec
    return TargetSummary(
        fingerprint=target.fingerprint,
        tokens=spec.tokens,
        dim=spec.dim,
        kind=spec.kind,
        grid=spec.grid,
        spread=spec.spread,
        provenance=target.provenance,
        examples=examples(target.sample(EXAMPLES, CounterRandomness(seed, name="target"))),
    )
