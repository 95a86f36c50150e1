"""The engine: one run over some probes, from checked settings to judged results.

It places the target, opens the store, measures the cells that the store lacks and reports progress.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from capcheck.assembly import Assembly, sensitive_budget
from capcheck.budget import Budget
from capcheck.cells import PLAIN, Cells, Variant
from capcheck.chart import chart_of
from capcheck.divergences.reference import Reference
from capcheck.errors import InputError, UnfitError
from capcheck.findings import failed, has_floor, plan_of, unsupported, wrong_kind
from capcheck.fitting import Fitted, fit
from capcheck.measuring import (
    Measuring,
    Progress,
    placement,
    require_known,
    settings_of,
    whole_number,
)
from capcheck.network import Named, facts_of, is_architecture, make, placed, require_fittable
from capcheck.probe import AnyProbe
from capcheck.randomness import CounterRandomness
from capcheck.records import FamilyPlan, Outcome, Settings, TargetSummary
from capcheck.results import FamilyResult, SurveyResult
from capcheck.rounded import RoundedSweep
from capcheck.sensitivity import PERTURBATIONS, NotPerturbed, perturbed
from capcheck.sequences import SequenceSpec
from capcheck.store import FITS, Manifest, Store, environment
from capcheck.sweep import EXAMPLES, Sweep, examples
from capcheck.targets.target import Target
from capcheck.trial import answers_of, require_density
from capcheck.version import __version__


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """A probe with a network, to be measured.

    Attributes:
        probe: The procedure.
        plan: What is measured of it.
        network: Where the plan's network comes from, or None for the oracle.
    """

    probe: AnyProbe
    plan: FamilyPlan
    network: Named | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Made:
    """A network before it is fitted.

    Attributes:
        module: What a fit begins with.
        network: As a procedure calls it.
        spec: Of the sequences in the probe's coordinates.
        name: For sentences.
        answers: What tells it from others of the same structure and weights.
    """

    module: Any
    network: Callable[..., Any]
    spec: SequenceSpec
    name: str
    answers: str


class Engine:
    """One run over some probes.

    Args:
        target: What they should produce.
        contenders: The families' procedures with their networks. One with a network of its own
            comes behind the same one with the oracle.
        measuring: How to measure.

    Raises:
        InputError: Something was asked for that is not possible.
    """

    def __init__(
        self, target: Target, contenders: Sequence[Contender], measuring: Measuring
    ) -> None:
        require_known(measuring)
        device, dtype = placement(measuring.get("device", "auto"))
        self._target = target.to(device=device, dtype=dtype)
        self._settings = settings_of(target, measuring, device, dtype)
        self._summary = _summary(target, self._settings.seed)
        self._contenders = contenders
        self._require_possible()
        self._batch = whole_number("batch", measuring.get("batch", 1024), 1)
        self._progress = measuring.get("progress")
        self._done, self._counting = 0, True
        out = measuring.get("out")
        self._folder = None if out is None else Path(out)
        self._made: dict[str, _Made] = {}  # by title of the plan
        self._references: dict[int, Reference] = {}  # by number of samples

    def run(self, *, errors_are_results: bool) -> SurveyResult:
        """Measure every contender; one that fails becomes a result with an error, or raises.

        An oracle that a target rules out is a result of its own where a network stands beside it.
        """
        if not errors_are_results:  # before a folder is begun for nothing
            for contender in self._contenders:
                self._network(contender)
        self._cells = self._open()
        self._assembly = Assembly(self._cells, self._settings, self._summary)
        found: list[FamilyResult] = []
        for contender in self._contenders:
            probe, plan = contender.probe, contender.plan
            try:
                found.append(self._family(contender))
            except UnfitError as unfit:
                if not (errors_are_results or self._stands_beside(contender)):
                    raise
                self._cells.note(plan, str(unfit))
                found.append(unsupported(probe, plan, str(unfit)))
            except InputError:
                raise
            except Exception as error:
                if not errors_are_results:
                    raise
                found.append(failed(probe, plan, f"{type(error).__name__}: {error}"))
        return SurveyResult(
            capcheck_version=__version__,
            environment=environment(),
            target=self._summary,
            settings=self._settings,
            families=tuple(found),
        )

    def _stands_beside(self, contender: Contender) -> bool:
        plans = [other.plan.oracle for other in self._contenders if other.network is not None]
        return contender.network is None and contender.plan in plans

    def _family(self, contender: Contender) -> FamilyResult:
        probe, plan = contender.probe, contender.plan
        if self._target.spec.kind not in probe.kinds:
            return unsupported(probe, plan, wrong_kind(probe, self._target.spec.kind))
        network = self._fitted(contender)
        for look in range(self._settings.looks):
            self._look(probe, plan, look, network)
            found = self._assembly.judged(probe, plan, look)
            if found.outcome is not Outcome.INCONCLUSIVE:
                skipped = self._settings.looks - 1 - look
                self._advance(skipped * len(found.cells), f"{plan.title}, decided")
                break
        self._counting = False  # what follows are no cells of the grid
        if network is not None:
            self._oracle_of(contender, look)
        elif has_floor(found):
            self._cure(probe, look)
        self._round(probe, plan, look, network)
        if network is None:
            self._perturb(probe, plan, look, sensitive_budget(found))
        self._counting = True
        return self._assembly.judged(probe, plan, look)

    def _network(self, contender: Contender) -> _Made | None:
        """What a contender's network is made of, once it was tried out."""
        title = contender.plan.title
        if contender.network is None or title in self._made:
            return self._made.get(title)
        probe, named = contender.probe, contender.network
        try:
            spec = chart_of(probe, self._target).target.spec
            module = make(named, probe, spec, seed=self._settings.seed)
            name = contender.plan.network if isinstance(named, str) else type(module).__name__
            network = placed(module, spec, name=name)
            budgets = self._settings.grid.budgets()
            answers = answers_of(network, probe, spec, budgets, name=name)
            require_density(network, probe, spec, name=name)
            if contender.plan.objective is not None:
                require_fittable(module, name=name)
        except InputError as error:  # a survey goes on without it
            raise UnfitError(str(error)) from error
        # Of our own modules the weights say everything, to the last digit.
        answers = "" if is_architecture(named) else answers
        self._made[title] = _Made(
            module=module, network=network, spec=spec, name=name, answers=answers
        )
        return self._made[title]

    def _fitted(self, contender: Contender) -> Callable[..., Any] | None:
        """What stands in the oracle's place: fitted, or as it is."""
        made = self._network(contender)
        if made is None:
            return None
        fitted = None if contender.plan.objective is None else self._fit(contender, made)
        network = made.network if fitted is None else fitted.network
        facts = facts_of(network, fitted, answers=made.answers)
        self._cells.keep_network(contender.plan, facts)
        return network

    def _fit(self, contender: Contender, made: _Made) -> Fitted:
        probe, plan = contender.probe, contender.plan

        def progress(step: int, steps: int, validation: float) -> None:
            self._advance(
                0, f"{plan.title}, step {step:,} of {steps:,}, validation {validation:.3g}"
            )

        self._advance(0, f"{plan.title}, fitting")
        limit: dict[str, Any] = {"steps": plan.fit_steps}
        if plan.fit_seconds is not None:
            limit = {"seconds": plan.fit_seconds}
        try:
            fitted = fit(
                probe,
                self._target,
                made.module,
                budgets=self._settings.grid.budgets(),
                seed=self._settings.seed,
                folder=None if self._folder is None else self._folder / FITS,
                progress=progress,
                objective=plan.objective or "oracle",
                distinction=made.answers,
                **limit,
            )
            require_density(fitted.network, probe, made.spec, name=made.name)  # it has moved
        except InputError as error:
            raise UnfitError(str(error)) from error
        except Exception as error:
            if is_architecture(contender.network or ""):
                raise
            raise UnfitError(
                f"network {made.name} could not be fitted, and raised {type(error).__name__}: "
                f"{error}."
            ) from error
        return fitted

    def _oracle_of(self, contender: Contender, look: int) -> None:
        """What a network's gap is measured from, with as many draws."""
        probe, plan = contender.probe, contender.plan.oracle
        if self._cells.unfit(plan) is None:
            with contextlib.suppress(Exception):  # then there is no gap; it has its own result
                self._look(probe, plan, look, None)

    def _cure(self, probe: AnyProbe, look: int) -> None:
        """Measure a probe with a floor at the largest budget without each of its suspects."""
        for suspect in probe.suspects():
            with contextlib.suppress(UnfitError):  # its network has no oracle on this target
                plan = plan_of(suspect.probe)
                self._look(suspect.probe, plan, look, None, [self._settings.grid.largest])

    def _round(self, probe: AnyProbe, plan: FamilyPlan, look: int, network: Any) -> None:
        """Measure everything again in fewer digits, as was asked for."""
        for precision in self._settings.precisions:
            variant = Variant(precision=precision)
            try:
                self._look(probe, plan, look, network, variant=variant)
            except Exception as error:  # what was measured before is not lost
                self._cells.note(plan, _told(error), variant)

    def _perturb(self, probe: AnyProbe, plan: FamilyPlan, look: int, budget: Budget) -> None:
        """Measure a budget with errors of the oracle, as was asked for."""
        if not self._settings.sensitivity:
            return
        inside = chart_of(probe, self._target).target
        oracle = probe.signature.oracle(inside)
        for kind, size in itertools.product(PERTURBATIONS, self._settings.sensitivity):
            variant = Variant(perturbation=kind, size=size)
            network = perturbed(oracle, kind, size, inside.spec)
            try:
                self._look(probe, plan, look, network, [budget], variant=variant)
            except NotPerturbed:
                continue
            except Exception as error:
                self._cells.note(plan, _told(error), variant)

    def _look(
        self,
        probe: AnyProbe,
        plan: FamilyPlan,
        look: int,
        network: Callable[..., Any] | None,
        budgets: Sequence[Budget] | None = None,
        *,
        variant: Variant = PLAIN,
    ) -> None:
        """Measure what the run lacks of a look: the grid, or the budgets that are named."""
        budgets = self._settings.grid.budgets() if budgets is None else budgets
        places = {b: self._assembly.place(plan, b, look, variant) for b in budgets}
        missing = [b for b, place in places.items() if self._cells.get(place) is None]
        if len(missing) < len(budgets):
            self._advance(len(budgets) - len(missing), f"{plan.title}, from the store")
        if not missing:
            return
        settings = self._settings.at(look)
        words = plan.title if variant == PLAIN else f"{plan.title}, {variant}"
        try:
            sweep = self._sweep(probe, settings, network, variant)
            for group in sweep.runs(missing):
                self._advance(0, f"{words}, {group[-1]}")
                for cell in sweep.measure(group):
                    self._cells.keep(places[cell.budget], cell)
                    self._advance(1, f"{words}, {cell.budget}")
        except InputError as error:  # of an oracle, a basis or an option on this target
            raise UnfitError(str(error)) from error

    def _sweep(self, probe: AnyProbe, settings: Settings, network: Any, variant: Variant) -> Sweep:
        if settings.samples not in self._references:
            self._advance(0, "target draws and null floors")
            self._references[settings.samples] = Reference(
                self._target,
                divergences=tuple(settings.tolerances),
                samples=settings.samples,
                seed=settings.seed,
                replicate=settings.replicate,
                level=settings.level,
            )
        what = (probe, self._target, self._references[settings.samples], settings)
        if variant.precision is not None:
            return RoundedSweep(variant.precision, *what, batch=self._batch, network=network)
        diagnosed = variant == PLAIN
        return Sweep(*what, batch=self._batch, network=network, diagnosed=diagnosed)

    def _advance(self, cells: int, running: str) -> None:
        self._done += cells if self._counting else 0
        if self._progress is not None:
            cells = len(self._settings.grid.budgets())
            total = len(self._contenders) * cells * self._settings.looks
            self._progress(Progress(done=min(self._done, total), total=total, running=running))

    def _require_possible(self) -> None:
        if not self._settings.given:
            return
        if any(contender.network is not None for contender in self._contenders):
            raise InputError(
                "given needs the oracle of a conditional law, got a network; wrap the network so "
                "that it is shown the tokens, and leave given out."
            )
        for name in ("precisions", "sensitivity"):
            if getattr(self._settings, name):
                raise InputError(
                    f"{name.removesuffix('s')} is measured of whole sequences, got given as well; "
                    "leave one of them out."
                )

    def _open(self) -> Cells:
        if self._folder is None:
            return Cells()
        manifest = Manifest(
            environment=environment(),
            target=self._summary,
            settings=self._settings,
            families=tuple(contender.plan for contender in self._contenders),
        )
        return Store.create(self._folder, manifest)


def _told(error: Exception) -> str:
    """A sentence as it is, and another failure with its kind."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


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
