"""What is found about a sampler."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from capcheck.core.record import Record
from capcheck.results.measurement import Outcome

__all__ = ["MARKS", "Cell", "Finding", "FindingKind", "Interval", "SamplerResult"]

MARKS = {outcome.value: outcome.mark for outcome in Outcome} | {"raises": "!"}
"""The mark of each outcome of a cell."""

Interval = tuple[float | None, float | None, float | None]
"""A value with the lower and the upper end of its interval; None where it is unavailable."""

FindingKind = Literal[
    "raises",
    "fewer_steps",
    "repeated_level",
    "leftover_noise",
    "prior_mismatch",
    "biased_rule",
    "worse_with_more_steps",
    "no_convergence",
    "ignores_generator",
]
"""The kinds of findings.

- `raises`: the code raised an exception, or returned numbers that are not finite;
- `fewer_steps`: it asked its network at fewer levels than steps were asked for;
- `repeated_level`: a rule of one call per step asked at the same level twice in a row;
- `leftover_noise`: where the data are a single point, the samples scatter;
- `prior_mismatch`: the noise that it starts from is not the law that the network was trained on at
  the first level;
- `biased_rule`: where the data are a single point, the samples miss it; or the error on a target
  stays the same however many steps there are;
- `worse_with_more_steps`: more steps made a sufficient number of steps insufficient;
- `no_convergence`: the largest numbers of steps do not suffice, and the error grows;
- `ignores_generator`: it draws random numbers without the generator that it was given.
"""


class Finding(Record):
    """A defect or a trap.

    Attributes:
        kind: See `FindingKind`.
        sentence: What was seen, in one sentence.
        steps: Numbers of steps at which it was seen.
        target: Target on which it was seen, or None if no target is needed.
        confirmed: Whether it was seen again with another seed, and on another data point or target;
            None where it was not looked for again.
        evidence: The numbers behind the sentence, by name.
    """

    kind: FindingKind
    sentence: str
    steps: tuple[int, ...]
    target: str | None = None
    confirmed: bool | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)


class Cell(Record):
    """The law of the samples beside a target, at a number of steps.

    Attributes:
        target: Name of the target.
        steps: Number of steps.
        calls: Calls of the network, or None if the code raised.
        outcome: Verdict, or `raises`.
        reason: The verdict's reason, or the exception, in one sentence.
        divergences: Value and interval of each divergence, in multiples of its tolerance.
        exact: Whether they follow from the exact law of the samples.
    """

    target: str
    steps: int
    calls: float | None
    outcome: str
    reason: str
    divergences: dict[str, Interval] = Field(default_factory=dict)
    exact: bool = False

    @property
    def error(self) -> float | None:
        """The largest of the divergences, in multiples of its tolerance."""
        return max((v for v, _, _ in self.divergences.values() if v is not None), default=None)


class SamplerResult(Record):
    """The result of `capcheck.check_sampler`.

    Attributes:
        name: Name of the sampler.
        config: Its settings, as far as they were given.
        versions: Versions of capcheck, torch and the sampler's packages.
        findings: What was found, the structural findings first.
        cells: Every target at every number of steps; empty with lint only.
        seed: Seed of all draws.
    """

    name: str
    config: dict[str, Any]
    versions: dict[str, str]
    findings: tuple[Finding, ...]
    cells: tuple[Cell, ...]
    seed: int

    @property
    def silent(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def conclusion(self) -> str:
        """The last line of a check that found nothing: what that says, and what it leaves open."""
        if not self.cells:
            return "nothing was found"
        most = max(cell.steps for cell in self.cells)
        far = [
            cell.target
            for cell in self.cells
            if cell.steps == most and cell.outcome == Outcome.NOT_REPRESENTABLE.value
        ]
        if not far:
            return "nothing was found"
        *others, final = dict.fromkeys(far)
        where = f"{', '.join(others)} and {final}" if others else final
        return (
            f"nothing was found, but {most} steps are not within the tolerance of {where}: see "
            "whether the error falls as fast as your solver's order promises"
        )
