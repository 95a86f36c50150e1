"""Excerpts of laws that results hold for reports: a few samples, and exact laws of few numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian_orders import MixtureLaw
from capcheck.procedures.coordinates import ExactLaw
from capcheck.results.measurement import SampledLaw
from capcheck.results.settings import TargetSummary
from capcheck.targets.categorical.sequence_law import SequenceLaw
from capcheck.targets.target import Target

__all__ = ["EXAMPLES", "EXAMPLE_NUMBERS", "examples", "kept_law", "summary_of"]

EXAMPLES = 200  # largest number of samples of a cell that are kept for the report
# Largest number of numbers in the samples that are kept (eight samples are kept in any case), and
# in an exact law that is kept.
EXAMPLE_NUMBERS = 4096


def summary_of(target: Target, seed: int) -> TargetSummary:
    """The summary of a target, with a few of its draws."""
    spec = target.spec
    return TargetSummary(
        fingerprint=target.fingerprint,
        tokens=spec.tokens,
        dim=spec.dim,
        kind=spec.kind,
        grid=spec.grid,
        spread=spec.spread,
        provenance=target.provenance,
        examples=examples(target.sample(EXAMPLES, CounterRandomness(seed, name="target"))),
    )


def kept_law(law: ExactLaw | Unavailable) -> SampledLaw | None:
    """An exact law as data, or None if there is none or if it has more than 4,096 numbers."""
    if isinstance(law, Unavailable):
        return None
    if isinstance(law, SequenceLaw):
        table = law.probabilities
        few = table.numel() <= EXAMPLE_NUMBERS
        return SampledLaw(probabilities=tuple(table.tolist())) if few else None
    laws = law.laws if isinstance(law, MixtureLaw) else (law,)
    if sum(one.covariance.numel() for one in laws) > EXAMPLE_NUMBERS:
        return None
    return SampledLaw(
        weights=tuple(law.weights.tolist()) if isinstance(law, MixtureLaw) else (1.0,),
        means=tuple(tuple(one.mean.tolist()) for one in laws),
        covariances=tuple(tuple(map(tuple, one.covariance.tolist())) for one in laws),
    )


def examples(samples: Tensor) -> list[Any]:
    """The first few samples as nested lists; continuous ones are rounded to four digits."""
    per_row = max(1, samples[0].numel())
    count = min(len(samples), max(8, min(EXAMPLES, EXAMPLE_NUMBERS // per_row)))
    if not samples.is_floating_point():
        integers: list[Any] = samples[:count].tolist()
        return integers
    rows = samples[:count].double().cpu()
    shape = rows.shape
    rounded = [float(f"{value:.4g}") for value in rows.flatten().tolist()]
    nested: list[Any] = torch.tensor(rounded, dtype=torch.float64).reshape(shape).tolist()
    return nested
