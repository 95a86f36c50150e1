"""The store of a run: a folder with `manifest.json` and append-only files of cells.

The manifest is written first. Every cell is one line, synced to disk, with a key that hashes
everything that its numbers depend on. A run that was killed at any moment can be continued, as a
half-written last line is ignored. The process that starts a run writes `cells.jsonl`, every other
one that measures it a file of its own, and what a run holds is the union of them all. Two different
results for one key are an error. Nothing read from a run is executed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capcheck.core.arguments import file_path, shown
from capcheck.core.errors import InputError, StoreError, cure_of, unwritable
from capcheck.networks.kinds import PerturbedNetwork
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell, Measurement
from capcheck.results.plan import FamilyEntry, FamilyPlan, SuspectPlan
from capcheck.results.settings import Settings
from capcheck.results.survey import CheckResult, SurveyResult
from capcheck.runs.assembly import Assembly, survey_result
from capcheck.runs.atomic import append_line, require_name
from capcheck.runs.cells import CellKey, Cells
from capcheck.runs.manifest import Manifest, begun, read_manifest

__all__ = ["Store", "save"]

CELLS, FITS = "cells.jsonl", "fits"
OTHERS = "cells-*.jsonl"  # files of the processes that joined the run


class Store(Cells):
    """A run folder, open for reading and appending.

    Args:
        folder: Folder of the run; see `create`, `open` and `join`.
        manifest: Manifest of the run.
        file: Name of the file that this process appends to.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, file: str = CELLS) -> None:
        super().__init__(manifest.measured_by)
        self.folder = folder
        self.manifest = manifest
        self._file = folder / file
        self._read: dict[Path, int] = {}  # number of bytes that were read of each file
        self.refresh()

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> Store:
        """Start a run, or continue the run in the folder if it measures the same.

        Diagnoses, precisions and sensitivities, which are added to a run, may differ. Cells that
        other code measured are ignored and measured again.

        Raises:
            InputError: The folder holds another run or other files, or cannot be written.
        """
        require_name(folder, "out must be a folder that can be written, got")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            manifest = begun(folder, manifest)
        except OSError as error:
            raise StoreError(
                f"out must be a folder that can be written, got {str(folder)!r}: "
                f"{error.strerror}; {cure_of(error)}."
            ) from error
        return cls(folder, manifest)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open a run for reading.

        Raises:
            InputError: The folder has no run that this version of capcheck can read.
        """
        return cls(folder, read_manifest(folder))

    @classmethod
    def join(cls, folder: Path) -> Store:
        """Open a run to measure it beside other processes, with a file of this process's own.

        Raises:
            InputError: The folder has no run that this version of capcheck can read.
        """
        mine = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        return cls(folder, read_manifest(folder), file=OTHERS.replace("*", mine))

    def refresh(self) -> bool:
        """Take in the lines that were added to the files of the run; whether there were any.

        Raises:
            InputError: Two processes have found different numbers for one cell.
        """
        news = False
        for path in [self.folder / CELLS, *sorted(self.folder.glob(OTHERS))]:
            for record in self._new_records(path):
                self.take(record)
                news = True
        return news

    def take(self, record: Any) -> None:
        """Add a record that was read from a file; a record that cannot be read is ignored.

        Raises:
            InputError: The run holds other numbers for the same cell.
        """
        key = record.get("key") if isinstance(record, dict) else None
        held = self._cells.get(str(key))
        super().take(record)
        now = self._cells.get(str(key))
        if held and now and held.model_dump_json() != now.model_dump_json():
            raise StoreError(
                f"run {str(self.folder)!r} holds two different results for {now.budget}: it was "
                "measured on machines or with libraries that compute differently; give another "
                "folder."
            )

    def _new_records(self, path: Path) -> Iterator[Any]:
        """The records of the whole lines that were added to a file since it was last read."""
        try:
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(
                f"run {str(self.folder)!r} must have files that can be read, got {path.name}: "
                f"{error.strerror}; make it readable."
            ) from error
        whole = text[: text.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        for line in whole.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def keep(self, key: CellKey, measurement: Measurement) -> None:
        """Add a cell, which is on disk when this method returns.

        Raises:
            StoreError: The folder holds other numbers for the cell, or cannot be written.
        """
        held = self.get(key)  # compared as text, in which NaN equals NaN
        if held is not None and held.model_dump_json() != measurement.model_dump_json():
            raise StoreError(
                f"out {str(self.folder)!r} holds other numbers for {measurement.budget}; "
                "give another folder."
            )
        super().keep(key, measurement)

    def _write(self, record: dict[str, Any]) -> None:
        try:
            append_line(self._file, json.dumps(record).encode())
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def result(self) -> SurveyResult:
        """The run's result, judged anew from its cells.

        A family without all of its cells, because it failed or was interrupted, has an error, and
        its finished cells have no verdicts. `SurveyResult.missing` counts the cells that are not
        there.

        Raises:
            InputError: No family has a finished cell.
        """
        manifest = self.manifest
        assembly = Assembly(self, manifest.settings, manifest.target)
        families = [assembly.result(entry) for entry in manifest.families]
        if not any(found.cells for found in families):
            reasons = "; ".join(found.reason for found in families)
            raise InputError(f"run {str(self.folder)!r} has no finished cell: {reasons}")
        return survey_result(families, manifest, self.decoding)


def save(result: SurveyResult | CheckResult, folder: str | Path) -> Path:
    """Write a result as a run folder for `capcheck report`, and return the folder.

    Raises:
        InputError: The folder holds another run or other files, or cannot be written.
    """
    folder = file_path("folder", folder, "a folder")
    result = result.survey if isinstance(result, CheckResult) else result
    if not isinstance(result, SurveyResult):
        raise InputError(
            f"result must be what check or survey returned, got {shown(result)}; give that."
        )
    manifest = Manifest(
        measured_by=result.measured_by,
        environment=result.environment,
        target=result.target,
        settings=result.settings,
        families=tuple(_entry(found) for found in result.families),
        command=result.command,
    )
    store = Store.create(folder, manifest)
    if result.decoding is not None:
        store.keep_decoding(result.decoding)
    for found in result.families:
        if not found.supported:
            store.note(found.plan, found.reason)
        if found.speculation is not None:
            store.keep_speculation(found.plan, found.speculation)
        if found.facts is not None:
            if store.network(found.plan) not in (None, found.facts):
                raise InputError(
                    f"folder {str(folder)!r} holds another network for {found.title}; give another "
                    "folder."
                )
            store.keep_network(found.plan, found.facts)
        _note_what_is_missing(store, found, result.settings)
        for plan, cell in _cells_of(found):
            asked = {name: result.settings.tolerances[name] for name in cell.estimates}
            settings = result.settings.model_copy(
                update={"samples": cell.samples, "tolerances": asked}
            )
            key = CellKey(
                plan=plan,
                budget=cell.budget,
                settings=settings,
                fingerprint=result.target.fingerprint,
            )
            facts = {name: getattr(cell, name) for name in Measurement.model_fields}
            store.keep(key, Measurement(**facts))
    return folder


def _cells_of(found: FamilyResult) -> Iterator[tuple[FamilyPlan, Cell]]:
    """Every cell of a family's result, with the plan that the cell belongs to."""
    plan = found.plan
    yield from ((plan, cell) for cell in found.cells)
    yield from ((plan.with_oracle(), cell) for cell in found.oracle_cells)
    yield from ((cause.plan, cause.cell) for cause in found.causes)
    for rounded in found.precisions:
        yield from ((plan.rounded(rounded.precision), cell) for cell in rounded.cells)
    for one in found.sensitivities:
        for cell in one.cells:
            error = PerturbedNetwork(perturbation=one.perturbation, size=cell.size)
            yield plan.with_network(error), cell


def _note_what_is_missing(store: Store, found: FamilyResult, settings: Settings) -> None:
    """Store the reasons why precisions and network errors of a family have no cells."""
    for rounded in found.precisions:
        if not rounded.cells:
            store.note(found.plan.rounded(rounded.precision), rounded.reason)
    for one in found.sensitivities:
        for size in settings.sensitivity if not one.cells else ():
            error = PerturbedNetwork(perturbation=one.perturbation, size=size)
            store.note(found.plan.with_network(error), one.reason)


def _entry(found: FamilyResult) -> FamilyEntry:
    """The manifest's entry of a family, as reconstructed from its result."""
    suspects = tuple(
        SuspectPlan(failure=cause.failure, cure=cause.cure, plan=cause.plan)
        for cause in found.causes
    )
    return FamilyEntry(plan=found.plan, row=found.row, in_paper=found.in_paper, suspects=suspects)
