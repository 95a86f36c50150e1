"""The cost of a log-density and of a run, and the number of rows at which it is affordable."""

from __future__ import annotations

import math

from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.unavailable import Unavailable
from capcheck.procedures.procedure import AnyProcedure
from capcheck.targets.target import CategoricalTarget, ContinuousTarget

__all__ = [
    "DECIDED_ROWS",
    "FEWEST_ROWS",
    "FEWEST_SEQUENCES",
    "MARGIN",
    "MOST_ROWS",
    "NETWORK_ROWS",
    "OVERHEAD",
    "PILOT_ERRORS",
    "PILOT_ROWS",
    "PRECISION",
    "QUICK",
    "SLOW",
    "TINY",
    "WORK",
    "affordable",
    "affordable_draws",
    "affordable_rows",
    "affordable_sequences",
    "decided_rows",
    "pilot_pays",
    "rows_that_decide",
    "work_of_density",
]

FEWEST_ROWS = 100  # fewest rows at which a log-density is evaluated
FEWEST_SEQUENCES = 16  # fewest sequences along which drafts are verified
NETWORK_ROWS = 200  # rows of a network that is no oracle, which is differentiated by torch
WORK = 6e10  # multiply-adds of a log-density that two cores do in a second, about
OVERHEAD = 6e4  # multiply-adds in the time that a derivative takes beside the target's own work
QUICK = 0.15  # seconds that are spent in any case, at more rows than there are samples
MOST_ROWS = 16_384  # most rows at which a log-density is evaluated for that reason
PILOT_ROWS = 100  # rows that tell how many more are needed
DECIDED_ROWS = 256  # fewest rows of a log-density after a pilot
SLOW = 1.0  # seconds of a log-density from which a pilot pays
MARGIN = 6.0  # standard errors between KL and its tolerance at which more rows decide nothing new
PILOT_ERRORS = 2.0  # standard errors by which the pilot's KL may be nearer to the tolerance
PRECISION = 0.1  # standard error, as a share of KL, at which more rows tell nothing new
TINY = 1e-100  # keeps a quotient and its square finite


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
    """The number of rows at which to evaluate `Procedure.log_density`; None for all samples.

    It is the number of samples; or fewer if these would take longer than the given time; or more if
    more take less than `QUICK` seconds. The time is that of an idle machine with two cores, and is
    computed and not measured, so that the number does not depend on the machine. If fewer than
    `FEWEST_ROWS` fit into the time, the log-density counts as unavailable; that of token ids is
    evaluated at so many in any case, and never at more than there are samples.

    Args:
        procedure: The procedure.
        budget: Largest length and number of steps.
        samples: Number of samples of a cell.
        seconds: Most time that the log-density of a cell may take.
    """
    work = work_of_density(procedure, budget)
    if not work:
        return None
    if isinstance(procedure.target, CategoricalTarget):
        return min(samples, max(FEWEST_ROWS, int(seconds * WORK / work)))
    if procedure.substitute is not None:  # its cost does not depend on the target
        return NETWORK_ROWS
    rows = int(seconds * WORK / work)
    if rows >= FEWEST_ROWS:
        return min(rows, max(samples, min(int(QUICK * WORK / work), MOST_ROWS)))
    needed = FEWEST_ROWS * work / WORK
    return Unavailable(
        reason=f"the exact log-density of {FEWEST_ROWS} draws would take some {needed:.2g} seconds "
        f"in place of {seconds:g} (--seconds-per-cell)"
    )


def pilot_pays(procedure: AnyProcedure, budget: Budget, rows: int | None) -> bool:
    """Whether to look at `PILOT_ROWS` first, as the log-density of so many rows takes long.

    It takes rows that are not used again, which it must be able to save twice. A density whose cost
    the rows share, as that of a Markov chain, has no use for it.
    """
    if rows is None or procedure.substitute is not None:
        return False
    if rows < decided_rows(procedure) + 3 * PILOT_ROWS:
        return False
    shared = procedure.probe.density_work(procedure.spec, budget) > 0
    return not shared and rows * work_of_density(procedure, budget) > SLOW * WORK


def decided_rows(procedure: AnyProcedure) -> int:
    """The fewest rows of a log-density after a pilot; of token ids as few as are always made."""
    return FEWEST_ROWS if procedure.spec.kind == "categorical" else DECIDED_ROWS


def rows_that_decide(
    log_ratio: Tensor, tolerance: float, most: int, fewest: int = DECIDED_ROWS
) -> int:
    """The number of further rows at which KL is told from its tolerance and known well.

    The rows of the pilot are no part of them, so that their number does not depend on their values.

    Args:
        log_ratio: Log-ratios log p - log q at the rows of the pilot, in nats.
        tolerance: Tolerance of KL, in nats per sequence.
        most: Most rows.
        fewest: Fewest rows.
    """
    mean, deviation = float(log_ratio.mean()), float(log_ratio.std())
    if math.isinf(mean):
        return min(fewest, most)
    if not math.isfinite(deviation):
        return most
    unsure = PILOT_ERRORS * deviation / math.sqrt(len(log_ratio))
    apart = MARGIN * deviation / max(abs(mean - tolerance) - unsure, TINY)
    precise = deviation / max(PRECISION * abs(mean), PRECISION * tolerance, TINY)
    needed = max(apart, precise) ** 2
    return most if needed > most else max(math.ceil(needed), min(fewest, most))


def work_of_density(procedure: AnyProcedure, budget: Budget) -> float:
    """Multiply-adds of the log-density of a row; 0 if it is always fast."""
    target, probe, spec = procedure.target, procedure.probe, procedure.spec
    if isinstance(target, CategoricalTarget):
        # A network in the oracle's place costs what it costs, whatever the target.
        calls = probe.density_calls(spec, budget) if procedure.substitute is None else 0.0
        return calls * probe.signature.cost(target)
    each = probe.derivatives(spec, budget)
    if not each or not isinstance(target, ContinuousTarget):
        return 0.0
    return each * (target.derivative_cost + OVERHEAD) + probe.density_work(spec, budget)


def affordable_sequences(procedure: AnyProcedure, calls: int, samples: int, seconds: float) -> int:
    """The number of sequences along which so many laws of tokens fit into some seconds.

    It is at least `FEWEST_SEQUENCES` and at most the number of samples, and not measured, as for
    `affordable_rows`.

    Args:
        procedure: The procedure.
        calls: Number of calls of the network for each sequence.
        samples: Number of samples of a cell.
        seconds: Most time that they may take.
    """
    target, each = procedure.target, 0.0
    if isinstance(target, ContinuousTarget):
        each = target.derivative_cost + OVERHEAD
    elif isinstance(target, CategoricalTarget):
        each = procedure.probe.signature.cost(target)
    rows = int(seconds * WORK / (calls * each)) if each else samples
    return min(samples, max(FEWEST_SEQUENCES, rows))


def affordable_draws(procedure: AnyProcedure, budget: Budget, samples: int, seconds: float) -> int:
    """The number of draws that a run makes in some seconds, at most `samples`.

    As for `affordable_rows` it is computed and not measured.

    Args:
        procedure: The procedure.
        budget: Largest length and number of steps.
        samples: Number of samples of a cell.
        seconds: Most time that the run of a cell may take.
    """
    target, probe = procedure.target, procedure.probe
    if procedure.substitute is not None:
        return samples
    if isinstance(target, CategoricalTarget):
        work = probe.conditional_calls(procedure.spec, budget) * probe.signature.cost(target)
    else:
        work = target.own_order_cost(budget.length) if probe.own_orders else 0.0
    return min(samples, int(seconds * WORK / work)) if work else samples
