"""Speed of the first oracles and estimators, as ratios against named peers on the same work.

    .venv/bin/python tests/benchmarks/oracles.py

Each pair runs in turns, five times; the ratio of the medians is printed (below 1: capcheck is
faster), with the peak memory that each adds in a fresh process (Linux).
"""

from __future__ import annotations

import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from sklearn.metrics.pairwise import rbf_kernel

from capcheck.core.randomness import CounterRandomness
from capcheck.divergences.mmd import mmd_squared
from capcheck.noise.paths import PATHS
from capcheck.targets import ProductMixture

RUNS = 5
ROWS, COMPONENTS, TOKENS = 1000, 20_000, 64
LEVEL = 0.3


def mixture() -> ProductMixture:
    means = CounterRandomness(0).normal((COMPONENTS, TOKENS, 1))
    return ProductMixture(means, torch.full((TOKENS, 1), 0.3, dtype=torch.float64))


def denoise() -> Callable[[], object]:
    target, x = mixture(), CounterRandomness(1).normal((ROWS, TOKENS, 1))
    return lambda: target.denoise(x, torch.full((ROWS, TOKENS), LEVEL), PATHS["linear"])


def denoise_peer() -> Callable[[], object]:
    """The textbook empirical denoiser: all distances, one softmax, one product."""
    means, x = mixture().means.flatten(1), CounterRandomness(1).normal((ROWS, TOKENS))
    alpha, variance = 1 - LEVEL, (1 - LEVEL) ** 2 * 0.09 + LEVEL**2

    def run() -> object:
        distance = torch.cdist(x, alpha * means).square()
        return torch.softmax(-0.5 * distance / variance, 1) @ means

    return run


def mmd() -> Callable[[], object]:
    x, y = (CounterRandomness(seed).normal((5000, 64)) for seed in (0, 1))
    return lambda: mmd_squared(x, y, 8.0)


def mmd_peer() -> Callable[[], object]:
    """scikit-learn's kernel matrices, diagonals taken out."""
    x, y = (CounterRandomness(seed).normal((5000, 64)).numpy() for seed in (0, 1))

    def run() -> object:
        within = [(k := rbf_kernel(z, gamma=1 / 128)).sum() - len(k) for z in (x, y)]
        return sum(within) / (5000 * 4999) - 2 * rbf_kernel(x, y, gamma=1 / 128).mean()

    return run


PAIRS = {
    "denoiser, 1,000 x 20,000 x 64, against cdist and softmax": (denoise, denoise_peer),
    "MMD squared, 5,000 x 64, against scikit-learn": (mmd, mmd_peer),
}


def high_water() -> float:
    """Peak resident memory of this process in MiB (getrusage would count the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def added_memory(build: Callable[[], Callable[[], object]], pipe: Connection) -> None:
    """Send the MiB by which one run raises the peak of a fresh process."""
    run = build()
    before = high_water()
    run()
    pipe.send(high_water() - before)


def peak(build: Callable[[], Callable[[], object]]) -> float:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=added_memory, args=(build, theirs))
    process.start()
    found = float(ours.recv())
    process.join()
    return found


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    for name, (ours, peer) in PAIRS.items():
        first, second = ours(), peer()
        seconds(first), seconds(second)
        times = [(seconds(first), seconds(second)) for _ in range(RUNS)]
        ratio = statistics.median(a for a, _ in times) / statistics.median(b for _, b in times)
        memory = f"{peak(ours):.0f} MiB against {peak(peer):.0f} MiB"
        print(f"{name}: {ratio:.2f} of the time, {memory}")


if __name__ == "__main__":
    main()
