"""Where the time of a survey goes: shares of its CPU time by the part of capcheck that spent it.

    .venv/bin/python tests/benchmarks/survey.py [digits] [pixels] [text] [images] [--seconds N]

Each survey runs in a fresh process with one thread and no workers, by default for at most 120
seconds of it, under Python's profiler. The time inside torch, numpy and scipy counts for the line
of capcheck that called it. Shares travel between machines and seconds do not; the profiler slows
down what consists of many small calls, so that a share is right to a few points. Peak memory is
that of the whole process (Linux). `images` is made from noise of rank 40: 60,000 x 784 numbers.
"""

from __future__ import annotations

import cProfile
import multiprocessing
import pstats
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import capcheck
from capcheck.data.layout import Layout
from capcheck.data.loading import load_target
from capcheck.targets import Target, from_samples

PARTS = {
    "targets": "oracle calls",
    "networks": "oracle calls",
    "laws": "laws of tokens",
    "divergences": "divergences",
    "diagnostics": "diagnostics",
    "exact": "log-densities",
    "fitting": "fits",
    "procedures": "procedures",
    "probes": "procedures",
    "noise": "procedures",
    "data": "reading",
    "runs": "engine",
    "results": "engine",
    "judging": "verdicts",
    "core": "random numbers and sums",
}
ROOT = str(Path(capcheck.__file__).parent)
Entry = tuple[str, int, str]  # file, line and name of a function


class Limited:
    """Takes the progress of a survey, and ends it at its next report after some seconds."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.ended = False

    def __call__(self, progress: capcheck.Progress) -> None:
        """Raise KeyboardInterrupt once the time is over, as a user would."""
        if time.monotonic() > self._end:
            self.ended = True
            raise KeyboardInterrupt


def digits() -> Target:
    """8 tokens of one number, under the law of the rows."""
    return load_target("digits", Layout())


def pixels() -> Target:
    """64 tokens of one number."""
    return load_target("digits", Layout(grid=(8, 8)))


def text() -> Target:
    """128 characters."""
    return load_target("text", Layout(tokens=128))


def images() -> Target:
    """60,000 rows of 784 numbers of rank 40, with noise."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60_000, 40)) @ rng.standard_normal((40, 784))
    rows = np.tanh(rows / 6) + 0.1 * rng.standard_normal(rows.shape)
    return from_samples(rows.astype(np.float32)[..., None])


NAMES: dict[str, Callable[[], Target]] = {
    "digits": digits,
    "pixels": pixels,
    "text": text,
    "images": images,
}


def shares(profile: cProfile.Profile) -> Counter[str]:
    """Seconds of CPU time by part, each call of a library counted for its caller in capcheck."""
    found: Counter[str] = Counter()
    stats: dict[Entry, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    owners: dict[Entry, Counter[str]] = {}

    def owner(entry: Entry, seen: frozenset[Entry]) -> Counter[str]:
        """The parts that called a function, with their shares of its time."""
        if entry[0].startswith(ROOT):
            part = entry[0].removeprefix(ROOT).strip("/").split("/")[0]
            return Counter({PARTS.get(part, "other"): 1.0})
        if entry in owners:
            return owners[entry]
        total: Counter[str] = Counter()
        callers = stats[entry][4] if entry in stats else {}
        for caller, (_, _, _, spent) in callers.items():
            if caller not in seen:
                for part, share in owner(caller, seen | {caller}).items():
                    total[part] += share * spent
        whole = sum(total.values())
        owned = {part: spent / whole for part, spent in total.items()} if whole else {"other": 1.0}
        owners[entry] = Counter(owned)
        return owners[entry]

    for entry, (_, _, own, _, _) in stats.items():
        for part, share in owner(entry, frozenset({entry})).items():
            found[part] += share * own
    return found


def measure(name: str, seconds: float) -> None:
    """Profile one survey, and print its shares."""
    torch.set_num_threads(1)
    sys.setrecursionlimit(10_000)
    progress, profile = Limited(seconds), cProfile.Profile(time.process_time)
    before = time.process_time()
    profile.enable()
    try:
        target = NAMES[name]()
        capcheck.survey(target, steps=[1, 16], samples=500, progress=progress)
    except KeyboardInterrupt:
        if not progress.ended:
            raise
    finally:
        profile.disable()
    found, spent = shares(profile), time.process_time() - before
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    ended = "ended by its limit" if progress.ended else "whole"
    print(f"\n{name}: {spent:.0f} CPU seconds ({ended}), {memory:.0f} MiB at its peak")
    whole = sum(found.values())
    for part, of_part in found.most_common():
        print(f"    {part:24s} {of_part / whole:6.1%}", flush=True)


def main() -> None:
    """Measure the named surveys, or all of them, each in a process of its own."""
    arguments = sys.argv[1:]
    seconds = 120.0
    if "--seconds" in arguments:
        at = arguments.index("--seconds")
        seconds = float(arguments[at + 1])
        del arguments[at : at + 2]
    context = multiprocessing.get_context("spawn")
    for name in arguments or NAMES:
        process = context.Process(target=measure, args=(name, seconds))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
