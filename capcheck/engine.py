"""The engine: one run over some probes, from checked settings to judged results.

It places the target, opens the store, measures the cells that the store lacks and reports progress.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, TypedDict

import torch

from capcheck.assembly import Assembly, sensitive_budget
from capcheck.budget import Budget, Grid
from capcheck.cells import PLAIN, Cells, Variant
from capcheck.chart import chart_of
from capcheck.diagnosis import chosen_diagnoses
from capcheck.divergences import DEFAULT, chosen, tolerances
from capcheck.divergences.reference import Reference
from capcheck.errors import InputError, UnfitError, near
from capcheck.findings import failed, has_floor, plan_of, unsupported, wrong_kind
from capcheck.fitting import Fitted, fit
from capcheck.given import require_given
from capcheck.network import Named, facts_of, is_architecture, make, placed, require_fittable
from capcheck.precision import chosen_precisions
from capcheck.probe import AnyProbe
from capcheck.randomness import CounterRandomness
from capcheck.records import FamilyPlan, Outcome, Settings, TargetSummary
from capcheck.results import FamilyResult, SurveyResult
from capcheck.rounded import RoundedSweep
from capcheck.sensitivity import PERTURBATIONS, SIZES, NotPerturbed, perturbed
from capcheck.store import FITS, Manifest, Store, environment
from capcheck.sweep import EXAMPLES, Sweep, examples
from capcheck.targets.target import Target
from capcheck.trial import answers_of, require_density
from capcheck.version import __version__

LEAST_SAMPLES = 200  # below, the groups that pair cells hold too few rows
MOST_LOOKS = 10  # a thousand times the samples of the first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Cells measured or found in the store.
        total: Cells of the run.
        running: What runs now, in a few words.
    """

    done: int
    total: int
    running: str


class Measuring(TypedDict, total=False):
    """Keywords of `check`, `survey` and `require`.

    Attributes:
        lengths: Token budgets in 0..N; by default 0, N // 2 and N.
        steps: Iteration budgets of at least 1; by default 1, 4 and 16.
        divergences: Which to measure of `kl`, `wasserstein`, `mmd`, `reverse_kl` and
            `total_variation`; the first three by default.
        tolerance: Tolerance of each, in the units of `capcheck.divergences`.
        precision: In which of `float32`, `bfloat16`, `float16` and `float8` (of answers only) every
            budget is run again; none by default.
        sensitivity: Sizes of errors of the oracle to try out, or True for 0.03, 0.1 and 0.3; an
            error of size 1 is as large as a token's deviation (see `capcheck.sensitivity`).
        diagnose: Further tests of the draws at each family's largest budget, of `classifier`,
            `stein`, `permutation` and `neighbours`; none by default, and no verdict hears them.
        samples: Draws of target and model in every cell, at least 200; 2,000 by default.
        given: Indices of tokens that are known from the start, with values drawn from the target;
            lengths count the others, and divergences are of the joint law.
        looks: Times that an undecided family may be drawn, each with twice the samples of the time
            before; 1 by default. The error of the verdicts is shared by all looks.
        seed: Seed of all draws, 0 by default.
        level: Confidence of intervals and verdicts, 0.95 by default.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:1`.
        batch: Sample rows per batch, 1,024 by default; no draw depends on it.
        out: Folder to keep the run in; the same call continues a killed run.
        progress: Called before each run and after each cell.
    """

    lengths: Iterable[int] | None
    steps: Iterable[int] | None
    divergences: Sequence[str]
    tolerance: Mapping[str, float] | None
    precision: str | Sequence[str] | None
    sensitivity: bool | float | Sequence[float] | None
    diagnose: Sequence[str]
    samples: int
    given: Sequence[int]
    looks: int
    seed: int
    level: float
    device: str
    batch: int
    out: str | Path | None
    progress: Callable[[Progress], None] | None


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
        name: For sentences.
        answers: What tells it from others of the same structure and weights.
    """

    module: Any
    network: Callable[..., Any]
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
        for name in measuring:
            if name not in Measuring.__annotations__:
                raise InputError(f"{name!r} is no keyword; {near(name, Measuring.__annotations__)}")
        device, dtype = _placement(measuring.get("device", "auto"))
        self._target = target.to(device=device, dtype=dtype)
        self._settings = _settings(target, measuring, device, dtype)
        self._summary = _summary(target, self._settings.seed)
        self._contenders = contenders
        self._require_possible()
        self._batch = _whole("batch", measuring.get("batch", 1024), 1)
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
            require_density(network, spec, name=name)
            if contender.plan.objective is not None:
                require_fittable(module, name=name)
        except InputError as error:  # a survey goes on without it
            raise UnfitError(str(error)) from error
        # Of our own modules the weights say everything, to the last digit.
        answers = "" if is_architecture(named) else answers
        self._made[title] = _Made(module=module, network=network, name=name, answers=answers)
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
            spec = chart_of(probe, self._target).target.spec
            require_density(fitted.network, spec, name=made.name)  # which a start may happen to be
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


def _settings(
    target: Target, measuring: Measuring, device: torch.device, dtype: torch.dtype
) -> Settings:
    names = chosen(measuring.get("divergences", DEFAULT))
    level = measuring.get("level", 0.95)
    if not isinstance(level, float) or not 0.5 <= level < 1:
        raise InputError(f"level must be at least 0.5 and below 1, got {level!r}.")
    given = require_given(measuring.get("given", ()), target.spec.tokens)
    free = target.spec.tokens - len(given)
    return Settings(
        grid=Grid.over(free, measuring.get("lengths"), measuring.get("steps")),
        given=given,
        samples=_whole("samples", measuring.get("samples", 2000), LEAST_SAMPLES),
        looks=_whole("looks", measuring.get("looks", 1), 1, MOST_LOOKS),
        seed=_whole("seed", measuring.get("seed", 0), 0),
        level=level,
        tolerances=tolerances(names, measuring.get("tolerance"), target.spec.kind),
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        diagnose=chosen_diagnoses(measuring.get("diagnose", ())),
        precisions=chosen_precisions(measuring.get("precision", ())),
        sensitivity=_sizes(measuring.get("sensitivity", ())),
    )


def _sizes(given: bool | float | Sequence[float] | None) -> tuple[float, ...]:
    """Sizes of perturbations in rising order."""
    if given is None or isinstance(given, bool):
        return SIZES if given else ()
    if isinstance(given, (int, float, str)):
        given = [given]
    for size in given:
        if isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 < size < 1:
            raise InputError(
                f"sensitivity must be sizes above 0 and below 1, got {size!r}; write 0.03,0.1."
            )
    return tuple(sorted({float(size) for size in given}))


def _whole(field: str, value: Any, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or int(value) < least:
        raise InputError(f"{field} must be a whole number of at least {least}, got {value!r}.")
    if most is not None and int(value) > most:
        raise InputError(f"{field} must be at most {most}, got {value!r}.")
    return int(value)


def _placement(device: str) -> tuple[torch.device, torch.dtype]:
    """Where to run, and in which precision: float64 on the CPU, float32 on an accelerator."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"device must be auto, cpu or cuda[:N], got {device!r}.") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} asks for a GPU, and torch sees none; use cpu.")
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda[:N], got {device!r}.")
    return place, torch.float64 if place.type == "cpu" else torch.float32
