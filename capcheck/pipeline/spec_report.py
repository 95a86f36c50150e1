"""What became of the checks of a spec, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from capcheck.core.errors import InputError
from capcheck.core.record import Record
from capcheck.core.version import __version__
from capcheck.pipeline.expectations import Status
from capcheck.results.measurement import Outcome
from capcheck.results.survey import CheckResult, SurveyResult
from capcheck.samplers.findings import SamplerResult

__all__ = ["CheckReport", "FailOn", "SpecReport"]

FailOn = Literal["not_representable", "inconclusive"]


class CheckReport(Record):
    """What became of a check.

    Attributes:
        name: Name of the check.
        subject: What was checked on what, in a few words.
        status: `passed`, `failed`, `undecided`, or `error` if it could not be made.
        reasons: A sentence for each expectation, those that are not met first; or the error.
        why: Why the check matters, by the spec.
        seconds: Seconds that the measurement took.
        kept: Whether the result is that of an earlier run.
        run: Folder of the run, or None without one.
        survey: The run of a family, or None.
        sampler: The result of a sampler, or None.
    """

    name: str
    subject: str
    status: Status | Literal["error"]
    reasons: tuple[str, ...]
    why: str = ""
    seconds: float = 0.0
    kept: bool = False
    run: str | None = None
    survey: SurveyResult | None = None
    sampler: SamplerResult | None = None

    @property
    def outcome(self) -> str:
        """Verdict in words, or `-`."""
        if self.survey is None:
            return "-"
        return CheckResult.of(self.survey).outcome.value.replace("_", " ")

    @property
    def smallest(self) -> str:
        """The smallest sufficient budget in words, or `-`."""
        least = None if self.survey is None else CheckResult.of(self.survey).smallest_budget
        return "-" if least is None else str(least)


class SpecReport(Record):
    """What became of all checks of a spec.

    Attributes:
        spec: Name of the spec's file.
        version: Version of capcheck.
        checks: One report per check, in the order of the spec.
    """

    spec: str
    version: str = __version__
    checks: tuple[CheckReport, ...]

    def exit_code(self, fail_on: Sequence[FailOn]) -> int:
        """The exit code: 0 all is well, 1 a check failed, 2 one had an error, 3 one is undecided.

        Args:
            fail_on: What counts: `not_representable` for checks that failed, `inconclusive` for
                those that are undecided.
        """
        found = {check.status for check in self.checks}
        if "error" in found:
            return InputError.exit_code
        if "failed" in found and "not_representable" in fail_on:
            return Outcome.NOT_REPRESENTABLE.exit_code
        if "undecided" in found and "inconclusive" in fail_on:
            return Outcome.INCONCLUSIVE.exit_code
        return 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, with the result schema of each check in place of its stored form."""
        checks = []
        for check in self.checks:
            own = check.to_json({"survey": True, "sampler": True})
            if check.survey is not None:
                own["result"] = CheckResult.of(check.survey).to_dict()
            if check.sampler is not None:
                own["result"] = check.sampler.to_json()
            checks.append(own)
        return {"spec": self.spec, "version": self.version, "checks": checks}
