"""The manifest of a run: the description that the run folder holds in `manifest.json`.

When a run is continued, only its settings of added measurements, the version of the measuring code,
the command and what is stored for reports may differ from the manifest.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from capcheck.core.errors import InputError
from capcheck.core.record import Record
from capcheck.networks.kinds import FittedNetwork
from capcheck.results.plan import FamilyEntry, FamilyPlan
from capcheck.results.settings import Settings, TargetSummary
from capcheck.results.survey import SCHEMA_VERSION, MeasuredBy
from capcheck.runs.atomic import PARTIAL, create_atomically, write_atomically

__all__ = ["MANIFEST", "Manifest", "begun", "read_manifest", "require_same"]

MANIFEST = "manifest.json"


class Manifest(Record):
    """The description of a run that suffices to continue it or to report on it.

    Attributes:
        schema_version: Version of the format of the manifest and of the cells.
        measured_by: Code that measures the run's cells.
        environment: Versions and machine facts that can change the last digits of numbers.
        target: Summary of the target.
        settings: Settings of the measurements.
        families: Families in the order of the results.
        command: Command that makes the run again (`capcheck.runs.command`), or None if none does.
    """

    schema_version: int = SCHEMA_VERSION
    measured_by: MeasuredBy
    environment: dict[str, str]
    target: TargetSummary
    settings: Settings
    families: tuple[FamilyEntry, ...]
    command: str | None = None


def begun(folder: Path, asked: Manifest) -> Manifest:
    """Start a run in a folder, or continue the one that is there; its manifest.

    Of several processes that start a run in one folder at the same time one writes the manifest,
    and the others continue that run, or are refused.

    Raises:
        InputError: The folder holds another run or other files.
        OSError: The folder cannot be written.
    """
    path = folder / MANIFEST
    text = asked.model_dump_json(indent=2) + "\n"
    if not path.exists():
        others = any(not name.match(PARTIAL) for name in folder.iterdir())
        if others and not path.exists():  # the manifest of a run that was begun meanwhile counts
            raise InputError(
                f"out must be a new folder or a run's, got {str(folder)!r}, which holds other "
                "files; give another folder."
            )
        if create_atomically(path, text):
            return asked
    held = read_manifest(folder)
    require_same(held, asked, folder)
    if asked.command is None and (held.settings, held.families) == (asked.settings, asked.families):
        asked = asked.model_copy(update={"command": held.command})  # it still makes the same run
    renewed = ("settings", "measured_by", "families", "target", "command")
    now = {name: getattr(asked, name) for name in renewed}
    if any(getattr(held, name) != value for name, value in now.items()):
        held = held.model_copy(update=now)
        write_atomically(path, held.model_dump_json(indent=2) + "\n")
    return held


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a run.

    Raises:
        InputError: There is no manifest, it is damaged, or it has another schema version.
    """
    path = folder / MANIFEST
    if not os.path.isfile(path):
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


def require_same(held: Manifest, asked: Manifest, folder: Path) -> None:
    """Raise InputError unless two manifests describe the same run.

    Args:
        held: Manifest in the folder.
        asked: Manifest of the run that continues.
        folder: Folder of the run, for the error sentence.
    """
    # Examples, rows of the data and scores of other laws follow from the other fields, and runs
    # that lack them may be continued; no other number depends on added measurements.
    added = dict.fromkeys(("diagnose", "precisions", "sensitivity"), True)
    suspects = {"__all__": {"suspects": True}}
    free: dict[str, Any] = {
        "target": {
            "examples": True,
            "provenance": {
                "data_rows": True,
                "held_out": {"dependence": True, "candidates": True},
            },
        },
        "settings": added,
        "measured_by": True,
        "families": suspects,
        "command": True,
    }
    titles = [[_titled(e.plan) for e in manifest.families] for manifest in (held, asked)]
    if titles[0] != titles[1]:
        mine, other = (
            "; ".join(name for name in own if name not in rest) or f"only {'; '.join(own)}"
            for own, rest in (titles, titles[::-1])
        )
        raise InputError(
            f"out {str(folder)!r} holds another run: it measures {mine}, and now {other} was asked "
            "for; give another folder, or delete this one."
        )
    for field, here, there in _differences(held.to_json(free), asked.to_json(free)):
        raise InputError(
            f"out {str(folder)!r} holds another run: its {field} is {reprlib.repr(here)}, and now "
            f"{reprlib.repr(there)} was asked for; give another folder, or delete this one."
        )


def _titled(plan: FamilyPlan) -> str:
    """The title of a plan, with the fitting limit that distinguishes fitted networks."""
    network = plan.network
    if not isinstance(network, FittedNetwork):
        return plan.title
    limits = {"s": network.seconds, "steps": network.steps}
    spent = [f"{value:g} {unit}" for unit, value in limits.items() if value is not None]
    return plan.title + (f" (fitted for {spent[0]})" if spent else "")


def _differences(a: Any, b: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of the leaves in which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _differences(a.get(key), b.get(key), f"{field}.{key}".lstrip("."))
    elif a != b:
        yield field, a, b
