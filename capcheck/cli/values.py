"""The values of options on the command line: the target and the run options that they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import click

from capcheck.cli.failures import Session
from capcheck.core.errors import InputError
from capcheck.data import Layout, load_target
from capcheck.divergences import DEFAULT
from capcheck.results.settings import SAMPLES
from capcheck.runs.command import shell_command
from capcheck.runs.options import Progress, RunOptions
from capcheck.targets.specs import from_spec
from capcheck.targets.target import Target

__all__ = ["merged", "run_options", "target_of", "written"]


def written() -> str | None:
    """The command as it was written, quoted for a shell, or None outside of one."""
    context = click.get_current_context(silent=True)
    session = None if context is None else context.find_object(Session)
    return shell_command(session.arguments) if session is not None and session.arguments else None


def target_of(given: dict[str, Any]) -> Target:
    """Make the target that the options of `TARGET` describe.

    Raises:
        InputError: Neither --data nor --target is given, or both are.
    """
    data, spec = given["data"], given["spec"]
    layout = Layout(**{field.name: given[field.name] for field in dataclasses.fields(Layout)})
    if (data is None) == (spec is None):
        got = "neither" if data is None else "both"
        raise InputError(f"give one of --data FILE and --target SPEC, got {got}.")
    if spec is not None:
        of_data = [given["law"], given["bandwidth"]]
        if layout != Layout() or any(value is not None for value in of_data):
            raise InputError(
                "--tokens, --token-dim, --pca, --grid, --kind, --unit, --split, --law and "
                "--bandwidth are for --data; write a target's parameters in its spec."
            )
        return from_spec(spec)
    return load_target(data, layout, law=given["law"] or "auto", bandwidth=given["bandwidth"])


def run_options(given: dict[str, Any], progress: Callable[[Progress], None]) -> RunOptions:
    """The keywords of `capcheck.check` that follow from the other options."""
    divergences = given["divergences"]
    return RunOptions(
        lengths=given["lengths"],
        steps=given["steps"],
        divergences=DEFAULT if divergences is None else divergences.split(","),
        tolerance=_numbers(merged("--tolerance", given["tolerance"])),
        diagnose=given["diagnose"].split(",") if given["diagnose"] else (),
        precision=given["precision"].split(",") if given["precision"] else (),
        sensitivity=_sizes(given["sensitivity"]),
        samples=SAMPLES if given["samples"] is None else given["samples"],
        given=given["given"] or (),
        looks=given["looks"],
        seconds_per_cell=given["seconds_per_cell"],
        seconds_per_run=given["seconds_per_run"],
        seed=given["seed"],
        level=given["level"],
        device=given["device"],
        batch=given["batch"],
        workers=given["workers"],
        out=given["out"],
        progress=progress,
    )


def merged(option: str, given: Sequence[dict[str, str]]) -> dict[str, str]:
    """The key=value pairs of an option that may be repeated, in one dict.

    Raises:
        InputError: A key is given twice.
    """
    found: dict[str, str] = {}
    for pairs in given:
        for key, value in pairs.items():
            if key in found:
                raise InputError(f"{option} gives {key} twice; give it once.")
            found[key] = value
    return found


def _sizes(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(
            f"--sensitivity must be numbers separated by commas, got {text!r}."
        ) from None


def _numbers(pairs: dict[str, str]) -> dict[str, float]:
    try:
        return {name: float(text) for name, text in pairs.items()}
    except ValueError:
        raise InputError(f"--tolerance must give numbers, got {pairs}.") from None
