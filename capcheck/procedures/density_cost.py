"""The cost of a log-density, and the number of rows at which it is affordable."""

from __future__ import annotations

from capcheck.core.budget import Budget
from capcheck.core.unavailable import Unavailable
from capcheck.procedures.procedure import AnyProcedure
from capcheck.targets.target import ContinuousTarget

__all__ = [
    "FEWEST_ROWS",
    "MOST_ROWS",
    "NETWORK_ROWS",
    "QUICK",
    "SECONDS",
    "WORK",
    "affordable_rows",
]

FEWEST_ROWS = 100  # fewest rows at which a log-density is evaluated
NETWORK_ROWS = 200  # rows of a network that is no oracle, which is differentiated by torch
WORK = 2.4e11  # most multiply-adds of a log-density at all rows
QUICK = 8  # part of that work that is done in any case, at more rows than there are samples
MOST_ROWS = 16_384  # most rows at which a log-density is evaluated for that reason
SECONDS = 4.0  # time that these take on two cores, about


def affordable_rows(
    procedure: AnyProcedure, budget: Budget, samples: int
) -> int | Unavailable | None:
    """The number of rows at which to evaluate `Procedure.log_density`; None if it is always fast.

    It is the number of samples, or fewer if these would take more than some seconds, or more if
    more take less than half a second. If it is below `FEWEST_ROWS`, the log-density counts as
    unavailable.
    """
    target = procedure.target
    each = procedure.probe.derivatives(procedure.spec, budget)
    if not each or not isinstance(target, ContinuousTarget):
        return None
    if procedure.substitute is not None:  # its cost does not depend on the target
        return NETWORK_ROWS
    rows = int(WORK / (each * target.derivative_cost))
    if rows >= FEWEST_ROWS:
        return min(rows, max(samples, min(rows // QUICK, MOST_ROWS)))
    minutes = FEWEST_ROWS * SECONDS / max(rows, 0.01) / 60
    return Unavailable(
        reason=f"the exact log-density of {FEWEST_ROWS} draws would take about {minutes:.2g} "
        "minutes"
    )
