"""Predicts, trains and measures all runs, and writes results and page.

    PYTHONPATH=tests .venv/bin/python -m prediction [--page]

`--page` writes the page and its picture again from the stored results, and trains nothing. A
command that is interrupted goes on from `runs/prediction.json`; remove that file where the code has
changed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

import capcheck
from capcheck.runs.atomic import write_atomically
from prediction.measuring import foretold, level, measured
from prediction.orders import in_random_order
from prediction.page import PAGE, PICTURE, page
from prediction.runs import OTHERS, RUNS, SIZES
from prediction.scatter import picture
from prediction.verdict import verdict

__all__ = ["RESULTS"]

RESULTS = Path(__file__).with_name("results.json")
PARTIAL = Path(__file__).parents[2] / "runs" / "prediction.json"
WORKERS = 2


def _all() -> dict[str, Any]:
    """All predictions, which are written before the first training starts, and all outcomes."""
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context) as pool:
        everything = [*RUNS, *SIZES, *OTHERS]
        kept = _kept()
        records, start = kept["records"], start - kept["seconds"]
        records = {
            run.name: records[run.name]
            for run in everything
            if records.get(run.name, {}).items() >= dataclasses.asdict(run).items()
        }
        missing = [run for run in RUNS if _stale(records.get(run.name))]
        own = {name: record["prediction"] for name, record in records.items()}
        own |= dict(zip((run.name for run in missing), pool.map(foretold, missing), strict=True))
        for run in everything:
            record = records.setdefault(run.name, dataclasses.asdict(run))
            record["prediction"] = own[run.of or run.name]
        _keep(records, start)
        todo = {
            pool.submit(measured, run, record["prediction"]["bandwidths"]): run.name
            for run, record in ((run, records[run.name]) for run in everything)
            if "outcome" not in record
        }
        for future in as_completed(todo):
            record = records[todo[future]]
            record["outcome"] = future.result()
            _keep(records, start)
            values = record["prediction"]["value"], record["outcome"]["value"]
            print(f"{record['name']:50s} {values[0]:9.4g} {values[1]:9.4g}", flush=True)
    groups = {"runs": RUNS, "sizes": SIZES, "others": OTHERS}
    stored = {word: [records[run.name] for run in runs] for word, runs in groups.items()}
    return {
        "versions": {"capcheck": capcheck.__version__, "torch": torch.__version__},
        "minutes": round((time.monotonic() - start) / 60, 1),
        "processor_minutes": round(sum(map(_seconds, records.values())) / 60, 1),
        "workers": WORKERS,
        "verdict": verdict(stored["runs"]),
        "orders": in_random_order(),
        **stored,
    }


def _kept() -> dict[str, Any]:
    """What an interrupted command left: seconds, and records by the names of their runs."""
    if not PARTIAL.exists():
        return {"seconds": 0.0, "records": {}}
    found: dict[str, Any] = json.loads(PARTIAL.read_text())
    return found


def _stale(record: dict[str, Any] | None) -> bool:
    """Whether a run has no prediction at the level of the test."""
    if record is None:
        return True
    found = record["prediction"]
    return bool(found["kind"] != "exact" and found["level"] != level())


def _keep(records: dict[str, Any], start: float) -> None:
    """Keep what there is, so that an interrupted command goes on where it was."""
    content = {"seconds": time.monotonic() - start, "records": records}
    write_atomically(PARTIAL, json.dumps(content))


def _seconds(record: dict[str, Any]) -> float:
    found = record["outcome"]
    return float(found["training_seconds"] + found["measuring_seconds"])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page again, train nothing")
    if not parser.parse_args().page:
        RESULTS.write_text(json.dumps(_all(), indent=1) + "\n")
        PARTIAL.unlink()
    results = json.loads(RESULTS.read_text())
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(results))
    PICTURE.write_text(picture(results))


if __name__ == "__main__":
    main()
