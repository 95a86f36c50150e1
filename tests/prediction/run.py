"""A run: what capcheck judges, and how the same is trained.

It names a target, a family with options and a budget, which is all that capcheck is told, and a
network with its width, number of updates and seed, which is all that training is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

__all__ = ["Divergence", "Kind", "Run"]

Kind = Literal["masked", "heads", "window", "denoiser", "causal", "flow_map", "vae"]
"""Kind of the network that is trained."""
Divergence = Literal["kl", "mmd"]


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
