"""The store: a run is a folder with `manifest.json` and an append-only `cells.jsonl`.

The manifest is written first and never changed; every cell is one line, fsynced, keyed by the hash
of everything that its numbers depend on. A run that was killed at any moment resumes where it was:
a half-written last line is ignored. Nothing read from a run is executed.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import reprlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from capcheck.errors import InputError
from capcheck.findings import failed, find, plan_of, unsupported, wrong_kind
from capcheck.probe import AnyProbe, Suspect
from capcheck.registry import build_probe
from capcheck.results import (
    SCHEMA_VERSION,
    FamilyPlan,
    FamilyResult,
    Measurement,
    Settings,
    SurveyResult,
    TargetSummary,
)
from capcheck.sweep import cell_key
from capcheck.version import __version__

MANIFEST, CELLS = "manifest.json", "cells.jsonl"
PARTIAL = ".*.partial"  # what a process killed while writing a file leaves behind


class Manifest(BaseModel):
    """What a run is: everything that is needed to continue it or to report on it.

    Attributes:
        schema_version: Of this file and of the cells.
        capcheck_version: That made the run.
        environment: Versions and machine facts that numbers may depend on in the last digits.
        target: What is measured against.
        settings: How.
        families: In which order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    schema_version: int = SCHEMA_VERSION
    capcheck_version: str = __version__
    environment: dict[str, str]
    target: TargetSummary
    settings: Settings
    families: tuple[FamilyPlan, ...]


def environment() -> dict[str, str]:
    """Versions that numbers may depend on."""
    packages = ("torch", "numpy", "scipy", "scikit-learn", "POT")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{package: version(package) for package in packages},
    }


