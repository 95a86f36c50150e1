"""The structure of a sampler, seen with a network that knows a single data point.

The exact denoiser of a single point c answers c at every level. Whatever a sampler does with it,
its samples must be c: what scatters is noise that is left over, and what misses c is a bias of the
rule.
The levels at which it asks tell its steps, and its first input tells its starting noise.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.samplers.findings import Finding, FindingKind
from capcheck.samplers.sampler import Sampler, sampled

__all__ = [
    "MISMATCH",
    "OTHER_POINT",
    "POINT",
    "PRIOR",
    "ROWS",
    "SCALE",
    "SCATTER",
    "Seen",
    "finding_of",
    "lint",
    "look",
    "of_errors",
]

ROWS = 256
POINT = 0.5
"""The data point, inside of [-1, 1], to which some samplers clip."""

OTHER_POINT = -0.3
"""The data point of a second look."""

SCATTER = 0.005  # largest deviation, and largest bias, of data of the order of 1
PRIOR = 1e-3  # largest power of the signal in units of the noise's at the first level
MISMATCH = 0.1  # largest logarithm of the own noise over that which the network is told
SCALE = 0.02  # largest relative error of the starting noise's deviation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """A run with the network of a single data point.

    Attributes:
        asked: Number of steps asked for.
        levels: Level of every call, from 1 (noise) to 0.
        scale: Deviation of the noise in the first input, in units of the noise's at its level.
        deviation: Root mean square of the samples about their mean.
        bias: Distance of their mean from the point.
        draws: Number of draws of random numbers.
        unguided: Number of draws without the generator.
        calls: Number of calls of a decoder's model.
        mismatch: See `Sampler`.
        told: See `Sampler`.
        error: The exception, or None.
    """

    asked: int
    levels: tuple[float, ...] = ()
    scale: float = 1.0
    deviation: float = 0.0
    bias: float = 0.0
    draws: int = 0
    unguided: int = 0
    calls: int = 0
    mismatch: float = 0.0
    told: tuple[float, ...] = ()
    error: str | None = None

    @property
    def signal(self) -> float:
        """Power of the signal in units of the noise's at the first level; infinite at level 0."""
        if not self.levels:
            return 0.0
        return 1 / math.tan(math.pi * self.levels[0] / 2) ** 2 if self.levels[0] else math.inf


def look(sampler: Sampler, steps: int, seed: int = 0, point: float = POINT) -> Seen:
    """Run a sampler on a single data point, all of whose numbers are `point`."""
    levels: list[float] = []
    first: list[Tensor] = []

    def denoise(x_t: Tensor, t: float, s: float = 0.0) -> Tensor:
        levels.append(t)
        if not first:
            first.append(x_t)
        x_0 = torch.full_like(x_t, point)
        if s == 0:
            return x_0
        (a, b), (c, r) = ((math.cos(math.pi * u / 2), math.sin(math.pi * u / 2)) for u in (t, s))
        return c * x_0 + r / b * (x_t - a * x_0)  # the flow of a single point is a line

    rng = CounterRandomness(seed, name="lint")
    noise = rng.normal((ROWS, 2, 1))
    try:
        samples, drawing = sampled(sampler, denoise, noise, steps, rng)
        x = samples.double()
    except Exception as error:  # whatever other people's code raises is the result
        return Seen(asked=steps, error=f"{type(error).__name__}: {error}".split("\n")[0])
    if not bool(x.isfinite().all()):
        return Seen(asked=steps, error="the samples are not finite")
    sigma = math.sin(math.pi * levels[0] / 2) if levels else 1.0
    start = first[0].double() if first else noise
    along = float((start * noise).sum() / noise.square().sum())
    return Seen(
        asked=steps,
        levels=tuple(levels),
        scale=along / sigma if sigma else math.inf,
        deviation=float(x.std()),
        bias=float((x.mean() - point).abs()),
        draws=drawing.draws,
        unguided=drawing.unguided,
        mismatch=sampler.mismatch,
        told=sampler.told,
    )


