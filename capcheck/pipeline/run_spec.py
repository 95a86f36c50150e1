"""Runs the checks of a spec, each of which becomes a report of its own."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from capcheck.core.errors import InputError, StoreError, near
from capcheck.core.version import class_digest
from capcheck.data import NAMED, Layout, load_target
from capcheck.data.arrays import place_and_name
from capcheck.fitting.named import FACTORY
from capcheck.pipeline.expectations import Status, met_by_family, met_by_sampler, overall
from capcheck.pipeline.kept import Kept
from capcheck.pipeline.source import Source
from capcheck.pipeline.spec import CapacitySpec, CheckSpec, TargetSpec
from capcheck.pipeline.spec_report import CheckReport
from capcheck.procedures.registry import build_probe
from capcheck.results.cost import RunCost
from capcheck.results.survey import CheckResult
from capcheck.runs.options import Progress
from capcheck.runs.planning import cost_of_survey, engine_of_check
from capcheck.samplers.check_sampler import check_sampler
from capcheck.samplers.subject import LIBRARIES
from capcheck.targets.specs import from_spec
from capcheck.targets.target import Target

__all__ = ["SpecRun"]


class SpecRun:
    """The checks of a spec on this machine.

    Args:
        spec: The spec.
        folder: Folder that the paths of its data are relative to.
        out: Folder that runs are kept in, or None to keep none.
        run: Further keywords of `check`, such as `workers` and `device`.
        allowed: Names of functions (`package.module:function`) of the spec that may be imported.
        command: Command that makes the checks, which is kept with their runs.
    """

    def __init__(
        self,
        spec: CapacitySpec,
        *,
        folder: Path,
        out: Path | None,
        run: dict[str, Any],
        allowed: Sequence[str] = (),
        command: str | None = None,
    ) -> None:
        self._spec, self._folder, self._out, self._run = spec, folder, out, run
        self._allowed, self._command = allowed, command
        self._targets: dict[str, Target] = {}

    def chosen(self, names: Sequence[str]) -> list[CheckSpec]:
        """The checks with these names, or all of them if there are none.

        Raises:
            InputError: There is no check of a name.
        """
        known = [check.name for check in self._spec.checks]
        for name in names:
            if name not in known:
                raise InputError(f"there is no check {name!r}; {near(name, known)}")
        return [check for check in self._spec.checks if not names or check.name in names]

    def target(self, name: str) -> Target:
        """A target of the spec, made once.

        Raises:
            InputError: It cannot be made.
        """
        if name not in self._targets:
            self._targets[name] = _target(self._spec.targets[name], self._folder)
        return self._targets[name]

    def report(self, check: CheckSpec, progress: Callable[[Progress], None]) -> CheckReport:
        """Make a check; what goes wrong with its input is its result.

        Args:
            check: The check.
            progress: Function that is told the progress.
        """
        began = time.monotonic()
        subject = check.sampler or f"{check.family} on {check.target}"
        try:
            self._require_allowed(check)
            found = self._sampler(check) if check.sampler else self._family(check, progress)
            statuses = self._judged(check, found)
        except StoreError:  # the folder of all checks cannot be written
            raise
        except InputError as error:
            return CheckReport(
                name=check.name,
                subject=subject,
                status="error",
                reasons=(str(error),),
                why=check.why,
            )
        status = overall(statuses)
        ordered = sorted(statuses, key=lambda one: one[0] == "passed")
        return found.model_copy(
            update={
                "name": check.name,
                "subject": subject,
                "status": status,
                "reasons": tuple(reason for _, reason in ordered),
                "why": check.why,
                "seconds": 0.0 if found.kept else time.monotonic() - began,
            }
        )

    def cost(self, check: CheckSpec, progress: Callable[[Progress], None]) -> RunCost:
        """What a check of a family would cost on this machine, of which nothing is measured.

        Args:
            check: The check.
            progress: Function that is told the progress.

        Raises:
            InputError: The check cannot be made.
        """
        assert check.family is not None
        assert check.target is not None
        self._require_allowed(check)
        began = time.monotonic()
        progress(Progress(done=0, total=0, running=f"{check.name}, reading the target"))
        target = self.target(check.target)
        return cost_of_survey(
            target,
            [build_probe(check.family, check.options)],
            start=time.monotonic() - began,
            network=check.network or "none",
            fit_steps=check.fit_steps,
            progress=progress,
            **_keywords(self._spec.settings(check)),
            **self._run,
        )

    def _require_allowed(self, check: CheckSpec) -> None:
        """Raise InputError if a check names a function that the caller does not allow."""
        functions = [name for name in check.network if FACTORY.fullmatch(name)]
        if check.sampler is not None and check.sampler.partition(":")[0] not in LIBRARIES:
            functions.append(check.sampler)
        for name in functions:
            if name not in self._allowed:
                raise InputError(
                    f"check {check.name!r} names the function {name}, and nothing that a file "
                    f"names is executed; allow it with --allow {name}."
                )

    def _judged(self, check: CheckSpec, found: CheckReport) -> list[tuple[Status, str]]:
        if found.sampler is not None:
            return met_by_sampler(check.expect, found.sampler)
        assert found.survey is not None
        family = CheckResult.of(found.survey).found
        if not family.cells:
            raise InputError(f"{family.title} was not measured: {family.reason}")
        return met_by_family(check.expect, family)

    def _family(self, check: CheckSpec, progress: Callable[[Progress], None]) -> CheckReport:
        assert check.family is not None
        assert check.target is not None
        settings = self._spec.settings(check)
        probe = build_probe(check.family, check.options)
        facts = [
            settings,
            check.model_dump(mode="json", include={"family", "options", "network", "objective"}),
            check.fit_steps,
            class_digest(type(probe)),
            self._run.get("device"),
            _digest(self._spec.targets[check.target], self._folder),
        ]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
        folder = None if self._out is None else self._out / check.name / digest
        by_name = [name for name in check.network if FACTORY.fullmatch(name)]  # its code may change
        kept = Kept(CheckReport, None if by_name or folder is None else folder.parent, facts)
        if (earlier := kept.read()) is not None:
            return earlier.model_copy(update={"kept": True})
        progress(Progress(done=0, total=0, running=f"{check.name}, reading the target"))
        engine = engine_of_check(
            probe,
            self.target(check.target),
            **_keywords(settings),
            network=check.network or None,
            objective=check.objective,
            fit_steps=check.fit_steps,
            out=folder,
            progress=progress,
            command=self._command,
            **self._run,
        )
        survey = engine.run(errors_are_results=False)
        found = CheckReport(
            name=check.name,
            subject="",
            status="passed",
            reasons=(),
            run=None if folder is None else str(folder),
            survey=survey,
        )
        kept.write(found)
        return found

    def _sampler(self, check: CheckSpec) -> CheckReport:
        assert check.sampler is not None
        settings = self._spec.settings(check)
        result = check_sampler(
            check.sampler,
            config=check.config or None,
            **{name: settings[name] for name in ("steps", "seed") if name in settings},
        )
        return CheckReport(name=check.name, subject="", status="passed", reasons=(), sampler=result)


def _keywords(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a check as keywords of `check`."""
    names = {"length": "lengths"}
    return {names.get(name, name): value for name, value in settings.items()}


def _target(spec: TargetSpec, folder: Path) -> Target:
    if spec.spec is not None:
        return from_spec(spec.spec)
    return load_target(_data(spec, folder), _layout(spec), law=spec.law, bandwidth=spec.bandwidth)


def _layout(spec: TargetSpec) -> Layout:
    return Layout(
        tokens=spec.tokens,
        token_dim=spec.token_dim,
        pca=spec.pca,
        grid=spec.grid,
        kind=spec.kind,
        unit=spec.unit,
        split=spec.split,
    )


def _data(spec: TargetSpec, folder: Path) -> str:
    """The path of a target's data, relative to the spec's folder, or the name of known data."""
    assert spec.data is not None
    return spec.data if spec.data in NAMED else str(folder / spec.data)


def _digest(spec: TargetSpec, folder: Path) -> list[Any]:
    """What a target depends on, without making it."""
    facts = spec.model_dump(mode="json")
    if spec.data is None:
        return [facts]
    path = Path(place_and_name(_data(spec, folder))[0])
    if spec.data not in NAMED and not os.path.exists(path):
        raise InputError(f"data {spec.data!r} does not exist in {str(folder)!r}.")
    return [facts, Source(_data(spec, folder), layout=_layout(spec), law=spec.law).digest()]
