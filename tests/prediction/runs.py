"""The runs of the prediction test: what capcheck judges, and how the same is trained.

A run names a target, a family with options and a budget, which is all that capcheck is told, and
a network with its width, number of updates and seed, which is all that training is told. Every run
is a training of its own, also where two runs differ in the number of sampling steps only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["OTHERS", "REDUCED", "RUNS", "SIZES", "Divergence", "Kind", "Run", "numbered"]

Kind = Literal["masked", "heads", "window", "denoiser", "causal", "flow_map", "vae"]
"""Kind of the network that is trained."""
Divergence = Literal["kl", "mmd"]
SEED = 4_100  # of the first run; the others count up


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One prediction and one training.

    Attributes:
        name: Name of the run, as in the table.
        task: Task whose colour the run has in the scatter plot.
        target: Name of the target, see `prediction.targets`.
        family: Family that capcheck judges.
        options: Options of the family.
        steps: Budget of refinement steps; the length is always that of the whole sequence.
        kind: Kind of the network that is trained.
        width: Width of its hidden layers, or its latent numbers.
        smooth: Whether a masked predictor of token ids has SiLU in place of ReLU.
        continuous: Whether a denoiser is trained at all levels, and not at the sampler's only.
        updates: Number of updates of the optimiser.
        batch: Draws of the target in an update, each used once.
        draws: Fresh draws of the target over which the outcome is averaged, or per replicate.
        divergence: Divergence of prediction and outcome.
        seed: Seed of the training.
        of: Name of the run of which this one is another training, or empty.
    """

    name: str
    task: str
    target: str
    family: str
    options: Mapping[str, int | bool | str]
    steps: int = 1
    kind: Kind
    width: int = 128
    smooth: bool = False
    continuous: bool = False
    updates: int = 2_500
    batch: int = 256
    draws: int = 10_000
    divergence: Divergence = "kl"
    seed: int = 0
    of: str = ""


def _parity() -> list[Run]:
    """Six bits with an even number of ones: masked prediction, k tokens per step."""
    common: dict[str, Any] = {"task": "parity", "family": "maskgit"}
    runs = [
        Run(
            name=f"parity, masked, {k} per step",
            target="parity:6",
            options={"tokens_per_round": k},
            kind="masked",
            **common,
        )
        for k in (1, 2, 5)
    ]
    runs += [
        Run(
            name=f"rare parity, masked, {k} per step",
            target="parity:6,ones=0.2",
            options={"tokens_per_round": k},
            kind="masked",
            **common,
        )
        for k in (3, 5)
    ]
    runs += [
        Run(
            name=f"rare parity, {h} heads",
            task="parity",
            target="parity:6,ones=0.2",
            family="multi_token",
            options={"heads": h},
            kind="heads",
        )
        for h in (2,)
    ]
    runs += [
        Run(
            name=f"parity of a prompt, window {w}{note}",
            task="parity",
            target=target,
            family="gpt",
            options={"window": w},
            kind="window",
            updates=1_500,
        )
        for w, target, note in (
            (2, "chain-parity:4,scratch=no", ""),
            (2, "chain-parity:4,scratch=yes", ", scratchpad"),
        )
    ]
    return runs


def _characters() -> list[Run]:
    """Windows of four characters of English, as a Markov chain."""
    runs = [
        Run(
            name=f"characters, masked diffusion, {k} step{'s' if k > 1 else ''}",
            task="characters",
            target="characters",
            family="masked_diffusion",
            options={"remask": False},
            steps=k,
            kind="masked",
        )
        for k in (1, 2, 4)
    ]
    runs += [
        Run(
            name=f"characters, masked, {k} per step",
            task="characters",
            target="characters",
            family="maskgit",
            options={"tokens_per_round": k},
            kind="masked",
        )
        for k in (1, 2)
    ]
    runs += [
        Run(
            name=f"characters, {h} heads" if h > 1 else "characters, 1 head",
            task="characters",
            target="characters",
            family="multi_token",
            options={"heads": h},
            kind="heads",
        )
        for h in (1, 2)
    ]
    return runs


def _mixture() -> list[Run]:
    """Three modes in the plane."""
    runs = [
        Run(
            name=f"plane, DDIM, {k} steps",
            task="plane",
            target="modes:tokens=2,modes=3,gap=4",
            family="diffusion",
            options={},
            steps=k,
            kind="denoiser",
            updates=3_000,
            draws=4_000 if k < 32 else 2_000,
        )
        for k in (2, 4, 8, 32)
    ]
    return runs + _one_call("plane", "modes:tokens=2,modes=3,gap=4", 128)


