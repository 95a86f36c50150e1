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

import torch
from torch import nn

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.version import class_digest, code_digest
from capcheck.fitting.batches import BatchSource
from capcheck.fitting.checkpoint import (
    Checkpoint,
    content_key,
    under,
)
from capcheck.fitting.networks import Network, as_network
from capcheck.fitting.objectives import Objective as Loss
from capcheck.fitting.registry import RecordedRun, end_to_end, objective_for
from capcheck.fitting.session import FitSession, Progress
from capcheck.networks.kinds import Objective
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets.parameters import require_count
from capcheck.targets.target import Target

__all__ = ["LEARNING_RATE", "STEPS", "Fitted", "fit", "fit_procedure"]

LEARNING_RATE = 2e-3
STEPS = 2000  # of a fit whose steps and time are not given


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
        seconds: Wall-clock time, of all sessions.
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
    family: str | AnyProbe,
    target: Target,
    module: nn.Module,
    *,
    budgets: Sequence[Budget],
    steps: int | None = None,
    seconds: float | None = None,
    batch: int = 512,
    seed: int = 0,
    learning_rate: float = LEARNING_RATE,
    folder: Path | None = None,
    progress: Progress | None = None,
    objective: Objective = "oracle",
) -> Fitted:
    """Fit a module to the oracle on what the procedure shows it, or to the target through it.

    Args:
        family: The procedure: the name of a registered family, or a `Probe`.
        target: The law; its precision is the procedure's, and its device the fit's.
        module: Of the probe's signature, in the probe's coordinates; it is copied.
        budgets: Those that the network will be used at; one for `end_to_end`.
        steps: Of Adam, at least 1; 2,000 by default. The fit is then the same on every CPU.
        seconds: Wall-clock time in place of a number of steps, above 0; how many steps fit into it
            is measured first, and then the plan is kept. Some 20 steps are made even if they take
            longer.
        batch: Rows of a step, at least 2.
        seed: Of all draws.
        learning_rate: Largest of the schedule, above 0.
        folder: Where checkpoints are kept, named by everything that the fit depends on. A fit that
            is found there is continued, or returned if it is finished.
        progress: Told the step, the number of steps and the validation, some 20 times.
        objective: `oracle`: see `registry`; `end_to_end`: the energy distance of the procedure's
            result from the target.

    Raises:
        InputError: A number out of its range, a signature without objective, a module of another
            signature, or a folder that cannot be used.
    """
    probe = build_probe(family) if isinstance(family, str) else family
    return fit_procedure(
        Procedure.of(probe, target),
        module,
        budgets=budgets,
        steps=steps,
        seconds=seconds,
        batch=batch,
        seed=seed,
        learning_rate=learning_rate,
        folder=folder,
        progress=progress,
        objective=objective,
    )


def fit_procedure(
    procedure: AnyProcedure,
    module: nn.Module,
    *,
    budgets: Sequence[Budget],
    steps: int | None = None,
    seconds: float | None = None,
    batch: int = 512,
    seed: int = 0,
    learning_rate: float = LEARNING_RATE,
    folder: Path | None = None,
    progress: Progress | None = None,
    objective: Objective = "oracle",
    distinction: str = "",
) -> Fitted:
    """Fit a module for a procedure on a target; see `fit`.

    Args:
        procedure: With its oracle.
        module: As for `fit`.
        budgets: As for `fit`.
        steps: As for `fit`.
        seconds: As for `fit`.
        batch: As for `fit`.
        seed: As for `fit`.
        learning_rate: As for `fit`.
        folder: As for `fit`.
        progress: As for `fit`.
        objective: As for `fit`.
        distinction: What else tells the module from others of its structure and weights, where a
            finished fit is looked for.

    Raises:
        InputError: As for `fit`.
    """
    began = time.monotonic()
    if steps is None and seconds is None:
        steps = STEPS
    _require(budgets, steps, seconds, batch, learning_rate, module)
    probe, target, given = procedure.probe, procedure.target, procedure.spec.given
    facts = (
        *(repr(probe), target.fingerprint, str(target.dtype), str(target.device), objective),
        *([str(budget) for budget in budgets], seconds, steps, batch, seed, learning_rate),
        *(distinction, given, code_digest(), class_digest(type(probe))),
    )
    path = None if folder is None else Path(folder) / f"{content_key(module, facts)}.safetensors"
    module = copy.deepcopy(module).to(target.device)
    found = None if path is None else Checkpoint.read(path, module)
    if found is not None and found.facts.reason:
        return _fitted(module, found, target.dtype)
    devices = [target.device] if target.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        run = RecordedRun(procedure, budgets=budgets, seed=seed)
        make = end_to_end if objective == "end_to_end" else _to_oracle
        source = BatchSource(make(run), batch=batch, seed=seed, device=target.device)
        session = FitSession(module, source, learning_rate=learning_rate, path=path)
        session.clock(began, seconds)
        if found is None:
            session.begin(steps)
        else:
            session.restore(found)
        session.descend(progress)
        session.finish()
        return _fitted(module, session.save(), target.dtype)


def _to_oracle(run: RecordedRun) -> Loss:
    return objective_for(run.procedure.probe.signature, run)


def _require(
    budgets: Sequence[Budget],
    steps: int | None,
    seconds: float | None,
    batch: int,
    learning_rate: float,
    module: nn.Module,
) -> None:
    if not budgets:
        raise InputError("budgets must hold at least one budget, got none; add one.")
    if steps is not None and seconds is not None:
        raise InputError("steps and seconds exclude each other, got both; give one.")
    for name, value in (("seconds", seconds), ("learning_rate", learning_rate)):
        if value is not None and not (value > 0 and math.isfinite(value)):
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
