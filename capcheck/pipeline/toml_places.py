"""Where the fields of a TOML file stand, by the lines of its tables and keys."""

from __future__ import annotations

import re

__all__ = ["Place", "field_of", "line_of", "lines_of"]

Place = tuple[str | int, ...]
"""The place of a value in data: names of tables, numbers in lists."""

HEADER = re.compile(r"\s*\[(\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
KEY = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")


def lines_of(text: str) -> dict[Place, int]:
    """Line numbers of the tables and keys of a TOML text, by their place in its data."""
    lines: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := HEADER.match(line):
            table = ()
            parts = [part.strip().strip("\"'") for part in header[2].split(".")]
            for j, part in enumerate(parts):
                table = (*table, part)
                if j == len(parts) - 1 and header[1]:
                    counts[table] = counts.get(table, -1) + 1
                if table in counts:
                    table = (*table, counts[table])
            lines.setdefault(table, number)
        elif key := KEY.match(line):
            names = [part.strip().strip("\"'") for part in key[1].split(".")]
            for j in range(len(names)):
                lines.setdefault((*table, *names[: j + 1]), number)
    return lines


def line_of(lines: dict[Place, int], place: Place) -> int:
    """The line of a place, or of the nearest place around it that has one."""
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return lines[place[:length]]
    return 1


def field_of(place: Place) -> str:
    """A place as it is written: checks[0].expect.steps."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "the spec"
