"""Polish: L-BFGS on one large batch in float64, which ends a fit of a small module.

Problems that are quadratic in the parameters, as linear denoisers are, reach their optimum so.

Source: Liu & Nocedal 1989, "On the limited memory BFGS method".
"""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor, nn

from capcheck.fitting.batches import BatchSource
from capcheck.fitting.objectives import Objective

SMALL = 20_000  # parameters below which a module is polished
ROWS_PER_PARAMETER = 16  # at least, where rows carry noise that could be learned by heart
ITERATIONS = 5  # of a round
LAST = 5  # rounds without progress that end it
MOST = 400  # of them
SETTLED = 1e-3  # share of an exact objective's loss that these rounds lower it by
NOISE = 1e-7  # fall of any other loss, which is estimated, in these rounds


def can_polish(objective: Objective, parameters: int) -> bool:
    """Whether a module of so many parameters is small, and the batch large enough for it."""
    enough = objective.exact or ROWS_PER_PARAMETER * parameters <= objective.large
    return parameters < SMALL and objective.large > 0 and enough


def polished(
    source: BatchSource, module: nn.Module, *, iterations: int, deadline: float | None
) -> nn.Module:
    """A copy of the module, in its own precision, after the descent.

    Args:
        source: Of the fit.
        module: Of fewer than SMALL parameters.
        iterations: At most so many, and at most MOST.
        deadline: Of `time.monotonic`, after which nothing more is evaluated; None for no limit.
    """
    own = {name: x.dtype for name, x in module.state_dict().items()}
    wide = copy.deepcopy(module).double()
    batches = source.large(deadline)
    descent = torch.optim.LBFGS(
        [p for p in wide.parameters() if p.requires_grad],
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        history_size=30,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        if deadline is not None and time.monotonic() > deadline:
            raise _TimeOverError
        descent.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for k, batch in enumerate(batches):
            loss = source.loss(wide, batch, k, dtype=torch.float64, name="polish") / len(batches)
            loss.backward()
            total += loss.detach().cpu()
        return total

    losses: list[float] = []
    reached = copy.deepcopy(wide.state_dict())
    for _ in range(0, min(iterations, MOST) if batches else 0, ITERATIONS):
        try:
            losses.append(float(descent.step(closure)))
        except _TimeOverError:  # in the middle of a search along a line
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


class _TimeOverError(Exception):
    """There is no time for another evaluation."""
