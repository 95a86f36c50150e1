"""The targets of the runs, and draws of them: all that a training gets from capcheck."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.data import Layout, load_target
from capcheck.targets import from_spec
from capcheck.targets.target import Target

__all__ = ["batches", "fresh", "target_of"]

POOL = 1 << 16  # draws that are made at once


@functools.cache
def target_of(name: str) -> Target:
    """The target of a name: `characters`, `digits`, or a spec of capcheck.

    `characters` is a Markov chain of order 1 fitted to windows of four characters of scikit-learn's
    descriptions of data sets. `digits` is a mixture of eight Gaussians fitted to the eight leading
    whitened principal components of scikit-learn's digits.
    """
    if name == "characters":
        return load_target("text", Layout(tokens=4), law="markov:1")
    if name == "digits":
        return load_target("digits", Layout(), law="mixture:8")
    return from_spec(name)


def fresh(target: Target, seed: int, purpose: str, n: int) -> Tensor:
    """Draws of a target that depend on the seed and the purpose, (n, N) or (n, N, 1) float64."""
    return target.sample(n, CounterRandomness(seed, name=f"prediction test, {purpose}"))


def batches(target: Target, seed: int, batch: int) -> Iterator[Tensor]:
    """Batches of draws without end, none of them twice; numbers are in single precision."""
    pool = 0
    while True:
        rows = fresh(target, seed, f"training {pool}", POOL // batch * batch)
        rows = rows.float() if target.spec.kind == "continuous" else rows
        yield from torch.split(rows, batch)
        pool += 1
