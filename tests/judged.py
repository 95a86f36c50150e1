"""Judged families and surveys of cells with known divergences, for tests of sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from capcheck.core.budget import Budget, Grid
from capcheck.divergences.estimate import GROUPS, Estimate, Term
from capcheck.judging.family import judge_family, unfinished_result, unsupported_result
from capcheck.procedures.rows import Row
from capcheck.procedures.trace import Traces
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Measurement
from capcheck.results.plan import FamilyEntry, FamilyPlan
from capcheck.results.settings import Settings, TargetSummary
from capcheck.results.survey import MeasuredBy, SurveyResult
from capcheck.targets.provenance import Provenance

TOKENS = 8
TOLERANCES = {"kl": 0.5}  # in the unit of the estimates below, whose scale is 1


def exact(value: float, **facts: Any) -> Estimate:
    given = {"scale": 1.0, "power": 1, **facts}
    return Estimate.exact(value, level=0.95, method="", unit="", **given)


def sampled(value: float, error: float, kind: Any = "estimate", **facts: Any) -> Estimate:
    """An estimate from so many draws that its interval is that of the normal distribution."""
    groups = (value,) * GROUPS
    term = Term(label="", value=value, standard_error=error, degrees=10**6, groups=groups)
    given: dict[str, Any] = {"samples": 100, "null_error": 0.0, **facts}
    return Estimate.of([term], level=0.95, kind=kind, method="", unit="", **given)


def between(low: float, high: float) -> Estimate:
    """Certified bounds without sampling error."""

    def term(value: float) -> Term:
        return Term(label="", value=value, standard_error=0, degrees=1, groups=(value,) * GROUPS)

    facts: dict[str, Any] = {"kind": "two bounds", "method": "", "unit": "", "samples": 9}
    return Estimate.of([], level=0.95, below=[term(low)], above=[term(high)], **facts)


def cell(calls: int, steps: int = 1, length: int = TOKENS, **estimates: Estimate) -> Measurement:
    return Measurement(
        budget=Budget(length=length, steps=steps),
        samples=100,
        model_calls=calls,
        tokens_processed=1,
        traces=Traces(),
        estimates=estimates,
    )


def settings_of(cells: Sequence[Measurement], tolerances: Mapping[str, float]) -> Settings:
    lengths = {one.budget.length for one in cells}
    grid = Grid.over(TOKENS, lengths or None, {one.budget.steps for one in cells} or None)
    return Settings(
        grid=grid,
        samples=100,
        seed=0,
        level=0.95,
        tolerances=dict(tolerances),
        device="cpu",
        dtype="float64",
    )


def family(
    *cells: Measurement,
    name: str = "f",
    row: Row = "steps",
    tolerances: Mapping[str, float] = TOLERANCES,
    **facts: Any,
) -> FamilyResult:
    """The judged result of a family with these cells, and with other facts if any are given."""
    entry = FamilyEntry(plan=FamilyPlan(family=name, options={}), row=row, in_paper=True)
    found = judge_family(entry, cells, settings_of(cells, tolerances))
    return found.model_copy(update=facts)


def unfinished(*cells: Measurement, of: int, name: str = "f") -> FamilyResult:
    """The result of a family with these cells of a grid of `of` numbers of steps."""
    entry = FamilyEntry(plan=FamilyPlan(family=name, options={}), row="steps", in_paper=True)
    grid = [cell(1, steps) for steps in range(1, of + 1)]
    return unfinished_result(entry, cells, settings_of(grid, TOLERANCES))


def unsupported(name: str, reason: str) -> FamilyResult:
    """The result of a family that is not defined for the target."""
    entry = FamilyEntry(plan=FamilyPlan(family=name, options={}), row="steps", in_paper=True)
    return unsupported_result(entry, reason)


def survey_of(
    *families: FamilyResult,
    target: str = "latents.npy",
    tolerances: Mapping[str, float] = TOLERANCES,
) -> SurveyResult:
    """A survey with these results, of a target with this name."""
    cells = [one for found in families for one in found.cells]
    return SurveyResult(
        measured_by=MeasuredBy(version="0", code="", families={}),
        judged_by="0",
        environment={},
        target=TargetSummary(
            fingerprint="",
            tokens=TOKENS,
            dim=1,
            kind="continuous",
            grid=None,
            spread=1.0,
            provenance=Provenance(description="a law", source=target),
        ),
        settings=settings_of(cells, tolerances),
        families=families,
    )
