"""What a worker process does of a run: its prediction, or its training and outcome."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from capcheck.targets.target import Target
from prediction.outcomes import outcome
from prediction.predictions import predicted
from prediction.run import Run
from prediction.runs import RUNS
from prediction.targets import batches, target_of
from prediction.training import train
from prediction.verdict import LEVEL

__all__ = ["foretold", "level", "measured"]


def measured(run: Run, bandwidths: Sequence[float] = ()) -> dict[str, Any]:
    """The outcome of a run: it is trained and measured in this process, in one thread."""
    torch.set_num_threads(1)
    start = time.process_time()
    target = target_of(run.target)
    draws = batches(target, run.seed, run.batch)
    network = train(run, draws, tokens=target.spec.tokens, symbols=_symbols(target))
    trained = time.process_time()
    found = outcome(run, network, target, bandwidths)
    return found | {
        "parameters": sum(one.numel() for one in network.parameters()),
        "training_seconds": round(trained - start, 1),
        "measuring_seconds": round(time.process_time() - trained, 1),
    }


def _symbols(target: Target) -> int:
    return target.spec.dim if target.spec.kind == "categorical" else 1


def level() -> float:
    """The two-sided level of predictions, whose lower ends hold together at `LEVEL`."""
    return 1 - 2 * (1 - LEVEL) / len(RUNS)


def foretold(run: Run) -> dict[str, Any]:
    """The prediction of a run, at the level of the test."""
    torch.set_num_threads(1)
    return predicted(run, level())
