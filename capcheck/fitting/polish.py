"""Polish: L-BFGS on one large batch in float64, which ends a fit of a small module.

Problems that are quadratic in the parameters, as linear denoisers are, reach their optimum so. It
costs no more than the steps did: of b rows each step cost b + c, where c rows take as long as what
does not depend on their number, and an evaluation of B rows in float64 costs 2 B + c. Where that
leaves few evaluations the batch is halved.

Source: Liu & Nocedal 1989, "On the limited memory BFGS method".
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

SMALL = 20_000  # parameters below which a module is polished
ROWS_PER_PARAMETER = 16  # at least, where rows carry noise that could be learned by heart
ITERATIONS = 5  # of a round
LAST = 5  # rounds without progress that end it
SETTLED = 1e-3  # share of an exact objective's loss that these rounds lower it by
NOISE = 1e-7  # fall of any other loss, which is estimated, in these rounds
CALL = 512  # rows that take as long as a call of the module and the optimiser without any: c
WIDE = 2  # times that a row costs more in float64
WANTED = {True: 100, False: 30}  # evaluations that a batch is halved for, by whether it is exact
FEWEST_ROWS = 512  # of a batch


@dataclass(frozen=True, kw_only=True)
class Polish:
    """How large a batch is descended, and how often it may be evaluated.

    Attributes:
        rows: B.
        evaluations: Of the loss and its gradient, at most.
    """

    rows: int
    evaluations: int


def affordable(objective: Objective, *, parameters: int, steps: int, batch: int) -> Polish | None:
    """The polish that costs no more than the steps did, or None where it is of no use.

    Args:
        objective: Of the fit.
        parameters: Numbers that are fitted.
        steps: That were made.
        batch: Rows of each.
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
    """A copy of the module, in its own precision, after the descent.

    Args:
        source: Of the fit.
        module: Of fewer than SMALL parameters.
        polish: Batch and evaluations.
        deadline: Of `time.monotonic`, after which nothing more is evaluated; None for no limit.
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
            raise _OverError
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
        except _OverError:  # in the middle of a search along a line
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


class _OverError(Exception):
    """There is no time, or no evaluation, left."""
