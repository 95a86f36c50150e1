"""Whether time is linear in cells and in draws, and memory flat in draws and linear in rows.

    .venv/bin/python tests/benchmarks/linearity.py [cells] [draws] [rows]

Each size runs in a fresh process of one thread, over two decades, after the smallest size has run
once. Time is CPU time; the power is the slope of its logarithm against that of the size, 1 where
time is linear. Memory is what the run adds to the peak of the process (Linux). Draws are measured
by KL, as MMD and exact transport are sums over pairs of draws.
"""

from __future__ import annotations

import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

import capcheck
from capcheck.targets import GaussianMixture, from_samples

TOKENS = 8
Work = Callable[[int], object]


def gaussian() -> GaussianMixture:
    """Eight dependent numbers, as a mixture of two so that no exact law replaces the draws."""
    position = torch.arange(float(TOKENS), dtype=torch.float64)
    covariance = 0.8 ** (position - position[:, None]).abs()
    means = torch.stack([position / 4, -position / 4])[..., None]
    return GaussianMixture(means, covariance.expand(2, TOKENS, TOKENS))


def cells(count: int) -> object:
    """So many cells of equal cost: the oracle with errors of so many sizes."""
    return capcheck.check(
        "gpt",
        gaussian(),
        steps=[1],
        lengths=[TOKENS],
        samples=200,
        divergences=["mmd"],
        sensitivity=[0.001 * (k + 1) for k in range(count)],
        workers=1,
    )


def draws(count: int) -> object:
    """A cell with so many draws."""
    return capcheck.check(
        "gpt",
        gaussian(),
        steps=[1],
        lengths=[TOKENS],
        samples=count,
        divergences=["kl"],
        workers=1,
    )


def rows(count: int) -> object:
    """The target of so many rows of 64 numbers, which the run makes itself."""
    x = np.random.default_rng(0).standard_normal((count, TOKENS, 8)).cumsum(1)
    return from_samples(torch.from_numpy(x), bandwidth=0.3)


WORKS: dict[str, tuple[Work, Sequence[int]]] = {
    "cells": (cells, (1, 10, 100)),
    "draws": (draws, (2_000, 20_000, 200_000)),
    "rows": (rows, (2_000, 20_000, 200_000)),
}


def high_water() -> float:
    """Peak resident memory of this process in MiB (getrusage would count the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def measured(name: str, count: int, pipe: Connection) -> None:
    """Send the CPU seconds of one size, and the MiB by which it raises the peak of the process."""
    torch.set_num_threads(1)
    work, sizes = WORKS[name]
    work(sizes[0])  # imports and first calls
    before, began = high_water(), time.process_time()
    work(count)
    pipe.send((time.process_time() - began, high_water() - before))


def in_fresh_process(name: str, count: int) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=measured, args=(name, count, theirs))
    process.start()
    found: tuple[float, float] = ours.recv()
    process.join()
    return found


def main() -> None:
    """Print the time and memory of each size, and the exponent of time."""
    for name in sys.argv[1:] or WORKS:
        sizes = WORKS[name][1]
        found = [in_fresh_process(name, count) for count in sizes]
        for count, (seconds, memory) in zip(sizes, found, strict=True):
            print(f"{name} {count:>9,}: {seconds:8.2f} CPU s, {memory:7.1f} MiB", flush=True)
        spent = np.array([seconds for seconds, _ in found])
        last = np.log(spent[2] / spent[1]) / np.log(sizes[2] / sizes[1])
        whole = np.log(spent[2] / spent[0]) / np.log(sizes[2] / sizes[0])
        print(f"{name}: time grows with the power {last:.2f} (last decade), {whole:.2f} (both)")


if __name__ == "__main__":
    main()
