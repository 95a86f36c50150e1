"""The runs of the prediction test, each with a seed of its own.

Every run is a training of its own, also where two runs differ in the number of sampling steps only.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from prediction.run import Run
from prediction.tasks import bounds, characters, digits, forcing, mixture, parity, vae

__all__ = ["OTHERS", "REDUCED", "RUNS", "SIZES", "numbered"]

SEED = 4_100  # of the first run; the others count up


def numbered(runs: list[Run]) -> tuple[Run, ...]:
    """The runs, each with a seed of its own."""
    return tuple(dataclasses.replace(run, seed=SEED + i) for i, run in enumerate(runs))


RUNS = numbered([*parity(), *characters(), *mixture(), *digits(), *forcing(), *vae(), *bounds()])
"""The runs that are ranked and tested against their floors."""

_BY_NAME = {run.name: run for run in RUNS}
GROWN = ("characters, masked, 1 per step", "digits, masked, 1 per step", "plane, DDIM, 32 steps")


def _sized(run: Run, seed: int) -> list[Run]:
    """A shorter and narrower, and a longer and wider training of the same run."""
    sizes: dict[str, dict[str, Any]] = {
        "small": {"width": run.width // 4, "updates": run.updates // 6},
        "large": {"width": run.width * 2, "updates": run.updates * 3 // 2},
    }
    return [
        dataclasses.replace(run, name=f"{run.name}: {word}", of=run.name, seed=seed + i, **size)
        for i, (word, size) in enumerate(sizes.items())
    ]


SIZES = tuple(
    one for i, name in enumerate(GROWN) for one in _sized(_BY_NAME[name], SEED + 100 + 2 * i)
)
"""Smaller and larger trainings of three runs that capcheck calls representable."""

_BELOW = _BY_NAME["parity, masked, 2 per step"]
_PARITY, _ONE_STEP = _BY_NAME["parity, masked, 1 per step"], _BY_NAME["plane, denoiser, 1 step"]
OTHERS = (
    dataclasses.replace(
        _PARITY, name="parity, SiLU", of=_PARITY.name, smooth=True, seed=SEED + 200
    ),
    *(
        dataclasses.replace(
            _BELOW, name=f"parity, 2 per step, seed {i}", of=_BELOW.name, seed=SEED + 300 + i
        )
        for i in range(1, 6)
    ),
    *(
        dataclasses.replace(
            _ONE_STEP,
            name=f"plane, all levels, {updates:,} updates",
            of=_ONE_STEP.name,
            continuous=True,
            updates=updates,
            seed=SEED + 201 + i,
        )
        for i, updates in enumerate((400, 2_500, 6_000))
    ),
)
"""Trainings that the pilot found to end far from their prediction; the page says why."""

REDUCED = tuple(
    dataclasses.replace(_BY_NAME[name], updates=updates, draws=min(_BY_NAME[name].draws, 2_000))
    for name, updates in (
        ("parity, masked, 5 per step", 1_500),
        ("parity of a prompt, window 2", 800),
        ("characters, masked diffusion, 1 step", 800),
        ("plane, DDIM, 4 steps", 1_500),
        ("linear VAE, 2 latent numbers", 3_000),
        ("linear VAE, 4 latent numbers", 3_000),
    )
)
"""Six short trainings for a test."""
