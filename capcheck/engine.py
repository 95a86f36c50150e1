"""The engine: one run over some probes, from checked settings to judged results.

It places the target, opens the store, measures the cells that the store lacks and reports progress.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, TypedDict

import torch

from capcheck.budget import Budget, Grid
from capcheck.diagnosis import chosen_diagnoses
from capcheck.divergences import DEFAULT, chosen, tolerances
from capcheck.divergences.reference import Reference
from capcheck.errors import InputError, UnfitError, near
from capcheck.findings import failed, find, has_floor, plan_of, unsupported, wrong_kind
from capcheck.given import require_given
from capcheck.probe import AnyProbe, Suspect
from capcheck.randomness import CounterRandomness
from capcheck.results import (
    FamilyPlan,
    FamilyResult,
    Measurement,
    Outcome,
    Settings,
    SurveyResult,
    TargetSummary,
)
from capcheck.store import Manifest, Store, environment
from capcheck.sweep import EXAMPLES, Sweep, cell_key, examples
from capcheck.targets.target import Target
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


class Engine:
    """One run over some probes.

    Args:
        target: What they should produce.
        probes: The families' procedures.
        measuring: How to measure.
        network: A network in the oracle's place, for all probes.

    Raises:
        InputError: Something was asked for that is not possible.
    """

    def __init__(
        self,
        target: Target,
        probes: Sequence[AnyProbe],
        measuring: Measuring,
        network: Callable[..., Any] | None = None,
    ) -> None:
        for name in measuring:
            if name not in Measuring.__annotations__:
                raise InputError(f"{name!r} is no keyword; {near(name, Measuring.__annotations__)}")
        device, dtype = _placement(measuring.get("device", "auto"))
        self._target = target.to(device=device, dtype=dtype)
        self._settings = _settings(target, measuring, device, dtype)
        self._summary = _summary(target, self._settings.seed)
        self._probes = probes
        if network is not None and self._settings.given:
            raise InputError(
                "given needs the oracle of a conditional law, got a network; wrap the network so "
                "that it is shown the tokens, and leave given out."
            )
        self._network = network
        self._batch = _whole("batch", measuring.get("batch", 1024), 1)
        self._progress = measuring.get("progress")
        self._done = 0
        self._store = self._open(measuring.get("out"))
        self._references: dict[int, Reference] = {}  # by number of samples

    def run(self, *, errors_are_results: bool) -> SurveyResult:
        """Measure every probe; one that fails becomes a result with an error, or raises."""
        found: list[FamilyResult] = []
        for probe in self._probes:
            plan = plan_of(probe, given=self._network is not None)
            try:
                found.append(self._family(probe, plan))
            except UnfitError as unfit:
                if not errors_are_results:
                    raise
                if self._store is not None:
                    self._store.note(plan, str(unfit))
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

    def _family(self, probe: AnyProbe, plan: FamilyPlan) -> FamilyResult:
        if self._target.spec.kind not in probe.kinds:
            return unsupported(probe, plan, wrong_kind(probe, self._target.spec.kind))
        for look in range(self._settings.looks):
            cells = self._look(probe, plan, self._settings.at(look))
            found = find(probe, plan, cells, self._settings)
            if found.outcome is not Outcome.INCONCLUSIVE:
                skipped = self._settings.looks - 1 - look
                self._advance(skipped * len(cells), f"{probe.family}, decided")
                break
        if not has_floor(found):
            return found
        return find(probe, plan, cells, self._settings, self._cured(probe, self._settings.at(look)))

    def _cured(self, probe: AnyProbe, settings: Settings) -> list[tuple[Suspect, Measurement]]:
        """What a probe with a floor does at the largest budget without each of its suspects."""
        found: list[tuple[Suspect, Measurement]] = []
        if self._network is not None:
            return found  # another procedure may need another network
        for suspect in probe.suspects():
            grid = Grid.model_validate(
                {"lengths": settings.grid.lengths[-1:], "steps": settings.grid.steps[-1:]}
            )
            largest = settings.model_copy(update={"grid": grid})
            done = self._done
            try:
                (cell,) = self._look(suspect.probe, plan_of(suspect.probe), largest)
            except UnfitError:
                continue  # its network has no oracle on this target
            finally:
                self._done = done  # it is no cell of the grid
            found.append((suspect, cell))
        return found

    def _look(self, probe: AnyProbe, plan: FamilyPlan, settings: Settings) -> list[Measurement]:
        """All cells of a family at one number of samples, from the store where it has them."""
        budgets = settings.grid.budgets()
        keys = {
            budget: cell_key(plan, budget, settings, self._summary.fingerprint)
            for budget in budgets
        }
        cells: dict[Budget, Measurement] = {}
        if self._store is not None:
            held = {b: self._store[key] for b, key in keys.items() if key in self._store}
            cells.update(held)
            if held:
                self._advance(len(held), f"{probe.family}, from the store")
        missing = [budget for budget in budgets if budget not in cells]
        for budget, cell in self._measure(probe, missing, settings):
            if self._store is not None:
                self._store.append(keys[budget], cell)
            cells[budget] = cell
        return [cells[budget] for budget in budgets]

    def _measure(
        self, probe: AnyProbe, budgets: Sequence[Budget], settings: Settings
    ) -> Iterable[tuple[Budget, Measurement]]:
        if not budgets:
            return
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
        for cell in self._cells(probe, budgets, settings):
            yield cell.budget, cell
            self._advance(1, f"{probe.family}, {cell.budget}")

    def _cells(
        self, probe: AnyProbe, budgets: Sequence[Budget], settings: Settings
    ) -> Iterator[Measurement]:
        try:
            sweep = Sweep(
                probe,
                self._target,
                self._references[settings.samples],
                settings,
                batch=self._batch,
                network=self._network,
            )
            for group in sweep.runs(budgets):
                self._advance(0, f"{probe.family}, {group[-1]}")
                yield from sweep.measure(group)
        except InputError as error:  # of an oracle, a basis or an option on this target
            raise UnfitError(str(error)) from error

    def _advance(self, cells: int, running: str) -> None:
        self._done += cells
        if self._progress is not None:
            cells = len(self._settings.grid.budgets())
            total = len(self._probes) * cells * self._settings.looks
            self._progress(Progress(done=self._done, total=total, running=running))

    def _open(self, out: str | Path | None) -> Store | None:
        if out is None:
            return None
        manifest = Manifest(
            environment=environment(),
            target=self._summary,
            settings=self._settings,
            families=tuple(
                plan_of(probe, given=self._network is not None) for probe in self._probes
            ),
        )
        return Store.create(Path(out), manifest)


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
    )


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
