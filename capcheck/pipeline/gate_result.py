"""What a gate measures, and what it says: what fails, by how much, and what would help."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

from capcheck.core.budget import Budget
from capcheck.core.pace import duration
from capcheck.core.record import Record
from capcheck.judging.resolution import available, tolerance_in_unit
from capcheck.judging.sentences import target_sentences
from capcheck.judging.verdict import smallest_sufficient, worst_divergence
from capcheck.pipeline.budgets import Asked, budget_on
from capcheck.pipeline.timed import Clock, check_in_time
from capcheck.procedures.probe import AnyProbe
from capcheck.results.measurement import Outcome
from capcheck.results.survey import CheckResult, SurveyResult
from capcheck.runs.excerpts import summary_of
from capcheck.targets.target import Target

__all__ = ["GateResult", "measure"]

FIRST_LOOK = 500  # draws of the first look
LOOKS = 3  # looks at an undecided budget
LARGER = (4, 16)  # factors of the steps that are tried where the asked ones do not suffice


class GateResult(Record):
    """The result of `capcheck.gate`.

    Attributes:
        passed: Whether training may begin.
        message: What failed, by how much, and what would help; or what passed. One or two
            sentences.
        outcome: Verdict at the budget; over the default grid if none was asked for.
        budget: The budget that was asked for, or None.
        divergence: Name of the divergence that fails, or None.
        times: By how much it fails, as a multiple of its tolerance: the lower end of its interval.
        help: What would help, a sentence each.
        law: Which law stands for the data, and how far it is from them, a sentence each.
        seconds: Seconds that the measurement took.
        kept: Whether the verdict is that of an earlier start.
        survey: The run behind the verdict, or None if the time did not suffice for any verdict.
    """

    passed: bool
    message: str
    outcome: Outcome
    budget: Budget | None
    divergence: str | None = None
    times: float | None = None
    help: tuple[str, ...] = ()
    law: tuple[str, ...]
    seconds: float
    kept: bool = False
    survey: SurveyResult | None = None

    @property
    def check(self) -> CheckResult | None:
        """The check behind the verdict, or None with `survey`."""
        return None if self.survey is None else CheckResult.of(self.survey)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return " ".join([self.message, *self.help])


def measure(
    probe: AnyProbe,
    target: Target,
    budget: Asked | None,
    clock: Clock,
    run: dict[str, Any],
) -> GateResult:
    """Measure the budget, and where it does not suffice, what would help."""
    given = len(run["given"] or ())
    asked = None if budget is None else budget_on(target, budget, given)
    # A gate without a budget asks for all tokens: it must not pass for what completes the others.
    lengths = [target.spec.tokens - given if asked is None else asked.length]
    steps = None if asked is None else [asked.steps]
    run_check = functools.partial(check_in_time, probe, target, clock, **run)
    check = run_check(lengths=lengths, steps=steps, samples=FIRST_LOOK, looks=LOOKS)
    law = tuple(target_sentences(summary_of(target, run["seed"])))
    name = target.provenance.source or target.provenance.description
    if check is None:
        return GateResult(
            passed=False,
            message=f"{probe.family} on {name}: the {duration(clock.seconds)} of seconds= did not "
            "suffice for any verdict.",
            outcome=Outcome.INCONCLUSIVE,
            budget=asked,
            help=("Give more seconds=, or fewer tokens.",),
            law=law,
            seconds=clock.passed,
        )
    found = GateResult(
        passed=check.outcome is Outcome.REPRESENTABLE,
        message=_message(check, name),
        outcome=check.outcome,
        budget=asked,
        law=law,
        seconds=clock.passed,
        survey=check.survey,
    )
    if found.passed:
        return found
    larger = None
    if asked is not None and check.cells and clock.left > 0:
        tried = [asked.steps * factor for factor in LARGER]
        free = target.spec.tokens - given
        larger = run_check(lengths=[free], steps=tried, samples=FIRST_LOOK)
    worst, times = _worst(check)
    return found.model_copy(
        update={
            "divergence": worst,
            "times": times,
            "help": tuple(_help(check, larger)),
            "seconds": clock.passed,
        }
    )


def _message(check: CheckResult, name: str) -> str:
    title = check.found.title
    words = {
        Outcome.REPRESENTABLE: "can produce",
        Outcome.NOT_REPRESENTABLE: "cannot produce",
        Outcome.INCONCLUSIVE: "is undecided on",
    }
    reason = check.reason
    if len(check.cells) == 1:
        [cell] = check.cells
        reason = f"at {cell.budget} {cell.reason}"
    worst, _ = _worst(check)
    if worst is not None:
        estimate = check.cells[-1].estimates[worst]
        bound = tolerance_in_unit(estimate, check.settings.tolerances[worst])
        reason += f"; {worst} is {estimate} {estimate.unit}, and {bound:.3g} is allowed"
        if check.outcome is Outcome.INCONCLUSIVE and len(check.settings.tolerances) > 1:
            reason += " (the verdict allows for all divergences at once, by a wider interval)"
    return f"{title} {words[check.outcome]} {name}: {reason}."


def _worst(check: CheckResult) -> tuple[str | None, float | None]:
    """The divergence that is worst at the largest budget, and its multiple of the tolerance."""
    cells = [cell for cell in check.cells if available(cell)]
    if not cells or check.outcome is Outcome.REPRESENTABLE:
        return None, None
    worst = worst_divergence(cells[-1], check.settings.tolerances)
    estimate = cells[-1].estimates[worst]
    bound = tolerance_in_unit(estimate, check.settings.tolerances[worst])
    low = estimate.interval(estimate.level)[0]
    return worst, low / bound if bound else math.inf


def _help(check: CheckResult, larger: CheckResult | None) -> Iterator[str]:
    """What would help, a sentence each."""
    if larger is not None and (enough := smallest_sufficient(larger.cells)) is not None:
        yield f"With {enough.budget} it suffices ({enough.model_calls} model calls)."
    elif larger is not None and larger.outcome is Outcome.NOT_REPRESENTABLE:
        yield f"More steps do not help: {larger.cells[-1].budget} fails as well."
    for cause in check.found.causes:
        if cause.removed:
            yield f"Cause: {cause.failure}; {cause.sentence}."
    if check.outcome is Outcome.INCONCLUSIVE:
        yield "Give more seconds=, wider tolerance=, or inconclusive='pass'."
    else:
        yield "`capcheck survey` tells which families can."
