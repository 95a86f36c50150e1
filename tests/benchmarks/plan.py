"""What `capcheck plan` tells against what surveys take, at three sizes, as ratios.

    .venv/bin/python tests/benchmarks/plan.py [digits] [numbers] [ids]

Each is planned and then made by the command itself, by two workers and from its start to its end.
`numbers` are 5,000 rows of 64 tokens of 4 numbers, random walks of 20 latent classes; `ids` are
20,000 rows of 128 token ids of 512 symbols, a sparse Markov chain; both are surveyed `--quick`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from capcheck.results.cost import RunCost

WORKERS = 2
COMMAND = [sys.executable, "-m", "capcheck"]


def numbers(path: Path) -> list[str]:
    """Random walks whose drift depends on a latent class."""
    rng = np.random.default_rng(0)
    drift, which = rng.normal(size=(20, 64, 4)) * 0.5, rng.integers(20, size=5_000)
    steps = drift[which] * 0.3 + 0.3 * rng.normal(size=(5_000, 64, 4))
    np.save(path, np.cumsum(steps, 1).astype(np.float32))
    return ["--data", str(path), "--quick"]


def ids(path: Path) -> list[str]:
    """A Markov chain most of whose transitions are rare."""
    rng = np.random.default_rng(0)
    matrix = rng.dirichlet(np.full(512, 0.02), size=512) + 1e-4 / 512
    upto = (matrix / matrix.sum(1, keepdims=True)).cumsum(1)
    rows = np.zeros((20_000, 128), dtype=int)
    rows[:, 0] = rng.integers(512, size=20_000)
    for i in range(1, 128):
        found = (upto[rows[:, i - 1]] < rng.random((20_000, 1))).sum(1)
        rows[:, i] = np.minimum(found, 511)
    np.save(path, rows)
    return ["--data", str(path), "--quick"]


SIZES = {"digits": lambda path: ["--data", "digits"], "numbers": numbers, "ids": ids}


def main() -> None:
    """Print the ratio of planned and measured seconds of each size."""
    for name in sys.argv[1:] or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            options = SIZES[name](Path(folder) / f"{name}.npy")
            plan = [*COMMAND, "plan", *options, "--json"]
            text = subprocess.run(plan, check=True, capture_output=True, text=True).stdout
            planned = RunCost(**json.loads(text)).seconds(WORKERS)
            began = time.monotonic()
            survey = [*COMMAND, "survey", *options, "--workers", str(WORKERS)]
            survey += ["--out", str(Path(folder) / "run")]
            subprocess.run(survey, check=True, capture_output=True)
            taken = time.monotonic() - began
        print(f"{name:10s} {planned / taken:.2f} ({planned:.0f} s planned, {taken:.0f} s taken)")


if __name__ == "__main__":
    main()
