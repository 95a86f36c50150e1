"""Excerpts of laws that results hold for reports: a few samples, and exact laws of few numbers."""

from __future__ import annotations

from capcheck.core.excerpt import EXAMPLE_NUMBERS, EXAMPLES, excerpt
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian_orders import MixtureLaw
from capcheck.procedures.coordinates import ExactLaw
from capcheck.results.measurement import SampledLaw
from capcheck.results.settings import TargetSummary
from capcheck.targets.categorical.sequence_law import SequenceLaw
from capcheck.targets.target import Target

__all__ = ["kept_law", "summary_of"]


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
        examples=excerpt(target.sample(EXAMPLES, CounterRandomness(seed, name="target"))),
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
