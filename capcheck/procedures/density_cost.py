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
    "OVERHEAD",
    "QUICK",
    "WORK",
    "affordable_rows",
]

FEWEST_ROWS = 100  # fewest rows at which a log-density is evaluated
NETWORK_ROWS = 200  # rows of a network that is no oracle, which is differentiated by torch
WORK = 6e10  # multiply-adds of a log-density that two cores do in a second, about
OVERHEAD = 6e4  # multiply-adds in the time that a derivative takes beside the target's own work
QUICK = 0.5  # seconds that are spent in any case, at more rows than there are samples
MOST_ROWS = 16_384  # most rows at which a log-density is evaluated for that reason


def affordable(
    procedure: AnyProcedure, budget: Budget, samples: int, seconds: float
) -> tuple[AnyProcedure, int | None] | Unavailable:
    """The procedure whose log-density fits into some seconds, and the number of its rows.

    It is the procedure itself, or the one with a cheaper log-density; see `affordable_rows`.

    Args:
        procedure: The procedure.
        budget: Largest length and number of steps.
        samples: Number of samples of a cell.
        seconds: Most time that the log-density of a cell may take.
    """
    rows = affordable_rows(procedure, budget, samples, seconds)
    cheaper = procedure.with_cheaper_density()
    if isinstance(rows, Unavailable) and cheaper is not None:
        return affordable(cheaper, budget, samples, seconds)
    return rows if isinstance(rows, Unavailable) else (procedure, rows)


def affordable_rows(
    procedure: AnyProcedure, budget: Budget, samples: int, seconds: float
) -> int | Unavailable | None:
    """The number of rows at which to evaluate `Procedure.log_density`; None if it is always fast.

    It is the number of samples; or fewer if these would take longer than the given time; or more if
    more take less than half a second. The time is that of an idle machine with two cores, and is
    computed and not measured, so that the number does not depend on the machine. If fewer than
    `FEWEST_ROWS` fit into the time, the log-density counts as unavailable.

    Args:
        procedure: The procedure.
        budget: Largest length and number of steps.
        samples: Number of samples of a cell.
        seconds: Most time that the log-density of a cell may take.
    """
    target, probe = procedure.target, procedure.probe
    each = probe.derivatives(procedure.spec, budget)
    if not each or not isinstance(target, ContinuousTarget):
        return None
    if procedure.substitute is not None:  # its cost does not depend on the target
        return NETWORK_ROWS
    work = each * (target.derivative_cost + OVERHEAD) + probe.density_work(procedure.spec, budget)
    rows = int(seconds * WORK / work)
    if rows >= FEWEST_ROWS:
        return min(rows, max(samples, min(int(QUICK * WORK / work), MOST_ROWS)))
    needed = FEWEST_ROWS * work / WORK
    return Unavailable(
        reason=f"the exact log-density of {FEWEST_ROWS} draws would take some {needed:.2g} seconds "
        f"in place of {seconds:g} (--seconds-per-cell)"
    )
