"""Targets that expose samplers, the law of the samples beside each, and what follows from it.

All targets lie in [-1, 1] but for rare draws, as most code expects, so that clipping is no defect.
On Gaussian targets the law of the samples is exact, by replay of the normal draws, wherever the
sampler is affine in them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch

from capcheck import api
from capcheck.core.errors import CapcheckError, ProbeError, UnfitError
from capcheck.judging.resolution import tolerance_in_unit
from capcheck.procedures.probe import AnyProbe
from capcheck.results.measurement import Outcome
from capcheck.results.survey import CheckResult
from capcheck.samplers.findings import Cell, Finding, FindingKind, Interval
from capcheck.targets import (
    ContinuousTarget,
    GaussianMixture,
    MarkovChain,
    Target,
    from_spec,
    from_table,
)

__all__ = [
    "FALLS",
    "GROWS",
    "OTHERS",
    "RESOLVED",
    "SCALARS",
    "TARGETS",
    "TOKEN_TARGETS",
    "WORSE",
    "cells_of",
    "judged",
    "rates",
]

FALLS = 0.25  # least order at which an error falls; that of a rule of order p is p, or 2 p in KL
GROWS = 1.25  # factor by which an error grows that has grown
RESOLVED = 1e-6  # error in tolerances above which its fall tells of the sampler, not of rounding
WORSE = 2.0  # least error, in tolerances, that is worse than a sufficient one and no near miss


def _gaussian(mean: float, deviation: float, correlation: float, tokens: int) -> GaussianMixture:
    same = torch.eye(tokens, dtype=torch.float64)
    cov = deviation**2 * ((1 - correlation) * same + correlation)
    means = torch.full((1, tokens, 1), mean, dtype=torch.float64)
    return GaussianMixture(means, cov[None])


def _modes(gap: float, deviation: float) -> GaussianMixture:
    means = torch.tensor([[-gap, -gap], [gap, gap], [gap, -gap]], dtype=torch.float64)[..., None]
    cov = deviation**2 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    return GaussianMixture(means, cov, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


SCALARS = {"off-centre": (0.5, 0.1), "wide": (0.0, 0.2), "narrow": (0.3, 0.05)}
"""Mean and deviation of the targets whose tokens are independent and alike."""

TARGETS: dict[str, Callable[[], Target]] = {
    "off-centre": lambda: _gaussian(*SCALARS["off-centre"], 0.0, 2),
    "wide": lambda: _gaussian(*SCALARS["wide"], 0.0, 2),
    "narrow": lambda: _gaussian(*SCALARS["narrow"], 0.0, 2),
    "correlated": lambda: _gaussian(-0.2, 0.15, 0.9, 4),
    "modes": lambda: _modes(0.6, 0.05),
}
"""The targets by name: all Gaussian but the last, which has three modes of unequal weight."""


TOKEN_TARGETS: dict[str, Callable[[], Target]] = {
    "independent": lambda: from_table(
        torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)[:, None, None]
        * torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)[:, None]
        * torch.tensor([0.05, 0.15, 0.8], dtype=torch.float64)
    ),
    "sticky": lambda: MarkovChain(
        [
            torch.tensor([0.7, 0.3], dtype=torch.float64),
            torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64),
        ],
        tokens=4,
    ),
    "parity": lambda: from_spec("parity:4"),
}
"""Targets of token ids: unequal independent tokens, a sticky chain, and a constraint on all."""


OTHERS: dict[str, Callable[[], Target]] = {
    "off-centre": lambda: _gaussian(-0.4, 0.12, 0.0, 3),
    "wide": lambda: _gaussian(0.1, 0.25, 0.0, 3),
    "narrow": lambda: _gaussian(-0.2, 0.06, 0.0, 3),
    "correlated": lambda: _gaussian(0.3, 0.12, 0.8, 3),
    "modes": lambda: _modes(0.5, 0.06),
    "independent": lambda: from_table(
        torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)[:, None, None]
        * torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)[:, None]
        * torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    ),
    "sticky": lambda: MarkovChain(
        [
            torch.tensor([0.4, 0.6], dtype=torch.float64),
            torch.tensor([[0.8, 0.2], [0.05, 0.95]], dtype=torch.float64),
        ],
        tokens=4,
    ),
    "parity": lambda: from_spec("parity:3"),
}
"""Beside each target another of its kind, on which what was found is looked for again."""


def cells_of(
    probe: AnyProbe,
    name: str,
    steps: Sequence[int],
    *,
    samples: int,
    seed: int,
    other: bool = False,
) -> Iterator[Cell]:
    """The law of a sampler's samples beside a target, at each number of steps.

    Args:
        probe: The probe of the sampler.
        name: Name of the target.
        steps: Numbers of steps.
        samples: Number of draws, where the law is not known exactly.
        seed: Seed of the draws.
        other: Whether to take the other target of the same kind.
    """
    target = (OTHERS if other else TARGETS | TOKEN_TARGETS)[name]()
    affine = not isinstance(target, ContinuousTarget) or target.gaussian() is not None
    check = functools.partial(api.check, probe, target, lengths=[0], samples=samples, seed=seed)
    for k in steps:
        try:
            exact = False
            if affine:
                result = check(steps=[k], divergences=["kl", "wasserstein", "mmd"])
                exact = result.cells[0].estimates["kl"].kind == "exact"
            if not exact:
                # Without the law, KL takes a classifier of the draws, and W2 of numbers many.
                few = ["wasserstein", "mmd"] if name in TOKEN_TARGETS else ["mmd"]
                result = check(steps=[k], divergences=few)
        except ProbeError as error:
            cause = error.__cause__ or error
            reason = f"{type(cause).__name__}: {cause}".split("\n")[0]
            yield Cell(target=name, steps=k, calls=None, outcome="raises", reason=reason)
        except UnfitError as error:  # ours: it would take too long, or more than can be followed
            yield Cell(target=name, steps=k, calls=None, outcome="inconclusive", reason=str(error))
        except CapcheckError as error:
            yield Cell(target=name, steps=k, calls=None, outcome="raises", reason=str(error))
        else:
            yield _cell(name, k, result, exact)


def _cell(name: str, steps: int, result: CheckResult, exact: bool) -> Cell:
    (cell,), divergences = result.cells, dict[str, Interval]()
    for divergence, tolerance in result.settings.tolerances.items():
        estimate = cell.estimates[divergence]
        unit = tolerance_in_unit(estimate, tolerance)
        value, low, high = (
            None if number is None else number / unit
            for number in (estimate.value, estimate.low, estimate.high)
        )
        divergences[divergence] = value, low, high
    return Cell(
        target=name,
        steps=steps,
        calls=cell.model_calls,
        outcome=str(cell.outcome.value),
        reason=cell.reason,
        divergences=divergences,
        exact=exact,
    )


def rates(cells: Sequence[Cell]) -> dict[str, float]:
    """The power r at which the error falls, error ~ steps^-r, by name of the target of numbers.

    It is that between the two largest numbers of steps, where both errors are exact and above
    rounding. Errors are KL, or squared distances: a solver of order p shows r = 2 p.

    Args:
        cells: Cells of any targets; those of one target in rising numbers of steps.
    """
    found = {}
    for name in TARGETS:
        of_one = [cell for cell in cells if cell.target == name]
        for before, last in itertools.pairwise(of_one[-2:]):
            a, b = before.error or 0.0, last.error or 0.0
            known = before.exact and last.exact and min(a, b) > RESOLVED and max(a, b) < math.inf
            if known and last.steps > before.steps:
                found[name] = math.log(a / b) / math.log(last.steps / before.steps)
    return found


def judged(cells: Sequence[Cell]) -> list[Finding]:
    """What follows from the cells of one target, in rising numbers of steps."""
    ran = [cell for cell in cells if cell.divergences]
    found = []
    raising = [cell for cell in cells if cell.outcome == "raises"]
    for reason in dict.fromkeys(cell.reason for cell in raising):
        steps = tuple(cell.steps for cell in raising if cell.reason == reason)
        found.append(Finding(kind="raises", sentence=reason, steps=steps, target=raising[0].target))
    enough = [cell for cell in ran if cell.outcome == Outcome.REPRESENTABLE.value]
    refused = [cell for cell in ran if cell.outcome == Outcome.NOT_REPRESENTABLE.value]
    worse = [
        cell for cell in refused if enough and cell.steps > enough[0].steps and _error(cell) > WORSE
    ]
    if worse:
        found.append(
            _of_errors(
                "worse_with_more_steps",
                f"{enough[0].steps} steps suffice, and {worse[-1].steps} do not: "
                f"{worse[-1].reason}",
                ran,
                worse,
            )
        )
    elif len(ran) > 1 and ran[-1] in refused:
        before, last = ran[-2:]
        most, least = _errors(before, last)
        if not least < most * (before.steps / last.steps) ** FALLS:
            grows = least > GROWS * most
            found.append(
                _of_errors(
                    "no_convergence" if grows else "biased_rule",
                    f"{last.steps} steps have at least {least:.3g} times the tolerance, and "
                    f"{before.steps} have at most {most:.3g} times: the error "
                    f"{'grows' if grows else 'does not fall'}",
                    ran,
                    [before, last],
                )
            )
    return found


def _of_errors(
    kind: FindingKind, sentence: str, ran: Sequence[Cell], at: Sequence[Cell]
) -> Finding:
    return Finding(
        kind=kind,
        sentence=sentence,
        steps=tuple(cell.steps for cell in at),
        target=at[0].target,
        evidence={"steps": [c.steps for c in ran], "error": [_error(c) for c in ran]},
    )


def _errors(before: Cell, last: Cell) -> tuple[float, float]:
    """The largest error before, at most, and the last one, at least, by the same divergences."""
    common = [name for name in before.divergences if name in last.divergences]
    ends = {name: (before.divergences[name][2], last.divergences[name][1]) for name in common}
    finite = [name for name, end in ends.items() if math.inf not in end]
    common = finite or common  # what is infinite twice tells nothing of a trend
    most = max((before.divergences[name][2] or 0.0 for name in common), default=0.0)
    least = max((last.divergences[name][1] or 0.0 for name in common), default=0.0)
    return max(most, 1e-300), max(least, 1e-300)


def _error(cell: Cell) -> float:
    """The largest divergence in multiples of its tolerance; its lower end if it is estimated."""
    ends = (value if cell.exact else low for value, low, _ in cell.divergences.values())
    return max((end for end in ends if end is not None), default=0.0)
