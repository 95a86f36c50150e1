"""Predicts, trains and measures all runs, and writes results and page.

    PYTHONPATH=tests .venv/bin/python -m prediction [--page]

`--page` writes the page and its picture again from the stored results, and trains nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import capcheck
from capcheck.targets.target import Target
from prediction.outcomes import outcome
from prediction.page import PAGE, PICTURE, page, picture
from prediction.predictions import predicted
from prediction.runs import OTHERS, RUNS, SIZES, Run
from prediction.targets import batches, target_of
from prediction.training import train
from prediction.verdict import LEVEL, verdict

__all__ = ["RESULTS", "measured"]

RESULTS = Path(__file__).with_name("results.json")
PREDICTIONS = Path(__file__).with_name("predictions.json")
WORKERS = 2


def measured(run: Run) -> dict[str, Any]:
    """The outcome of a run: it is trained and measured in this process, in one thread."""
    torch.set_num_threads(1)
    start = time.process_time()
    target = target_of(run.target)
    draws = batches(target, run.seed, run.batch)
    network = train(run, draws, tokens=target.spec.tokens, symbols=_symbols(target))
    trained = time.process_time()
    found = outcome(run, network, target)
    return found | {
        "parameters": sum(one.numel() for one in network.parameters()),
        "training_seconds": round(trained - start, 1),
        "measuring_seconds": round(time.process_time() - trained, 1),
    }


def _symbols(target: Target) -> int:
    return target.spec.dim if target.spec.kind == "categorical" else 1


def _predict(run: Run) -> dict[str, Any]:
    torch.set_num_threads(1)
    return predicted(run, 1 - 2 * (1 - LEVEL) / len(RUNS))


def _all() -> dict[str, Any]:
    """All predictions, which are written before the first training starts, and all outcomes."""
    start = time.monotonic()
    everything = [*RUNS, *SIZES, *OTHERS]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context) as pool:
        own = dict(zip((run.name for run in RUNS), pool.map(_predict, RUNS), strict=True))
        records = [
            dataclasses.asdict(run) | {"prediction": own[run.of or run.name]} for run in everything
        ]
        PREDICTIONS.write_text(json.dumps(records, indent=1) + "\n")
        print(f"{len(own)} predictions in {time.monotonic() - start:.0f} s", flush=True)
        for record, found in zip(records, pool.map(measured, everything), strict=True):
            record["outcome"] = found
            floor = record["prediction"]["value"]
            print(f"{record['name']:50s} {floor:9.4g} {found['value']:9.4g}", flush=True)
    groups = {"runs": RUNS, "sizes": SIZES, "others": OTHERS}
    named = {record["name"]: record for record in records}
    stored = {word: [named[run.name] for run in runs] for word, runs in groups.items()}
    return {
        "versions": {"capcheck": capcheck.__version__, "torch": torch.__version__},
        "minutes": round((time.monotonic() - start) / 60, 1),
        "processor_minutes": round(sum(_seconds(record) for record in records) / 60, 1),
        "workers": WORKERS,
        "verdict": verdict(stored["runs"]),
        **stored,
    }


def _seconds(record: dict[str, Any]) -> float:
    found = record["outcome"]
    return float(found["training_seconds"] + found["measuring_seconds"])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page again, train nothing")
    if not parser.parse_args().page:
        RESULTS.write_text(json.dumps(_all(), indent=1) + "\n")
        PREDICTIONS.unlink()
    results = json.loads(RESULTS.read_text())
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(results))
    PICTURE.write_text(picture(results))


if __name__ == "__main__":
    main()
