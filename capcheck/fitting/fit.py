"""Fit: from a module to the nearest that its class comes to the oracle, and how near that is.

Adam with a warm-up and a cosine to 0, then, for small modules whose loss is a mean over rows,
L-BFGS in float64 on one large batch. Batches are functions of the seed and the step alone: a fit
of a number of steps ends in the same weights on the CPU, killed and resumed or not. One of some
seconds makes as many as fit. The validation is

    loss - floor

on rows held out, where the floor is the oracle's own loss: squared error in the tokens' variances,
nats, or a distance, by the signature (see `registry`); 0 is the oracle.

Source: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from capcheck.budget import Budget
from capcheck.chart import chart_of
from capcheck.errors import InputError
from capcheck.fitting.checkpoint import (
    Checkpoint,
    content_key,
    under,
)
from capcheck.fitting.networks import Network, as_network
from capcheck.fitting.objectives import Objective
from capcheck.fitting.registry import Run, end_to_end, objective_for
from capcheck.fitting.sitting import Progress, Sitting
from capcheck.fitting.supply import Supply
from capcheck.probe import AnyProbe
from capcheck.targets.parameters import require_count
from capcheck.targets.target import Target

LEARNING_RATE = 2e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A fitted network, and what the fit came to.

    Attributes:
        network: For `Probe.run`, in the probe's coordinates and the target's precision.
        loss: Of the network's weights on the held-out rows.
        validation: Loss less the oracle's own; 0 is the oracle, and noise may make it negative.
        start: The same before the fit.
        parameters: Numbers that were fitted.
        steps: Of Adam.
        seconds: Wall-clock time, of all sittings.
        diverged: The loss rose or broke; the best weights met are returned, and say nothing about
            what the module could do.
        too_short: No step made it better, or there was time for the fewest steps only; the weights
            say nothing either.
        reason: How the fit ended, in a few words.
    """

    network: Network
    loss: float
    validation: float
    start: float
    parameters: int
    steps: int
    seconds: float
    diverged: bool
    too_short: bool
    reason: str


def fit(
    probe: AnyProbe,
    target: Target,
    module: nn.Module,
    *,
    budgets: Sequence[Budget],
    seconds: float = 60.0,
    steps: int | None = None,
    batch: int = 512,
    seed: int = 0,
    learning_rate: float = LEARNING_RATE,
    folder: Path | None = None,
    progress: Progress | None = None,
    objective: Literal["oracle", "end_to_end"] = "oracle",
    distinction: str = "",
) -> Fitted:
    """Fit a module to the oracle on what the procedure shows it, or to the target through it.

    Args:
        probe: The procedure.
        target: The law; its precision is the procedure's, and its device the fit's.
        module: Of the probe's signature, in the probe's coordinates (see `chart_of`); it is copied.
        budgets: Those that the network will be used at; one for `end_to_end`.
        seconds: Wall-clock time, above 0; how many steps fit into it is measured first, and then
            the plan is kept. Some 20 steps are made even if they take longer. What a fit comes to
            within some seconds depends on the machine.
        steps: Of Adam, in place of what fits into the seconds; a fit is then the same everywhere.
        batch: Rows of a step, at least 2.
        seed: Of all draws.
        learning_rate: Largest of the schedule, above 0.
        folder: Where checkpoints are kept, named by everything that the fit depends on. A fit that
            is found there is continued, or returned if it is finished.
        progress: Told the step, the number of steps and the validation, some 20 times.
        objective: `oracle`: see `registry`; `end_to_end`: the energy distance of the procedure's
            result from the target.
        distinction: What else tells the module from others of its structure and weights, where a
            finished fit is looked for.

    Raises:
        InputError: A number out of its range, a signature without objective, a module of another
            signature, or a folder that cannot be used.
    """
    began = time.monotonic()
    _require(budgets, seconds, steps, batch, learning_rate, module)
    inside = chart_of(probe, target).target
    limit = None if steps is not None else seconds
    facts = (
        *(repr(probe), target.fingerprint, str(target.dtype), str(target.device), objective),
        *([str(budget) for budget in budgets], limit, steps, batch, seed, learning_rate),
        distinction,
    )
    path = None if folder is None else Path(folder) / f"{content_key(module, facts)}.safetensors"
    module = copy.deepcopy(module).to(target.device)
    found = None if path is None else Checkpoint.read(path, module)
    if found is not None and found.facts.reason:
        return _fitted(module, found, target.dtype)
    devices = [target.device] if target.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        run = Run(probe, inside, budgets=budgets, seed=seed)
        make = end_to_end if objective == "end_to_end" else _to_oracle
        supply = Supply(make(run), batch=batch, seed=seed, device=target.device)
        sitting = Sitting(module, supply, learning_rate=learning_rate, path=path)
        sitting.clock(began, limit)
        if found is None:
            sitting.begin(steps)
        else:
            sitting.restore(found)
        sitting.descend(progress)
        sitting.finish()
        return _fitted(module, sitting.save(), target.dtype)


def _to_oracle(run: Run) -> Objective:
    return objective_for(run.probe.signature, run)


def _require(
    budgets: Sequence[Budget],
    seconds: float,
    steps: int | None,
    batch: int,
    learning_rate: float,
    module: nn.Module,
) -> None:
    if not budgets:
        raise InputError("budgets must hold at least one budget, got none; add one.")
    for name, value in (("seconds", seconds), ("learning_rate", learning_rate)):
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"{name} must be finite and above 0, got {value!r}.")
    if steps is not None:
        require_count("steps", steps)
    require_count("batch", batch, least=2)
    if not any(p.requires_grad for p in module.parameters()):
        raise InputError(
            "module must have parameters to be fitted, got none; measure it as it is instead."
        )


def _fitted(module: nn.Module, held: Checkpoint, dtype: torch.dtype) -> Fitted:
    module.load_state_dict(under("best", held.tensors))
    facts = held.facts
    count = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return Fitted(
        network=as_network(module.eval().requires_grad_(False), dtype),
        loss=facts.best + facts.floor,
        validation=facts.best,
        start=facts.start,
        parameters=count,
        steps=facts.step,
        seconds=facts.seconds,
        diverged=facts.diverged,
        too_short=facts.too_short,
        reason=facts.reason,
    )
