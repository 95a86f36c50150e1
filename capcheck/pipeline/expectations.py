"""Whether a result is what a spec expects: met, not met, or not decided by the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from capcheck.core.errors import InputError, near
from capcheck.judging.resolution import tolerance_in_unit
from capcheck.pipeline.spec import Expected
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell, Outcome
from capcheck.samplers.findings import SamplerResult

__all__ = ["Status", "met_by_family", "met_by_sampler", "overall"]

Status = Literal["passed", "failed", "undecided"]

RANK: dict[Status, int] = {"passed": 0, "undecided": 1, "failed": 2}


def overall(found: list[tuple[Status, str]]) -> Status:
    """The worst of several statuses."""
    return max((status for status, _ in found), key=RANK.__getitem__, default="passed")


def met_by_family(expected: Expected, found: FamilyResult) -> list[tuple[Status, str]]:
    """Every expectation of a family with its status and a sentence.

    Args:
        expected: What is expected.
        found: Result of the family, of at least one budget.

    Raises:
        InputError: A divergence is expected that was not measured, or a budget that is not in the
            grid.
    """
    return [*_outcome(expected, found), *_budget(expected, found), *_divergences(expected, found)]


def _outcome(expected: Expected, found: FamilyResult) -> Iterator[tuple[Status, str]]:
    words = found.outcome.value.replace("_", " ")
    said = f"{found.title} is {words}: {found.reason}"
    if found.outcome.value == expected.outcome:
        yield "passed", said
        return
    wanted = expected.outcome.replace("_", " ")
    open_ = found.outcome is Outcome.INCONCLUSIVE
    yield "undecided" if open_ else "failed", f"{said}; expected was {wanted}"


def _budget(expected: Expected, found: FamilyResult) -> Iterator[tuple[Status, str]]:
    """Whether a budget within the expected limits suffices."""
    limits = {"steps": expected.steps, "length": expected.length, "model calls": expected.calls}
    asked = {name: most for name, most in limits.items() if most is not None}
    if not asked:
        return
    words = " and ".join(f"at most {most} {name}" for name, most in asked.items())

    def within(cell: Cell) -> bool:
        spent = {
            "steps": cell.budget.steps,
            "length": cell.budget.length,
            "model calls": cell.model_calls,
        }
        return all(spent[name] <= most for name, most in asked.items())

    cells = [cell for cell in found.cells if within(cell)]
    if not cells:
        raise InputError(
            f"expect asks for {words}, and no budget of the grid has that; give steps and length "
            "that do."
        )
    if any(cell.outcome is Outcome.REPRESENTABLE for cell in cells):
        yield "passed", f"a budget of {words} suffices"
    elif all(cell.outcome is Outcome.NOT_REPRESENTABLE for cell in cells):
        least = found.smallest_budget
        enough = f"; {least} suffices" if least is not None else ""
        yield "failed", f"no budget of {words} suffices: {cells[-1].reason}{enough}"
    else:
        yield "undecided", f"whether a budget of {words} suffices is open: {cells[-1].reason}"


def _divergences(expected: Expected, found: FamilyResult) -> Iterator[tuple[Status, str]]:
    """Whether divergences at the largest budget are as small as expected."""
    last = found.cells[-1]
    for name, most in expected.at_most.items():
        if name not in last.estimates:
            raise InputError(
                f"expect.at_most asks for {name!r}, which is not measured; "
                f"{near(name, last.estimates)}"
            )
        estimate = last.estimates[name]
        bound = tolerance_in_unit(estimate, most)
        said = (
            f"{name} at {last.budget} is {estimate} {estimate.unit}, expected at most {bound:.3g}"
        )
        if estimate.low is None or estimate.high is None:
            yield "undecided", f"{said}: {estimate.method}"
        elif estimate.high <= bound:
            yield "passed", said
        else:
            yield "failed" if estimate.low > bound else "undecided", said


def met_by_sampler(expected: Expected, found: SamplerResult) -> list[tuple[Status, str]]:
    """Every finding about a sampler, with its status and its sentence."""
    statuses: list[tuple[Status, str]] = []
    for finding in found.findings:
        allowed = finding.kind in expected.findings
        sure = finding.confirmed is not False
        status: Status = "passed" if allowed else "failed" if sure else "undecided"
        statuses.append((status, f"{finding.kind}: {finding.sentence}"))
    return statuses or [("passed", "nothing was found")]
