"""Fitting trains a module to imitate the oracle, and measures how close the module comes to it.

The measure is the validation,

    validation = loss - floor,

on held-out rows, where the floor is the oracle's own loss, so that 0 is the oracle. The signature
decides the unit: squared error in units of the tokens' variances, nats, or a distance (see
`registry`).

The optimiser is Adam, whose learning rate warms up and then falls to 0 along a cosine. Small
modules whose loss is a mean over rows are then fitted further by L-BFGS in float64 on one large
batch. Batches depend on the seed and the step only: on the CPU, a fit with a given number of steps
ends in the same weights whether or not it was killed and resumed. A fit with a given time makes as
many steps as fit into that time.

Source: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization",
https://arxiv.org/abs/1711.05101
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from capcheck.core.arguments import (
    file_path,
    function,
    one_of,
    real_number,
    several,
    shown,
    whole_number,
)
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import MAX_SEED, torch_generators
from capcheck.core.version import class_digest, code_digest
from capcheck.fitting.batches import BatchSource, rows_of_a_batch
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
from capcheck.procedures.registry import probe_given
from capcheck.targets.target import Target, require_target

__all__ = ["LEARNING_RATE", "STEPS", "Fitted", "fit", "fit_procedure"]

LEARNING_RATE = 2e-3
STEPS = 2000  # steps of a fit for which neither steps nor seconds are given


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A fitted network and the outcome of its fit.

    Attributes:
        network: Fitted network for `Probe.run`, in the probe's coordinates and the target's
            precision.
        loss: Loss of the network on the held-out rows.
        validation: Loss minus the oracle's loss; 0 is the oracle, and sampling noise can make it
            negative.
        start: Validation before the fit.
        parameters: Number of fitted parameters.
        steps: Number of Adam steps made.
        seconds: Wall-clock time of the fit, over all its sessions.
        diverged: Whether the loss rose or became non-finite. The network then has the best weights
            found, which do not show how well the module could do.
        too_short: Whether no step lowered the validation, or the time sufficed for the minimum
            number of steps only. The weights then do not show how well the module could do.
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
    batch: int | None = None,
    seed: int = 0,
    learning_rate: float = LEARNING_RATE,
    folder: Path | None = None,
    progress: Progress | None = None,
    objective: Objective = "oracle",
) -> Fitted:
    """Fit a module to the oracle on the procedure's inputs, or fit the procedure's output directly.

    Args:
        family: Name of a registered family, or a `Probe`; it defines the procedure.
        target: Law to be generated; the procedure has its precision, and the fit runs on its
            device.
        module: Module with the probe's signature, in the probe's coordinates; it is copied.
        budgets: Budgets at which the network will be used; exactly one for `end_to_end`.
        steps: Number of Adam steps, at least 1; 2,000 if neither `steps` nor `seconds` is given.
            With a number of steps, the fit is the same on every CPU.
        seconds: Wall-clock time, above 0, in place of a number of steps. The number of steps that
            fit into the time is estimated first and then kept. At least 20 steps are planned, even
            if they take longer.
        batch: Rows per step, at least 2; by default 512, or fewer for sequences of many symbols
            (see `rows_of_a_batch`).
        seed: Seed of all random draws.
        learning_rate: Largest learning rate of the schedule, above 0.
        folder: Folder for checkpoints, which are named by a hash of everything that the fit depends
            on. If it holds a checkpoint of the same fit, the fit is resumed, or returned if it is
            finished.
        progress: Callback that receives the step, the number of steps and the validation, about 20
            times per fit.
        objective: `oracle` fits to the oracle (see `registry`); `end_to_end` minimises the energy
            distance between the procedure's output and the target.

    Raises:
        InputError: A number is out of its range, the signature has no objective, the module has
            another signature, or the folder cannot be used.
    """
    probe = probe_given(family)
    require_target(target)
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
    batch: int | None = None,
    seed: int = 0,
    learning_rate: float = LEARNING_RATE,
    folder: Path | None = None,
    progress: Progress | None = None,
    objective: Objective = "oracle",
    distinction: str = "",
) -> Fitted:
    """Fit a module for a procedure on a target; see `fit`.

    Args:
        procedure: Procedure with its oracle as network.
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
        distinction: Text that enters the checkpoint's name, to tell this module from others with
            the same structure and weights.

    Raises:
        InputError: As for `fit`.
    """
    began = time.monotonic()
    if steps is None and seconds is None:
        steps = STEPS
    batch = rows_of_a_batch(procedure.spec) if batch is None else batch
    budgets = _budgets(budgets)
    _require(module, steps, seconds, learning_rate)
    batch, seed = whole_number("batch", batch, 2), whole_number("seed", seed, 0, MAX_SEED)
    one_of("objective", objective, get_args(Objective))
    function("progress", progress, "the step, the number of steps and the validation")
    probe, target, given = procedure.probe, procedure.target, procedure.spec.given
    facts = (
        *(repr(probe), target.fingerprint, str(target.dtype), str(target.device), objective),
        *([str(budget) for budget in budgets], seconds, steps, batch, seed, learning_rate),
        *(distinction, given, code_digest(), class_digest(type(probe))),
    )
    name = f"{content_key(module, facts)}.safetensors"
    path = None if folder is None else file_path("folder", folder, "a folder") / name
    module = copy.deepcopy(module).to(target.device)
    found = None if path is None else Checkpoint.read(path, module)
    if found is not None and found.facts.reason:
        return _fitted(module, found, target.dtype)
    devices = [target.device] if target.device.type == "cuda" else []
    with torch_generators(devices), torch.enable_grad():
        run = RecordedRun(procedure, budgets=budgets, seed=seed)
        make = end_to_end if objective == "end_to_end" else _to_oracle
        source = BatchSource(make(run), batch=batch, seed=seed, device=target.device, steps=steps)
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


def _budgets(budgets: Sequence[Budget]) -> list[Budget]:
    """The budgets as a list.

    Raises:
        InputError: It is empty, or no list of budgets.
    """
    cure = "write [Budget(length=4, steps=1)]"
    found: list[Any] = several("budgets", budgets, "budgets", cure)
    if not found:
        raise InputError("budgets must hold at least one budget, got none; add one.")
    for one in found:
        if not isinstance(one, Budget):
            raise InputError(f"budgets must be a list of budgets, got {shown(one)} in it; {cure}.")
    return found


def _require(
    module: nn.Module, steps: int | None, seconds: float | None, learning_rate: float
) -> None:
    """Raise InputError unless a module can be fitted for such a time at such a rate."""
    if steps is not None and seconds is not None:
        raise InputError("steps and seconds exclude each other, got both; give one.")
    for name, value in (("seconds", seconds), ("learning_rate", learning_rate)):
        if name == "learning_rate" or value is not None:
            real_number(name, value, "finite and above 0", lambda x: 0 < x < float("inf"))
    if steps is not None:
        whole_number("steps", steps, 1)
    if not isinstance(module, nn.Module):
        raise InputError(f"module must be an nn.Module, got {shown(module)}; make one first.")
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