class Store:
    """A run folder, open for reading and appending.

    Args:
        folder: The folder; see `create` and `open`.
        manifest: Its manifest.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._cells, self._unfit = _read_cells(folder / CELLS)

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> Store:
        """Start a run, or continue the same one that the folder holds; diagnoses may change.

        Raises:
            InputError: The folder holds another run, or files that are no run.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / MANIFEST).exists():
                held = read_manifest(folder)
                _require_same(held, manifest, folder)
                if held.settings != manifest.settings:  # other diagnoses; the cells can stay
                    held = held.model_copy(update={"settings": manifest.settings})
                    write_atomically(folder / MANIFEST, held.model_dump_json(indent=2) + "\n")
                return cls(folder, held)
            if any(not name.match(PARTIAL) for name in folder.iterdir()):
                raise InputError(
                    f"out must be a new folder or a run's, got {str(folder)!r}, which holds other "
                    "files; give another folder."
                )
            write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise InputError(
                f"out must be a folder that can be written, got {str(folder)!r}: {error.strerror}."
            ) from None
        return cls(folder, manifest)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open a run for reading.

        Raises:
            InputError: The folder holds no run that this version can read.
        """
        return cls(folder, read_manifest(folder))

    def __contains__(self, key: str) -> bool:
        return key in self._cells

    def __getitem__(self, key: str) -> Measurement:
        return self._cells[key]

    def append(self, key: str, measurement: Measurement) -> None:
        """Add a cell; when this returns, it survives a crash."""
        if key in self._cells:
            if self._cells[key] != measurement:
                raise InputError(
                    f"out {str(self.folder)!r} holds other numbers for {measurement.budget}; "
                    "give another folder."
                )
            return
        self._write({"key": key, "cell": measurement.model_dump(mode="json")})
        self._cells[key] = measurement

    def note(self, plan: FamilyPlan, reason: str) -> None:
        """Keep why a family cannot be measured on the target."""
        if self._unfit.get(_identity(plan)) != reason:
            self._write({"unfit": _identity(plan), "reason": reason})
            self._unfit[_identity(plan)] = reason

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record)
        with (self.folder / CELLS).open("ab+") as file:
            # A killed process may have left half a line behind.
            torn = file.tell() > 0 and _last_byte(file) != b"\n"
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def result(self) -> SurveyResult:
        """The run's result, judged anew from its cells.

        A family that lacks cells (it failed, or was interrupted) is listed as not measured.

        Raises:
            InputError: No family is complete.
        """
        manifest = self.manifest
        families = tuple(self._family(plan) for plan in manifest.families)
        if not any(found.cells for found in families):
            reasons = "; ".join(found.reason for found in families)
            raise InputError(f"run {str(self.folder)!r} has no complete family: {reasons}")
        return SurveyResult(
            capcheck_version=manifest.capcheck_version,
            environment=manifest.environment,
            target=manifest.target,
            settings=manifest.settings,
            families=families,
        )

    def _family(self, plan: FamilyPlan) -> FamilyResult:
        manifest = self.manifest
        probe = build_probe(plan.family, plan.options)
        kind = manifest.target.kind
        if kind not in probe.kinds:
            return unsupported(probe, plan, wrong_kind(probe, kind))
        looks = [self._look(plan, look) for look in range(manifest.settings.looks)]
        complete = [(look, cells) for look, cells in enumerate(looks) if None not in cells]
        if not complete and (reason := self._unfit.get(_identity(plan))) is not None:
            return unsupported(probe, plan, reason)
        if not complete:
            lack = f"{looks[0].count(None)} of its {len(looks[0])} cells"
            return failed(probe, plan, f"{plan.family} lacks {lack}; run the command again.")
        look, held = complete[-1]
        cells = [cell for cell in held if cell is not None]
        return find(probe, plan, cells, manifest.settings, self._cured(probe, look))

    def _cured(self, probe: AnyProbe, look: int) -> list[tuple[Suspect, Measurement]]:
        """The largest budget of a probe without each suspect, where it was measured."""
        settings, fingerprint = self.manifest.settings.at(look), self.manifest.target.fingerprint
        keys = [
            (
                suspect,
                cell_key(plan_of(suspect.probe), settings.grid.largest, settings, fingerprint),
            )
            for suspect in probe.suspects()
        ]
        return [(suspect, self._cells[key]) for suspect, key in keys if key in self._cells]

    def _look(self, plan: FamilyPlan, look: int) -> list[Measurement | None]:
        """The cells of one look, in the order of the grid; None where one is missing."""
        settings, fingerprint = self.manifest.settings.at(look), self.manifest.target.fingerprint
        keys = [cell_key(plan, budget, settings, fingerprint) for budget in settings.grid.budgets()]
        return [self._cells.get(key) for key in keys]


def save(result: SurveyResult, folder: Path) -> Path:
    """Write a result as a run folder; returns the folder.

    Raises:
        InputError: The folder holds something else, or cannot be written.
    """
    plans = tuple(
        FamilyPlan(family=found.family, options=found.options, network=found.network)
        for found in result.families
    )
    manifest = Manifest(
        environment=result.environment,
        target=result.target,
        settings=result.settings,
        families=plans,
    )
    store = Store.create(folder, manifest)
    for plan, found in zip(plans, result.families, strict=True):
        if not found.supported:
            store.note(plan, found.reason)
        of_causes = [(cause.plan, cause.cell) for cause in found.causes]
        for own, cell in [*((plan, cell) for cell in found.cells), *of_causes]:
            settings = result.settings.model_copy(update={"samples": cell.samples})
            key = cell_key(own, cell.budget, settings, result.target.fingerprint)
            store.append(
                key, Measurement(**{n: getattr(cell, n) for n in Measurement.model_fields})
            )
    return folder


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a run.

    Raises:
        InputError: There is none, or it is not one that this version can read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"run {str(folder)!r} has no {MANIFEST}; give the folder of a saved run.")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        found = facts.get("schema_version") if isinstance(facts, dict) else None
        if found != SCHEMA_VERSION:
            raise InputError(
                f"run {str(folder)!r} has schema version {found}, and this capcheck reads "
                f"{SCHEMA_VERSION}; use the version that made it."
            )
        return Manifest.model_validate(facts)
    except (ValueError, ValidationError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"run {str(folder)!r} has a {MANIFEST} that is damaged; restore it or start anew."
        ) from None


def write_atomically(path: Path, text: str) -> Path:
    """Write a file so that a reader sees all of it or none; returns the path.

    Raises:
        InputError: The file cannot be written there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}.") from None
    return path


def _identity(plan: FamilyPlan) -> str:
    return json.dumps(plan.model_dump(mode="json", include=set(FamilyPlan.model_fields)))


def _read_cells(path: Path) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Cells, and why families have none; torn and foreign lines are as good as missing."""
    cells: dict[str, Measurement] = {}
    unfit: dict[str, str] = {}
    if not path.is_file():
        return cells, unfit
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            if "unfit" in record:
                unfit[str(record["unfit"])] = str(record["reason"])
                continue
            cells[record["key"]] = Measurement.model_validate(record["cell"])
        except (ValueError, KeyError, TypeError):
            continue
    return cells, unfit


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _require_same(held: Manifest, asked: Manifest, folder: Path) -> None:
    # Examples are a function of the rest; no other number depends on diagnoses.
    free: dict[str, Any] = {"target": {"examples"}, "settings": {"diagnose"}}
    for field, here, there in _differences(
        held.model_dump(mode="json", exclude=free), asked.model_dump(mode="json", exclude=free)
    ):
        raise InputError(
            f"out {str(folder)!r} holds another run: its {field} is {reprlib.repr(here)}, and now "
            f"{reprlib.repr(there)} was asked for; give another folder, or delete this one."
        )


def _differences(a: Any, b: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of the leaves in which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _differences(a.get(key), b.get(key), f"{field}.{key}".lstrip("."))
    elif a != b:
        yield field, a, b