def lint(seen: Iterable[Seen]) -> list[Finding]:
    """The findings of runs at several numbers of steps."""
    runs = list(seen)
    good = [run for run in runs if run.error is None]
    found = [
        finding_of(
            "fewer_steps",
            [run for run in good if len(set(run.levels)) < run.asked],
            lambda run: (
                f"{run.asked} steps were asked for, and the network was asked at "
                f"{len(set(run.levels))} levels"
            ),
            levels=lambda run: len(set(run.levels)),
        ),
        finding_of(
            "repeated_level",
            [run for run in good if len(run.levels) == run.asked and _repeats(run)],
            lambda run: (
                f"of {run.asked} steps, {_repeats(run)} ask at the level of the step before"
            ),
            repeated=_repeats,
        ),
        finding_of(
            "repeated_level",
            [run for run in good if len(run.levels) == run.asked and _collisions(run)],
            lambda run: (
                f"rounded to bfloat16, {_collisions(run)} of the {run.asked} timesteps equal the "
                "one before, and a network that is told them so cannot tell these steps apart"
            ),
            collisions=_collisions,
        ),
        finding_of(
            "prior_mismatch",
            [run for run in good if run.signal > PRIOR or abs(run.scale - 1) > SCALE],
            _of_prior,
            signal_to_noise=lambda run: run.signal,
            noise_scale=lambda run: run.scale,
        ),
        finding_of(
            "leftover_noise",
            [run for run in good if run.deviation > SCATTER],
            lambda run: f"samples of a single data point scatter by {run.deviation:.2g}",
            deviation=lambda run: run.deviation,
        ),
        finding_of(
            "biased_rule",
            [run for run in good if run.bias > SCATTER],
            lambda run: f"samples of a single data point miss it by {run.bias:.2g}",
            bias=lambda run: run.bias,
        ),
        finding_of(
            "biased_rule",
            [run for run in good if run.mismatch > MISMATCH],
            lambda run: (
                f"the noise by its own numbers differs by up to {run.mismatch:.1%} from "
                "that of the timestep which the network is told"
            ),
            mismatch=lambda run: run.mismatch,
        ),
        finding_of(
            "ignores_generator",
            [run for run in good if run.unguided],
            lambda run: f"{run.unguided} of {run.draws} draws are made without the generator",
            unguided=lambda run: run.unguided,
        ),
    ]
    return [*of_errors(runs), *(finding for finding in found if finding is not None)]


def of_errors(runs: Sequence[Seen]) -> list[Finding]:
    """A finding for each exception."""
    found = []
    for error in dict.fromkeys(run.error for run in runs if run.error):
        steps = tuple(run.asked for run in runs if run.error == error)
        found.append(Finding(kind="raises", sentence=error, steps=steps))
    return found


def _of_prior(run: Seen) -> str:
    if run.levels and run.levels[0] == 0:
        return (
            "the first call is at t = 0, where nothing is noisy: t runs from 1 (noise) to 0 "
            "(data), so that code which counts the other way must call network(x, 1 - t)"
        )
    if abs(run.scale - 1) > SCALE:
        return (
            f"the starting noise is {run.scale:.3g} times as wide as that which the network was "
            "trained on at the first level that it is told; the noise or that level is wrong"
        )
    return (
        f"at the first level the network was trained on a signal of {run.signal:.2g} of the "
        "noise's power, and the starting noise has none: means and slow structure are lost"
    )


def _repeats(run: Seen) -> int:
    return sum(a == b for a, b in itertools.pairwise(run.levels))


def _collisions(run: Seen) -> int:
    """Number of timesteps that differ from the one before, and do not in bfloat16."""
    told = torch.tensor(run.told, dtype=torch.float64)
    rounded = told.bfloat16()
    return int(((rounded[1:] == rounded[:-1]) & (told[1:] != told[:-1])).sum())


def finding_of(
    kind: FindingKind,
    runs: Sequence[Seen],
    sentence: Callable[[Seen], str],
    **evidence: Callable[[Seen], float],
) -> Finding | None:
    """A finding of several runs, told by the one of most steps; None if there are no runs.

    Args:
        kind: Kind of the finding.
        runs: The runs at which it was seen.
        sentence: Function that tells it of a run.
        **evidence: Functions that return the numbers behind it.
    """
    if not runs:
        return None
    worst = max(runs, key=lambda run: run.asked)
    return Finding(
        kind=kind,
        sentence=sentence(worst),
        steps=tuple(run.asked for run in runs),
        evidence={name: [of(run) for run in runs] for name, of in evidence.items()},
    )