def _digits() -> list[Run]:
    """Eight principal components of handwritten digits, as a mixture of Gaussians."""
    runs = [
        Run(
            name=f"digits, DDIM, {k} steps",
            task="digits",
            target="digits",
            family="diffusion",
            options={},
            steps=k,
            kind="denoiser",
            updates=3_000,
            draws=2_000,
        )
        for k in (4, 16)
    ]
    runs += [
        Run(
            name=f"digits, masked, {k} per step",
            task="digits",
            target="digits",
            family="maskgit",
            options={"tokens_per_round": k},
            kind="masked",
            draws=3_000,
        )
        for k in (1, 2, 8)
    ]
    return runs + _one_call("digits", "digits", 128)


def _one_call(task: str, target: str, width: int) -> list[Run]:
    """A flow map and a denoiser that make a sample in one call."""
    common: dict[str, Any] = {"task": task, "target": target, "divergence": "mmd"}
    return [
        Run(
            name=f"{task}, denoiser, 1 step",
            family="diffusion",
            options={},
            kind="denoiser",
            width=width,
            draws=500,
            **common,
        ),
        Run(
            name=f"{task}, flow map, 1 step",
            family="flow_map",
            options={},
            kind="flow_map",
            width=width,
            updates=5_000,
            draws=500,
            **common,
        ),
    ]


def _forcing() -> list[Run]:
    """Diffusion Forcing on four correlated tokens."""
    runs = []
    for causal, schedule, k in (
        (False, "full_sequence", 4),
        (False, "full_sequence", 16),
        (True, "full_sequence", 16),
        (True, "autoregressive", 16),
    ):
        words = f"{'causal' if causal else 'bidirectional'}, {schedule.replace('_', ' ')}"
        runs.append(
            Run(
                name=f"forcing, {words}, {k} steps",
                task="forcing",
                target="gaussian:ar1,tokens=4,rho=0.9",
                family="diffusion_forcing",
                options={"causal": causal, "schedule": schedule},
                steps=k,
                kind="causal" if causal else "denoiser",
                width=64 if causal else 128,
                updates=3_000,
                draws=3_000,
            )
        )
    return runs


def _vae() -> list[Run]:
    """Linear VAEs on eight correlated tokens."""
    return [
        Run(
            name=f"linear VAE, {q} latent number{'s' if q > 1 else ''}",
            task="linear VAE",
            target="gaussian:ar1,tokens=8,rho=0.9",
            family="vae",
            options={"latent": q, "noise": "shared"},
            kind="vae",
            width=q,
            updates=5_000,
        )
        for q in (1, 2, 4, 7)
    ]


def _bounds() -> list[Run]:
    """Further runs whose floor holds for every network; see `prediction.verdict.bounds`."""
    runs = [
        Run(
            name=f"rare parity, {h} heads",
            task="parity",
            target="parity:6,ones=0.2",
            family="multi_token",
            options={"heads": h},
            kind="heads",
        )
        for h in (3, 5)
    ]
    runs += [
        Run(
            name=f"parity of a prompt, window {w}",
            task="parity",
            target="chain-parity:4,scratch=no",
            family="gpt",
            options={"window": w},
            kind="window",
            updates=1_500,
        )
        for w in (3, 4)
    ]
    runs += [
        Run(
            name=f"linear VAE, {q} latent numbers",
            task="linear VAE",
            target="gaussian:ar1,tokens=8,rho=0.9",
            family="vae",
            options={"latent": q, "noise": "shared"},
            kind="vae",
            width=q,
            updates=5_000,
        )
        for q in (3, 5)
    ]
    return [
        *runs,
        Run(
            name="characters, 3 heads",
            task="characters",
            target="characters",
            family="multi_token",
            options={"heads": 3},
            kind="heads",
        ),
        Run(
            name="rare parity, 1 head",
            task="parity",
            target="parity:6,ones=0.2",
            family="multi_token",
            options={"heads": 1},
            kind="heads",
        ),
    ]


def numbered(runs: list[Run]) -> tuple[Run, ...]:
    """The runs, each with a seed of its own."""
    return tuple(dataclasses.replace(run, seed=SEED + i) for i, run in enumerate(runs))


RUNS = numbered(
    [*_parity(), *_characters(), *_mixture(), *_digits(), *_forcing(), *_vae(), *_bounds()]
)
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
