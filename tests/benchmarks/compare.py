"""Compares the numbers of two run folders, cell by cell: what moved between two states of the code.

    python tests/benchmarks/compare.py runs/before runs/after

It reads `manifest.json` and `cells.jsonl` as JSON and imports nothing of capcheck, so that the two
runs may be of different versions of it. Cells are matched by family, options, network, precision or
error, and budget, as far as the folders tell them: by the order in which a run lists them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIELDS = ("value", "low", "high")


def cells_of(folder: Path) -> list[dict[str, Any]]:
    """The cells of a run, in the order in which they were measured."""
    lines = (folder / "cells.jsonl").read_text().splitlines()
    return [record["cell"] for record in map(json.loads, lines) if "cell" in record]


def families_of(folder: Path) -> list[str]:
    """Titles of what the run measures, in its order."""
    listed = json.loads((folder / "manifest.json").read_text())["families"]
    return [str(one.get("plan", one)["family"]) for one in listed]


def by_family(folder: Path) -> dict[str, dict[tuple[int, int], dict[str, Any]]]:
    """Each family's cells by budget; a run measures family after family, and each budget once."""
    unfit = [
        json.loads(record["unfit"])["family"]
        for record in map(json.loads, (folder / "cells.jsonl").read_text().splitlines())
        if "unfit" in record
    ]
    names = [name for name in families_of(folder) if name not in unfit]
    found: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    current: dict[tuple[int, int], dict[str, Any]] = {}
    waiting = iter(names)
    whole = _grid(folder)
    for cell in cells_of(folder):
        budget = (cell["budget"]["length"], cell["budget"]["steps"])
        if not found or len(current) == whole:
            name = next(waiting, None)
            if name is None:
                break
            current = found[name] = {}
        if budget in current:
            continue  # a suspect, at the largest budget
        current[budget] = cell
    return found


def _grid(folder: Path) -> int:
    grid = json.loads((folder / "manifest.json").read_text())["settings"]["grid"]
    return len(grid["lengths"]) * len(grid["steps"])


def numbers(cell: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The numbers of a cell, by name."""
    yield "model_calls", cell["model_calls"]
    for name, estimate in cell["estimates"].items():
        for field in FIELDS:
            yield f"{name} {field}", estimate[field]


def differ(a: Any, b: Any, digits: int) -> bool:
    """Whether two numbers differ in so many significant digits."""
    if isinstance(a, str) or isinstance(b, str) or a is None or b is None:
        return bool(a != b)
    return not math.isclose(a, b, rel_tol=10.0**-digits, abs_tol=1e-12)


def main() -> None:
    """Print every number that moved."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--digits", type=int, default=9, help="significant digits [default: 9]")
    asked = parser.parse_args()
    before, after = by_family(asked.before), by_family(asked.after)
    same = moved = 0
    for name in sorted(set(before) | set(after)):
        if name not in before or name not in after:
            print(f"{name}: only {'before' if name in before else 'after'}")
            continue
        for budget in sorted(set(before[name]) & set(after[name])):
            pairs = dict(numbers(before[name][budget])), dict(numbers(after[name][budget]))
            for what in sorted(set(pairs[0]) | set(pairs[1])):
                a, b = (pair.get(what) for pair in pairs)
                if differ(a, b, asked.digits):
                    moved += 1
                    print(f"{name}, length {budget[0]}, steps {budget[1]}, {what}: {a} -> {b}")
                else:
                    same += 1
    print(f"{same} numbers are equal to {asked.digits} digits, {moved} moved")


if __name__ == "__main__":
    main()
