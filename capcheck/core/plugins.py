"""Plug-ins: the entry points of a group that installed packages declare."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points

from capcheck.core.errors import CapcheckError

__all__ = ["declared"]


@functools.cache
def declared(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by their names; none of them is loaded.

    Raises:
        CapcheckError: Two packages declare the same name.
    """
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        if entry.name in entries and entries[entry.name].value != entry.value:
            raise CapcheckError(
                f"two installed packages declare {entry.name!r} in {group}: "
                f"{entries[entry.name].value} and {entry.value}; uninstall one."
            )
        entries[entry.name] = entry
    return entries
