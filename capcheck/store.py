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

from capcheck.assembly import Assembly
from capcheck.cells import Cells, Place, Variant
from capcheck.errors import InputError
from capcheck.records import (
    SCHEMA_VERSION,
    Cell,
    FamilyPlan,
    Measurement,
    Settings,
    TargetSummary,
)
from capcheck.registry import build_probe
from capcheck.results import FamilyResult, SurveyResult
from capcheck.version import __version__

MANIFEST, CELLS, FITS = "manifest.json", "cells.jsonl", "fits"
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


class Store(Cells):
    """A run folder, open for reading and appending.

    Args:
        folder: The folder; see `create` and `open`.
        manifest: Its manifest.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__()
        self.folder = folder
        self.manifest = manifest
        for record in _read_records(folder / CELLS):
            self.take(record)

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> Store:
        """Start a run, or continue the same one that the folder holds; what is added may change.

        Raises:
            InputError: The folder holds another run, or files that are no run.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / MANIFEST).exists():
                held = read_manifest(folder)
                _require_same(held, manifest, folder)
                if held.settings != manifest.settings:  # more or less is added; the cells can stay
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

    def keep(self, place: Place, measurement: Measurement) -> None:
        """Add a cell; when this returns, it survives a crash.

        Raises:
            InputError: The folder holds other numbers for it.
        """
        held = self.get(place)  # as text, where broken numbers are equal to themselves
        if held is not None and held.model_dump_json() != measurement.model_dump_json():
            raise InputError(
                f"out {str(self.folder)!r} holds other numbers for {measurement.budget}; "
                "give another folder."
            )
        super().keep(place, measurement)

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
        assembly = Assembly(self, manifest.settings, manifest.target)
        families = tuple(
            assembly.result(build_probe(plan.family, plan.options), plan)
            for plan in manifest.families
        )
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


def save(result: SurveyResult, folder: Path) -> Path:
    """Write a result as a run folder; returns the folder.

    Raises:
        InputError: The folder holds something else, or cannot be written.
    """
    plans = tuple(_plan(found) for found in result.families)
    manifest = Manifest(
        environment=result.environment,
        target=result.target,
        settings=result.settings,
        families=plans,
    )
    store = Store.create(folder, manifest)
    fingerprint = result.target.fingerprint
    for plan, found in zip(plans, result.families, strict=True):
        if not found.supported:
            store.note(plan, found.reason)
        if found.facts is not None:
            if store.network(plan) not in (None, found.facts):
                raise InputError(
                    f"folder {str(folder)!r} holds another network for {plan.title}; give another "
                    "folder."
                )
            store.keep_network(plan, found.facts)
        cells: list[tuple[FamilyPlan, Cell, Variant]] = [
            *((plan, cell, Variant()) for cell in found.cells),
            *((found.oracle, cell, Variant()) for cell in found.oracle_cells),
            *((cause.plan, cause.cell, Variant()) for cause in found.causes),
        ]
        for rounded in found.precisions:
            variant = Variant(precision=rounded.precision)
            cells += [(plan, cell, variant) for cell in rounded.cells]
            if not rounded.cells:
                store.note(plan, rounded.reason, variant)
        for sensitivity in found.sensitivities:
            kind = sensitivity.perturbation
            cells += [
                (plan, cell, Variant(perturbation=kind, size=cell.size))
                for cell in sensitivity.cells
            ]
            for size in result.settings.sensitivity if not sensitivity.cells else ():
                variant = Variant(perturbation=kind, size=size)
                store.note(plan, sensitivity.reason, variant)
        for own, cell, variant in cells:
            settings = result.settings.model_copy(update={"samples": cell.samples})
            place = Place(own, cell.budget, settings, fingerprint, variant)
            facts = {name: getattr(cell, name) for name in Measurement.model_fields}
            store.keep(place, Measurement(**facts))
    return folder


def _plan(found: FamilyResult) -> FamilyPlan:
    return FamilyPlan(**{name: getattr(found, name) for name in FamilyPlan.model_fields})


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


def _read_records(path: Path) -> Iterator[Any]:
    """Its lines; torn and foreign ones are as good as missing."""
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _require_same(held: Manifest, asked: Manifest, folder: Path) -> None:
    # Examples are a function of the rest; no other number depends on what is added to a run.
    added = {"diagnose", "precisions", "sensitivity"}
    free: dict[str, Any] = {"target": {"examples"}, "settings": added}
    titles = [[_titled(plan) for plan in manifest.families] for manifest in (held, asked)]
    if titles[0] != titles[1]:
        mine, other = (
            "; ".join(name for name in own if name not in rest) or f"only {'; '.join(own)}"
            for own, rest in (titles, titles[::-1])
        )
        raise InputError(
            f"out {str(folder)!r} holds another run: it measures {mine}, and now {other} was asked "
            "for; give another folder, or delete this one."
        )
    for field, here, there in _differences(
        held.model_dump(mode="json", exclude=free), asked.model_dump(mode="json", exclude=free)
    ):
        raise InputError(
            f"out {str(folder)!r} holds another run: its {field} is {reprlib.repr(here)}, and now "
            f"{reprlib.repr(there)} was asked for; give another folder, or delete this one."
        )


def _titled(plan: FamilyPlan) -> str:
    """A plan with all that tells it from others but its options."""
    limits = {"s": plan.fit_seconds, "steps": plan.fit_steps}
    spent = [f"{value:g} {unit}" for unit, value in limits.items() if value is not None]
    return plan.title + (f" (fitted for {spent[0]})" if spent else "")


def _differences(a: Any, b: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of the leaves in which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _differences(a.get(key), b.get(key), f"{field}.{key}".lstrip("."))
    elif a != b:
        yield field, a, b
