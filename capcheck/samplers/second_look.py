"""Looks for findings again, with another seed and other data, before they are called defects."""

from __future__ import annotations

from collections.abc import Sequence

from capcheck.procedures.probe import AnyProbe
from capcheck.samplers.battery import cells_of, judged
from capcheck.samplers.findings import Finding

__all__ = ["seen_again", "seen_beside_another_target"]


def seen_again(findings: Sequence[Finding], others: Sequence[Finding]) -> list[Finding]:
    """The findings, each confirmed if another of its kind shares a number of steps with it."""

    def confirmed(finding: Finding) -> bool:
        return any(
            other.kind == finding.kind and set(other.steps) & set(finding.steps) for other in others
        )

    return [one.model_copy(update={"confirmed": confirmed(one)}) for one in findings]


def seen_beside_another_target(
    findings: Sequence[Finding], probe: AnyProbe, name: str, *, samples: int, seed: int
) -> list[Finding]:
    """The findings of one target, looked for beside another target of the same kind.

    Args:
        findings: What was found beside the target.
        probe: The probe of the sampler.
        name: Name of the target.
        samples: Number of draws, where the law of the samples is not known exactly.
        seed: Seed of the draws, another one than that of the findings.
    """
    if not findings:
        return []
    steps = {k for finding in findings for k in finding.evidence.get("steps", finding.steps)}
    cells = cells_of(probe, name, sorted(steps), samples=samples, seed=seed, other=True)
    return seen_again(findings, judged(list(cells)))
