"""Compares the numbers of two surveys, cell by cell: what moved between two states of the code.

    capcheck survey --data digits --network none --json > before.json   # with the one
    capcheck survey --data digits --network none --json > after.json    # with the other
    python tests/benchmarks/compare.py before.json after.json

It imports nothing of capcheck, so that the two may be of different versions of it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def numbers(survey: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every verdict and number of a survey, by name."""
    for found in survey["families"]:
        network = found["network"]
        own = network["kind"] if isinstance(network, dict) else network
        name = found["family"] if own == "oracle" else f"{found['family']} {network}"
        for field in ("outcome", "axes", "loop_order", "smallest_budget"):
            yield f"{name}: {field}", found[field]
        for cell in found["cells"]:
            budget = f"length {cell['budget']['length']}, steps {cell['budget']['steps']}"
            yield f"{name}, {budget}: calls", cell["model_calls"]
            yield f"{name}, {budget}: outcome", cell["outcome"]
            for divergence, estimate in cell["estimates"].items():
                for field in ("value", "low", "high", "kind"):
                    yield f"{name}, {budget}: {divergence} {field}", estimate[field]


def differ(a: Any, b: Any, digits: int) -> bool:
    """Whether two findings differ, or two numbers do in so many significant digits."""
    a, b = (float(x) if x in ("Infinity", "-Infinity", "NaN") else x for x in (a, b))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return not math.isclose(a, b, rel_tol=10.0**-digits, abs_tol=1e-12)
    return bool(a != b)


def main() -> None:
    """Print everything that moved."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--digits", type=int, default=9, help="significant digits [default: 9]")
    asked = parser.parse_args()
    before, after = (
        dict(numbers(json.loads(path.read_text()))) for path in (asked.before, asked.after)
    )
    moved = 0
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in before or name not in after:
            print(f"{name}: only {'before' if name in before else 'after'}")
        elif differ(before[name], after[name], asked.digits):
            moved += 1
            print(f"{name}: {before[name]} -> {after[name]}")
    same = len(set(before) & set(after)) - moved
    print(f"{same} are equal to {asked.digits} digits, {moved} moved")


if __name__ == "__main__":
    main()
