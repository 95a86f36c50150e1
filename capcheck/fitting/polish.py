"""A polish ends the fit of a small module: L-BFGS on one large batch in float64.

It brings losses that are quadratic in the parameters, such as those of linear denoisers, to their
optimum. Its cost is at most that of the Adam steps. In units of the time per row, a step of b rows
costs b + c, where c is the fixed cost of a call, and an evaluation of B rows in float64 costs
2 B + c. If this allows only few evaluations, the batch is halved.

Source: Liu & Nocedal 1989, "On the limited memory BFGS method for large scale optimization".
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capcheck.fitting.batches import BatchSource
from capcheck.fitting.objectives import Objective

__all__ = [
    "CALL",
    "FEWEST_ROWS",
    "ITERATIONS",
    "LAST",
    "NOISE",
    "ROWS_PER_PARAMETER",
    "SETTLED",
    "SMALL",
    "WANTED",
    "WIDE",
    "Polish",
    "affordable",
    "polished",
]

SMALL = 20_000  # number of parameters below which a module is polished
ROWS_PER_PARAMETER = 16  # least rows per parameter for an inexact objective, against overfitting
ITERATIONS = 5  # L-BFGS iterations in a round
LAST = 5  # rounds over which progress is measured
SETTLED = 1e-3  # relative fall of an exact loss over these rounds, below which the descent ends
NOISE = 1e-7  # absolute fall of an inexact loss over these rounds, below which the descent ends
CALL = 512  # fixed cost c of a call, in rows
WIDE = 2  # cost of a row in float64, relative to one in the module's precision
WANTED = {True: 100, False: 30}  # evaluations wanted, by whether the objective is exact
FEWEST_ROWS = 512  # rows to which a batch may be halved


@dataclass(frozen=True, kw_only=True)
class Polish:
    """The size of a polish.

    Attributes:
        rows: Number B of rows in the batch.
        evaluations: Largest number of evaluations of the loss and its gradient.
    """

    rows: int
    evaluations: int


def affordable(objective: Objective, *, parameters: int, steps: int, batch: int) -> Polish | None:
    """A polish that costs at most as much as the Adam steps, or None.

    None is returned for large modules, for losses that are not means over rows, for batches with
    too few rows for the parameters, and if fewer than `ITERATIONS` evaluations are possible.

    Args:
        objective: Objective of the fit.
        parameters: Number of fitted parameters.
        steps: Number of Adam steps made.
        batch: Rows per Adam step.
    """
    spent, rows = steps * (batch + CALL), objective.large
    while rows > FEWEST_ROWS and spent < WANTED[objective.exact] * (WIDE * rows + CALL):
        rows //= 2
    enough = objective.exact or ROWS_PER_PARAMETER * parameters <= rows
    evaluations = spent // (WIDE * rows + CALL)
    if parameters >= SMALL or objective.large == 0 or not enough or evaluations < ITERATIONS:
        return None
    return Polish(rows=rows, evaluations=evaluations)


def polished(
    source: BatchSource, module: nn.Module, polish: Polish, *, deadline: float | None
) -> nn.Module:
    """Polish a copy of a module; the copy is returned in the module's precision.

    Args:
        source: Batches of the fit.
        module: Module with fewer than `SMALL` parameters.
        polish: Size of the polish.
        deadline: Time of `time.monotonic` after which the loss is no longer evaluated; None for no
            limit.
    """
    own = {name: x.dtype for name, x in module.state_dict().items()}
    wide = copy.deepcopy(module).double()
    batches = source.large(polish.rows, deadline)
    descent = torch.optim.LBFGS(
        [p for p in wide.parameters() if p.requires_grad],
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        history_size=30,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )
    left = polish.evaluations

    def closure() -> Tensor:
        nonlocal left
        if left == 0 or (deadline is not None and time.monotonic() > deadline):
            raise _BudgetSpentError
        left -= 1
        descent.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for k, batch in enumerate(batches):
            loss = source.loss(wide, batch, k, dtype=torch.float64, name="polish") / len(batches)
            loss.backward()
            total += loss.detach().cpu()
        return total

    losses: list[float] = []
    reached = copy.deepcopy(wide.state_dict())
    while batches:
        try:
            losses.append(float(descent.step(closure)))
        except _BudgetSpentError:  # in the middle of a line search
            wide.load_state_dict(reached)
            break
        reached = copy.deepcopy(wide.state_dict())
        if len(losses) > LAST and not losses[-1 - LAST] - losses[-1] > (
            SETTLED * losses[-1] if source.objective.exact else NOISE
        ):
            break
    narrow = copy.deepcopy(module)
    narrow.load_state_dict({name: x.to(own[name]) for name, x in wide.state_dict().items()})
    return narrow


class _BudgetSpentError(Exception):
    """Raised when no time or no evaluation is left."""
