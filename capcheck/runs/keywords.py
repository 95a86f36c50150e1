"""Keywords of a check or a survey as callers write them, in the one form that planning reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from capcheck.core.arguments import several, shown
from capcheck.core.errors import InputError
from capcheck.fitting.named import Named, require_named
from capcheck.procedures.probe import AnyProbe, Probe
from capcheck.procedures.registry import families as registered
from capcheck.runs.options import RunOptions, require_given
from capcheck.targets.target import Target, require_target

__all__ = ["Families", "checked_networks", "chosen_families", "listed_networks", "of_run"]

Families = str | AnyProbe | Iterable[str | AnyProbe] | None
"""Families of a survey: a list, one of them, names with commas between them, or None for all."""


def of_run(keywords: Mapping[str, Any], kind: Any, target: Target) -> Any:
    """The keywords that are those of a run, or of nothing, which the engine refuses.

    Keywords of None are left out, so that they have their defaults. Tokens that are given are
    checked, and generators are read, since a run reads its options more than once.
    """
    require_target(target)
    of_run = RunOptions.__annotations__
    own = set(kind.__annotations__) - set(of_run)
    run = {
        name: tuple(value) if isinstance(value, Iterator) else value
        for name, value in keywords.items()
        if name not in own and not (value is None and name in of_run)
    }
    if "given" in run:
        run["given"] = require_given(run["given"], target.spec.tokens)
    return run


def chosen_families(families: Families) -> list[str | AnyProbe]:
    """The names and probes of a survey, all registered families for None."""
    if families is None:
        return list(registered())
    if isinstance(families, str):
        return list(families.split(","))
    what, cure = "names of families and Probes", "write ['gpt', 'diffusion']"
    found = [families] if isinstance(families, Probe) else several("families", families, what, cure)
    for one in found:
        if not isinstance(one, (str, Probe)):
            raise InputError(f"families must be a list of {what}, got {shown(one)} in it; {cure}.")
    return found


def listed_networks(network: Named | Sequence[Named] | None) -> list[Named]:
    """One network or several as a list; none for None."""
    if isinstance(network, (list, tuple)):
        return list(network)
    return [] if network is None else [network]  # type: ignore[list-item]


def checked_networks(listed: Sequence[Named]) -> list[Named]:
    """The networks, checked, in a list in which each name stands once."""
    found: list[Named] = []
    for one in map(require_named, listed):
        if not isinstance(one, str) or one not in found:
            found.append(one)
    return found
