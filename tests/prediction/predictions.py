"""What capcheck says of a run before anything is trained."""

from __future__ import annotations

from typing import Any

import capcheck
from capcheck.results.measurement import Outcome
from capcheck.results.survey import CheckResult
from prediction.run import Run
from prediction.targets import target_of

__all__ = ["SAMPLES", "predicted"]

SAMPLES = 10_000  # most draws of the target and of the procedure
NARROW = 10  # default tolerance in that of the floor: capcheck stops to draw where it can decide


def predicted(run: Run, level: float) -> dict[str, Any]:
    """The floor of a run's divergence with a two-sided interval, and capcheck's verdict.

    Args:
        run: The run.
        level: Confidence of the interval; the verdict has capcheck's own level.

    Returns:
        value, low, high, level: The divergence of the procedure with its oracle network, in `unit`.
        kind, method, draws: Of the estimate.
        tolerance: The default tolerance in the same unit.
        bandwidths: Of MMD, if the value is no exact 0.
        verdict: By KL, and by the run's divergence, at the run's budget.
    """
    result = _checked(run, None)
    tolerance = result.survey.settings.tolerances[run.divergence]
    narrow = _checked(run, {run.divergence: tolerance / NARROW})
    cell = narrow.found.cells[0]
    estimate = cell.estimates[run.divergence]
    if estimate.value is None:
        raise ValueError(f"{run.name} has no prediction: {estimate.method}")
    low, high = estimate.interval(level) if estimate.kind != "exact" else (estimate.value,) * 2
    assert isinstance(result.outcome, Outcome)
    return {
        "value": estimate.value,
        "low": low,
        "high": high,
        "level": level,
        "kind": estimate.kind,
        "draws": estimate.samples,
        "method": estimate.method,
        "unit": estimate.unit,
        "tolerance": tolerance**estimate.power * estimate.scale,
        "verdict": result.outcome.value.replace("_", " "),
        "bandwidths": [float(term.label.removeprefix("bandwidth ")) for term in estimate.terms]
        if run.divergence == "mmd"
        else [],
        "calls": cell.model_calls,
    }


def _checked(run: Run, tolerance: dict[str, float] | None) -> CheckResult:
    target = target_of(run.target)
    return capcheck.check(
        run.family,
        target,
        options=dict(run.options),
        lengths=[target.spec.tokens],
        steps=[run.steps],
        divergences=sorted({"kl", run.divergence}),  # KL may know that nothing is lost at all
        tolerance=tolerance,
        samples=SAMPLES,
        seconds_per_cell=60.0,
        device="cpu",
    )
